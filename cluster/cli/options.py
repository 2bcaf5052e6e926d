"""Options that commands share, and how they give out their results."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

Config = Annotated[str, typer.Option("--config", "-c", help="A preset's name, or the path of a YAML file.")]
Changes = Annotated[
    list[str] | None, typer.Option("--set", "-s", help="Change a setting: phases.joint.steps=100. May come many times.")
]
Run = Annotated[Path, typer.Argument(help="A run's directory, such as runs/latest.", show_default=False)]
Checkpoint = Annotated[
    Path | None, typer.Option(help="A checkpoint's path, or its name in the run. By default the newest.")
]
Seed = Annotated[int | None, typer.Option(help="Seed of everything random. By default the config's.")]
Address = Annotated[
    str | None,
    typer.Option(help="host:port of a Ray cluster, or auto for this machine's, to join. By default one is started."),
]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON, and nothing else, to standard output.")]


def print_outcome(outcome: Any, as_json: bool, show: Callable[[Any], None]) -> None:
    """Print a result for machines, or for people."""
    if as_json:
        from cluster.json_files import to_json

        print(to_json(outcome, indent=2), flush=True)
    else:
        show(outcome)
