"""What ``leworld cluster`` prints for people."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

from cluster.cli.tables import print_table
from cluster.machines.dashboard import Node
from cluster.machines.wait_for_nodes import resources

GIB = 1 << 30
ALIKE, PARTS = 3, 4
"""Of nodes alike in a row, and of parts of a node, only so many are shown."""


def teller() -> Callable[[str], None]:
    """Prints steps with the seconds since the first, to standard error."""
    start = time.monotonic()
    return lambda step: print(f"{time.monotonic() - start:6.1f} s  {step}", file=sys.stderr, flush=True)


def show_status(outcome: dict[str, Any]) -> None:
    """A line a node, then a line for all that is wrong."""
    print(f"cluster {outcome['name']}: {len(outcome['nodes'])} of {outcome['expected']} nodes")
    rows = []
    for row in outcome["nodes"]:
        node = Node(row["address"], row["is_head"], row["resources"], row["labels"])
        labels = ", ".join(f"{name}={value}" for name, value in node.labels.items())
        ray, python, leworld = (row[name] or "-" for name in ("ray", "python", "leworld"))
        role = "head" if node.is_head else "worker"
        rows.append((node.address, role, resources(node), ray, python, leworld, labels))
    print_table(rows, ("node", "", "resources", "ray", "python", "leworld", "labels"))
    for line in outcome["problems"]:
        print(line)


def show_figures(outcome: dict[str, Any]) -> None:
    """The nodes, and what runs there says of itself."""
    show_status(outcome)
    for run in outcome["runs"]:
        print(_run_line(run))
        if run["slm_use"]:
            print("  trusted: " + ", ".join(f"SLM {slm} {ratio:.0%}" for slm, ratio in run["slm_use"].items()))
    if actors := outcome["slm_actors"]:
        waiting, taken = max(row["waiting"] for row in actors), [row["answer_ms"] or 0 for row in actors]
        print(
            f"SLM actors: {len(actors)}; at most {waiting} questions wait; the slowest answers in {max(taken):.1f} ms"
        )
    for memory in outcome["memories"]:
        print(
            f"memory {memory['memory']}: {memory['shards']} shards, {memory['copies']} copies, the last of them "
            f"{memory['behind']:,} writes behind; {memory['waiting_bytes']:,} bytes wait for disks"
        )
    if outcome["silent"]:
        print(f"no figures of {', '.join(outcome['silent'])}, which did not answer")


def _run_line(run: dict[str, Any]) -> str:
    parts = ", ".join(f"{part} {value:.1f}" for part, value in run["parts_ms"].items())
    restarts = f", {run['restarts']} restarts" if run["restarts"] else ""
    return (
        f"run {run['run']}: {run['phase']}, {run['steps']:,} steps of {run['step_ms']:.1f} ms ({parts}), loss "
        f"{run['loss']:.4g}, {run['reads_per_s']:,.0f} reads/s, {run['read_bytes_per_s']:,.0f} bytes/s{restarts}"
    )


def show_plan(outcome: dict[str, Any]) -> None:
    """A line a node; of nodes alike only the first few; then what is missing, and what may be wanted."""
    rows, like_before, before = [], 0, None
    for node in outcome["nodes"]:
        kind = (node["cpus"], node["memory_bytes"], node["role"], bool(node["parts"]))
        like_before = like_before + 1 if kind == before else 0
        before = kind
        if like_before < ALIKE:
            rows.append(_plan_row(node))
    print_table(rows, ("node", "role", "CPUs", "memory", "parts"))
    if len(outcome["nodes"]) > len(rows):
        print(f"and {len(outcome['nodes']) - len(rows)} more nodes like these; all of them: --json")
    for line in outcome["problems"]:
        print(f"cannot run: {line}")
    for line in outcome["notes"]:
        print(f"note: {line}")


def _plan_row(node: dict[str, Any]) -> tuple[str, ...]:
    granted = sum(part["cpus"] for part in node["parts"])
    memory = f"{node['used_bytes'] / GIB:.1f}" + (
        f" of {node['memory_bytes'] / GIB:.1f}" if node["memory_bytes"] else ""
    )
    names = [part["name"] for part in node["parts"]]
    more = f", and {len(names) - PARTS} more" if len(names) > PARTS else ""
    parts = (", ".join(names[:PARTS]) + more) or "-"
    return node["name"], node["role"] or "-", f"{granted:g} of {node['cpus']:g}", f"{memory} GiB", parts


def show_down(outcome: dict[str, Any]) -> None:
    """What still runs."""
    if outcome["left"]:
        print(f"cluster {outcome['name']}: could not stop {', '.join(outcome['left'])}; run the same command again")
    else:
        print(f"cluster {outcome['name']} is down")
