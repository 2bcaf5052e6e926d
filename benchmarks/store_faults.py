"""Faults of the store: processes killed, disks full, bits flipped, files of nonsense; what was lost of all that.

python benchmarks/store_faults.py --kills 1000
python benchmarks/store_faults.py --only flips --only fuzz --seed 3 --out faults.json
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from store_faults.counts import Counts, table
from store_faults.flips import flip_bits
from store_faults.full_disk import fill_disks
from store_faults.fuzz import fuzz
from store_faults.journal_end import damage_the_end
from store_faults.kills import kill_at_every_step, kill_writers

KINDS: dict[str, Callable[[Path, argparse.Namespace], list[Counts]]] = {
    "kills": lambda at, args: kill_writers(at, args.kills, args.seed),
    "steps": lambda at, args: kill_at_every_step(at, args.seed, args.every),
    "end": lambda at, args: damage_the_end(at, args.every),
    "full": lambda at, args: fill_disks(at, args.rounds, args.seed),
    "flips": lambda at, args: flip_bits(at, args.flips, args.seed),
    "fuzz": lambda at, args: fuzz(at, args.fuzz, args.fuzz // 10, args.seed),
}


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kills", type=int, default=200, help="writers killed at random moments")
    parser.add_argument(
        "--every", type=int, default=1, help="of the steps and bytes at which faults are put, take each n-th"
    )
    parser.add_argument("--rounds", type=int, default=60, help="times that a disk is filled")
    parser.add_argument("--flips", type=int, default=150, help="bits flipped in each file")
    parser.add_argument(
        "--fuzz", type=int, default=100_000, help="records decoded; a tenth as many memories are opened"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", action="append", choices=list(KINDS), help="this kind; may come many times")
    parser.add_argument("--dir", type=Path, help="for what is written; default: a temporary directory")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the table as JSON, too")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Inject all faults; 1 where one of them was not met as it should be."""
    args, rows, seconds = parse(arguments), [], {}
    for kind in args.only or KINDS:
        begin = time.monotonic()
        with tempfile.TemporaryDirectory(dir=args.dir, prefix="store-faults-") as directory:
            rows.extend(KINDS[kind](Path(directory), args))
        seconds[kind] = round(time.monotonic() - begin, 1)
        print(f"{kind}: {seconds[kind]} s", file=sys.stderr)
    print(table(rows))
    if args.out is not None:
        found = {"seed": args.seed, "seconds": seconds, "rows": [asdict(row) for row in rows]}
        args.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return int(any(row.failed for row in rows))


if __name__ == "__main__":
    sys.exit(main())
