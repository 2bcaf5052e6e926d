"""What ``leworld cluster`` prints for people."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

from cluster.launch.dashboard import Node
from cluster.launch.joining import resources


def teller() -> Callable[[str], None]:
    """Prints steps with the seconds since the first, to standard error."""
    start = time.monotonic()
    return lambda step: print(f"{time.monotonic() - start:6.1f} s  {step}", file=sys.stderr, flush=True)


def show_status(outcome: dict[str, Any]) -> None:
    """A line a node, then a line for all that is wrong."""
    print(f"cluster {outcome['name']}: {len(outcome['nodes'])} of {outcome['expected']} nodes")
    rows = [("node", "", "resources", "ray", "python", "leworld", "labels")]
    for row in outcome["nodes"]:
        node = Node(row["address"], row["is_head"], row["resources"], row["labels"])
        labels = ", ".join(f"{name}={value}" for name, value in node.labels.items())
        ray, python, leworld = (row[name] or "-" for name in ("ray", "python", "leworld"))
        role = "head" if node.is_head else "worker"
        rows.append((node.address, role, resources(node), ray, python, leworld, labels))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())
    for line in outcome["problems"]:
        print(line)


def show_down(outcome: dict[str, Any]) -> None:
    """What still runs."""
    if outcome["left"]:
        print(f"cluster {outcome['name']}: could not stop {', '.join(outcome['left'])}; run the same command again")
    else:
        print(f"cluster {outcome['name']} is down")
