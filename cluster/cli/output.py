"""What the commands print for people."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table

from leworld.evaluation.gate import rows, verdict

Outcome = dict[str, Any]


def progress_console() -> Console:
    """Progress goes to standard error, so that standard output is the result alone."""
    return Console(stderr=True)


def summary(outcome: Outcome) -> None:
    """The verdict, the table, and where everything lies."""
    console, gate = Console(), outcome["gate"]
    console.print(verdict(gate), style="bold red" if gate["beaten_by"] else "bold green", highlight=False)
    table = Table("kind", "name", box=None, pad_edge=False)
    table.add_column("MSE", justify="right")
    for kind, name, mse in rows(gate):
        table.add_row(kind, name.replace("_", " "), f"{mse:.4g}", style="bold" if kind == "ours" else "")
    console.print(table)
    phases = outcome["timing"].get("phases", {})
    console.print("  ".join(f"{name} {entry['seconds']:.1f} s" for name, entry in phases.items()), highlight=False)
    # Paths are printed as they are: a terminal's width must not break them.
    print(f"report: {outcome['run']}/report.html")


def description(outcome: Outcome) -> None:
    """Parameters, world and processes."""
    console, parameters = Console(), outcome["parameters"]
    table = Table(title=f"{outcome['name']}: parameters", box=None, title_justify="left")
    table.add_column("part")
    table.add_column("number", justify="right")
    for label, number in (
        ("codec", parameters["codec"]),
        (f"each of {parameters['num_slms']} SLMs", parameters["each_slm"]),
        ("BLM, without the codec", parameters["blm"]),
        ("total", parameters["total"]),
    ):
        table.add_row(label, f"{number:,}")
    console.print(table)
    world = {name: value for name, value in outcome["world"].items() if name != "scale"}
    console.print(f"world {world.pop('name')}: " + ", ".join(f"{k} {v}" for k, v in world.items()), highlight=False)
    topology = outcome["topology"]
    hosts = " | ".join(",".join(map(str, ids)) for ids in topology["slm_ids"])
    where = (
        f"{len(topology['shard_ids'])} memory shards, SLMs by actor {hosts}, learner on {topology['learner_cpus']} CPU"
    )
    console.print("in one process" if topology["mode"] == "inline" else where, highlight=False)


def served(outcome: Outcome) -> None:
    """What is served, and where."""
    print(f"serving {outcome['checkpoint']} at {' '.join(dict.fromkeys(outcome['urls']))}; Ctrl-C ends it", flush=True)


def exported(outcome: Outcome) -> None:
    """What was exported, and how it is loaded."""
    print(f"exported {outcome['checkpoint']} to {outcome['folder']} ({outcome['bytes'] / 1e6:.1f} MB)")
    print(f'in Python: leworld.load("{outcome["folder"]}")')


def world_list(outcome: list[Outcome]) -> None:
    """A line a world."""
    for world in outcome:
        print(f"{world['name']:<10}{world['about']}")
