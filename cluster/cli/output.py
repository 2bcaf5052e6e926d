"""What the commands print for people."""

from __future__ import annotations

from typing import Any

from rich.console import Console

from cluster.cli.tables import print_table
from leworld.evaluation.gate import rows, verdict

Outcome = dict[str, Any]


def progress_console() -> Console:
    """Progress goes to standard error, so that standard output is the result alone."""
    return Console(stderr=True)


def summary(outcome: Outcome) -> None:
    """Print the verdict, the table, and where the report is."""
    gate = outcome["gate"]
    color = "bold red" if gate["beaten_by"] else "bold green"
    Console().print(verdict(gate), style=color, highlight=False, soft_wrap=True)
    found = rows(gate)
    cells = [(kind, name.replace("_", " "), f"{mse:.4g}") for kind, name, mse in found]
    styles = ["bold" if kind == "ours" else "" for kind, _, _ in found]
    print_table(cells, ("kind", "name", "MSE"), right=(2,), styles=styles)
    phases = outcome["timing"].get("phases", {})
    print("  ".join(f"{name} {entry['seconds']:.1f} s" for name, entry in phases.items()))
    print(f"report: {outcome['run']}/report.html")


def description(outcome: Outcome) -> None:
    """Print parameters, world and processes."""
    parameters = outcome["parameters"]
    numbers = {
        "codec": parameters["codec"],
        f"each of {parameters['num_slms']} SLMs": parameters["each_slm"],
        "BLM, without the codec": parameters["blm"],
        "total": parameters["total"],
    }
    cells = [(label, f"{number:,}") for label, number in numbers.items()]
    print_table(cells, ("part", "number"), right=(1,), title=f"{outcome['name']}: parameters")
    world = {name: value for name, value in outcome["world"].items() if name != "scale"}
    print(f"world {world.pop('name')}: " + ", ".join(f"{k} {v}" for k, v in world.items()))
    topology = outcome["topology"]
    hosts = " | ".join(",".join(map(str, ids)) for ids in topology["slm_ids"])
    where = (
        f"{len(topology['shard_ids'])} memory shards, SLMs by actor {hosts}, learner on {topology['learner_cpus']} CPU"
    )
    print("in one process" if topology["mode"] == "inline" else where)


def served(outcome: Outcome) -> None:
    """What is served, and where."""
    print(f"serving {outcome['checkpoint']} at {' '.join(dict.fromkeys(outcome['urls']))}; Ctrl-C ends it", flush=True)


def exported(outcome: Outcome) -> None:
    """What was exported, and how it is loaded."""
    print(f"exported {outcome['checkpoint']} to {outcome['folder']} ({outcome['bytes'] / 1e6:.1f} MB)")
    print(f'in Python: leworld.load("{outcome["folder"]}")')


def world_list(outcome: list[Outcome]) -> None:
    """Print a line for each world."""
    print_table([(world["name"], world["about"]) for world in outcome])


def slm_list(outcome: Outcome) -> None:
    """Print a line for each SLM of a run."""
    print(f"run {outcome['run']}")
    states = [(f"SLM {row['slm']}", "there" if row["is_there"] else "-", row["state"]) for row in outcome["slms"]]
    print_table(states)
