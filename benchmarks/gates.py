"""Trains presets one after another with ``leworld train --json`` and prints their gates as one markdown table.

    python benchmarks/gates.py                            # pendulum, rules, pointers, seed
    python benchmarks/gates.py rules --set seed=1
    python benchmarks/gates.py --read runs/rules-20260101-120000   # no training: a run that is there

A figure that a world has no truth for is a dash.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

PRESETS = ("pendulum", "rules", "pointers", "seed")
WITH_MEMORY = ("knn",)
"""Baselines that search the same memory; all others are without one."""

Outcome = dict[str, Any]


def train(preset: str, changes: Sequence[str], out: str) -> Outcome:
    """Train and evaluate a preset in a process of its own; its progress goes to the terminal."""
    command = [sys.executable, "-m", "cluster", "train", "--config", preset, "--json", "--out", out]
    for change in changes:
        command += ["--set", change]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"gates: training {preset} ended with exit code {done.returncode}; see the line above")
    return {"name": preset, **json.loads(done.stdout)}


def read(run: str) -> Outcome:
    """A run that was trained before, as ``train`` would give it."""
    path = Path(run).resolve()
    parts = {name: json.loads((path / f"{name}.json").read_text(encoding="utf-8")) for name in ("gate", "timing")}
    return {"name": path.name, "run": str(path), **parts}


def best_without_memory(gate: Outcome) -> tuple[str, float]:
    """The strongest baseline that has no memory to look in."""
    found = {name: mse for name, mse in gate["baselines"].items() if name not in WITH_MEMORY}
    name = min(found, key=found.__getitem__)
    return name, found[name]


def ratio(gate: Outcome, other: float | None) -> str:
    """Our error over another."""
    return f"{gate['leworld'] / other:.2f}" if other else "-"


def number(value: float | None) -> str:
    """Three digits, or a dash."""
    return "-" if value is None else f"{value:.3g}"


def gain(gate: Outcome) -> str:
    """Error that requests save, with its paired 95 % interval, in the units of the MSE."""
    return "{mean:+.3g} [{low:+.3g}, {high:+.3g}]".format(**gate["info_gain"])


def without_memory(gate: Outcome) -> str:
    """Ratio to the strongest baseline without memory, and which one that is."""
    name, mse = best_without_memory(gate)
    return f"{ratio(gate, mse)} ({name.replace('_', ' ')})"


def minutes(outcome: Outcome) -> str:
    """Training and evaluation, without the start."""
    timing = outcome["timing"]
    seconds = sum(phase["seconds"] for phase in timing.get("phases", {}).values()) + timing.get("evaluate_s", 0.0)
    return f"{seconds / 60:.1f}"


COLUMNS: dict[str, Callable[[Outcome], str]] = {
    "run": lambda o: o["name"],
    "MSE": lambda o: number(o["gate"]["leworld"]),
    "to floor": lambda o: ratio(o["gate"], o["gate"]["floor"]),
    "to oracle": lambda o: ratio(o["gate"], o["gate"]["oracle"]),
    "to the best without memory": lambda o: without_memory(o["gate"]),
    "to exact kNN": lambda o: ratio(o["gate"], o["gate"]["baselines"].get("knn")),
    "to its own with memory zeroed": lambda o: ratio(o["gate"], o["gate"]["controls"]["zeroed"]),
    "to right addresses": lambda o: ratio(o["gate"], o["gate"]["oracle_addresses"]),
    "hit 1": lambda o: number(o["gate"]["hit_top1"]),
    "hit 4": lambda o: number(o["gate"]["hit_top4"]),
    "hit asked": lambda o: number(o["gate"]["hit_asked"]),
    "mask": lambda o: number(o["gate"]["exact_mask"]),
    "reads": lambda o: number(o["gate"]["reads_per_prediction"]),
    "gain of requests": lambda o: gain(o["gate"]),
    "beaten by": lambda o: ", ".join(o["gate"]["beaten_by"]).replace("_", " ") or "none",
    "minutes": minutes,
}


def markdown(outcomes: Sequence[Outcome]) -> str:
    """One column a run: there are more figures than runs."""
    lines = [[name, *(column(outcome) for outcome in outcomes)] for name, column in COLUMNS.items()]
    head, *body = ["| " + " | ".join(line) + " |" for line in lines]
    return "\n".join([head, "|---|" + "---:|" * len(outcomes), *body])


def main(arguments: Sequence[str] | None = None) -> int:
    """Train or read, and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("presets", nargs="*", help=f"presets to train; by default {', '.join(PRESETS)}")
    parser.add_argument("--set", dest="changes", action="append", default=[], help="change a setting, as in leworld")
    parser.add_argument("--out", default="runs", help="where the runs' directories are made")
    parser.add_argument("--read", nargs="+", metavar="RUN", help="print the gates of these runs, train nothing")
    args = parser.parse_args(arguments)
    if args.read:
        print(markdown([read(run) for run in args.read]))
        return 0
    outcomes = []
    for preset in args.presets or PRESETS:
        outcomes.append(train(preset, args.changes, args.out))
        # After each preset, for the next one may take long or fail.
        print(f"\n{markdown(outcomes)}\n", flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
