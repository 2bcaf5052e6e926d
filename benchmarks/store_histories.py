"""Histories of a memory that many read and write while processes are killed and paused and links are cut: linearizable?

python benchmarks/store_histories.py --operations 1000000 --out histories.json
python benchmarks/store_histories.py --operations 100000 --mode replicas --clients 8 --seed 3
"""

from __future__ import annotations

import argparse
import json
import mmap
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from linearizability.checker import NEVER, check
from linearizability.clients import errors_of
from linearizability.modes import MODES
from linearizability.records import UNKNOWN, Keys, history_of, load, text_of
from linearizability.stage import Stage

RATES = {"mapped": 8000.0, "server": 4000.0, "replicas": 2000.0}
STALLED_S = 30.0
"""Without an operation for so long, nothing is done to anyone any more; for twice as long, it is over."""
LAST_READ_S = 30.0
SLOTS = 64
AROUND_NS = 2_000_000_000
SILENT_S = 20.0
"""A silence of which the story is kept, though it is no fault."""
TOLD_CHARACTERS = 2000


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--operations", type=int, default=1_000_000, help="in each mode; one range of words each")
    parser.add_argument("--clients", type=int, default=6, help="processes that read and write; 4 at least")
    parser.add_argument("--keys", type=int, default=48, help="ranges of words")
    parser.add_argument("--rate", type=float, help="operations a second; the fewer, the more is done to each thousand")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--mode", action="append", choices=list(MODES), help="this mode; may come many times")
    parser.add_argument("--dir", type=Path, help="for what is written; default: a temporary directory")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the table as JSON, too")
    parser.add_argument(
        "--wrong", type=Path, metavar="DIR", default=Path("wrong-histories"), help="for histories that are not in order"
    )
    return parser.parse_args(arguments)


def play(name: str, args: argparse.Namespace, root: Path) -> dict[str, Any]:
    """Record a history in one mode, and check it; what came of it."""
    (root / "histories").mkdir()
    shared = np.frombuffer(mmap.mmap(-1, (2 + SLOTS) * 8), np.int64)
    stage = Stage(root, np.random.default_rng([args.seed, list(MODES).index(name)]))
    keys, rate = Keys.some(args.keys), args.rate or RATES[name]
    mode = MODES[name](stage, keys, args.clients, rate, args.seed, shared)
    begin = time.monotonic_ns()
    mode.begin()
    try:
        stalled = not _run(stage, mode, shared, args.operations)
        stage.rest()
        shared[0] = 1
        stage.wait_for(mode.names("client") + mode.names("writer"), 30.0)
        if not mode.read_all(LAST_READ_S):
            stalled = True
    finally:
        stage.close()
    played = time.monotonic_ns()
    rows = load(root / "histories")
    history, kept = history_of(rows)
    found = check(history)
    errors = root / "errors.txt"
    answered = np.sort(history.end[history.end < NEVER])
    silence, since = _longest(answered)
    stage.log.append((since, f"nothing was answered for {silence:.2f} s"))
    result = {
        "mode": name, "operations": len(history.key), "reads": int((~history.write).sum()),
        "writes": int(history.write.sum()), "unknown": int((history.end == NEVER).sum()),
        "told": int((rows[:, 3] == UNKNOWN).sum()),
        **{kind: stage.counts[kind] for kind in ("kills", "pauses", "cuts", "ended")},
        "violations": len(found), "stalled": stalled,
        "silence_s": round(silence, 2),
        "seconds": round((played - begin) / 1e9, 1), "check_s": round((time.monotonic_ns() - played) / 1e9, 1),
        "errors": dict(errors_of(root / "histories").most_common()),
        "tracebacks": errors.read_text(encoding="utf-8") if errors.exists() else "",
    }  # fmt: skip
    if found or stalled or result["tracebacks"] or result["ended"] or silence > SILENT_S:
        _keep(args.wrong / f"{name}-{args.seed}", result, found, rows[kept], stage, begin, keys)
    result["tracebacks"] = result["tracebacks"][:TOLD_CHARACTERS]
    return result


def _run(stage: Stage, mode: Any, shared: np.ndarray, operations: int) -> bool:
    """Have all of them work until so much is done; False where they stopped to."""
    done, last, due, told = 0, time.monotonic(), time.monotonic() + 1.0, False
    while done < operations:
        now = time.monotonic()
        stage.turn()
        if int(shared[2:].sum()) > done:
            done, last, told = int(shared[2:].sum()), now, False
        if now - last > SILENT_S and not told:
            told = True
            stage.note("", "nothing is answered; everyone is here:\n" + stage.stacks())
        if now - last > 2 * STALLED_S:
            return False
        if now >= due and now - last < STALLED_S:
            mode.disturb()
            due = time.monotonic() + float(stage.random.exponential(mode.calm_s))
        time.sleep(0.002)
    return True


def _longest(answered: np.ndarray) -> tuple[float, int]:
    """Seconds of the longest time without an answer, and the moment at which it began."""
    between = np.diff(answered)
    if not len(between):
        return 0.0, 0
    at = int(between.argmax())
    return float(between[at]) / 1e9, int(answered[at])


def _keep(
    at: Path, result: dict[str, Any], found: list, rows: np.ndarray, stage: Stage, begin: int, keys: Keys
) -> None:
    """Write down what is wrong with a history, what was done meanwhile, and the history itself."""
    shutil.rmtree(at, ignore_errors=True)
    at.mkdir(parents=True)
    np.save(at / "rows.npy", rows)
    log = [f"{(moment - begin) / 1e6:.3f} ms: {what}" for moment, what in sorted(stage.log)]
    lines = [json.dumps({k: v for k, v in result.items() if k != "tracebacks"}, indent=1), *log, result["tracebacks"]]
    for each in found[:100]:
        wrong = rows[list(each.rows)]
        known = wrong[:, 5:].copy()
        moments = known[known < NEVER]
        near = (rows[:, 1] == each.key) & (rows[:, 5] < moments.max() + AROUND_NS)
        near &= np.minimum(rows[:, 6], moments.max()) > moments.min() - AROUND_NS
        around = rows[near][np.argsort(rows[near][:, 5])]
        lines += ["", f"key {each.key}: {each.reason}", *text_of(wrong, begin, keys), "all of this key around it:"]
        lines += text_of(around[:400], begin, keys)
    (at / "story.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(f"what is wrong is in {at}", file=sys.stderr)


def table(results: Sequence[dict[str, Any]]) -> str:
    """As Markdown."""
    columns = ("mode", "operations", "reads", "writes", "unknown", "kills", "pauses", "cuts", "violations", "silence_s",
               "seconds", "check_s")  # fmt: skip
    lines = ["| " + " | ".join(columns) + " |", "|---|" + "---:|" * (len(columns) - 1)]
    lines += ["| " + " | ".join(str(result[column]) for column in columns) + " |" for result in results]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Play all modes; 1 where a history is not linearizable, or someone ended or stopped to answer for good."""
    args, results = parse(arguments), []
    for name in args.mode or MODES:
        directory = Path(tempfile.mkdtemp(dir=args.dir, prefix="store-histories-"))
        try:
            results.append(play(name, args, directory))
        finally:
            shutil.rmtree(directory)
    print(table(results))
    for result in results:
        for problem in ("stalled", "ended", "tracebacks"):
            if result[problem]:
                print(f"{result['mode']}: {problem}: {result[problem]}"[:2000])
    if args.out is not None:
        args.out.write_text(json.dumps({"seed": args.seed, "results": results}, indent=1) + "\n", encoding="utf-8")
    return int(any(r["violations"] or r["stalled"] or r["ended"] or r["tracebacks"] for r in results))


if __name__ == "__main__":
    sys.exit(main())
