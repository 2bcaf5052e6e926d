"""Commands of ``leworld memory`` that are about a cluster's memories."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cluster.cli.lazy import LazyModule
from cluster.cli.options import Json
from cluster.memory.cli import Policy, give, memory

if TYPE_CHECKING:
    from cluster.memory import cluster_commands as commands
    from cluster.memory import output
else:
    commands, output = (LazyModule(f"cluster.memory.{name}") for name in ("cluster_commands", "output"))

Name = Annotated[str, typer.Argument(help="Of the memory, in the cluster.", show_default=False)]
Join = Annotated[
    str | None,
    typer.Option(help="host:port of the Ray cluster. By default RAY_ADDRESS, or the one that runs here."),
]


@memory.command()
def launch(
    name: Name,
    bits: Annotated[int, typer.Option(help="Of an address: 8, 16, 24 or 32; so there are 2^BITS words.")] = 32,
    shards: Annotated[int, typer.Option(min=1, help="Parts of the memory, which are read and written at once.")] = 1,
    copies: Annotated[int, typer.Option(min=1, max=7, help="Of each shard, each on a node of its own.")] = 2,
    folder: Annotated[Path, typer.Option(help="On every node: for the files.")] = Path("~/leworld-memories"),
    policy: Annotated[Policy, typer.Option(help="When a write is on each copy's disk, see serve.")] = Policy.group,
    together: Annotated[bool, typer.Option("--together", help="Copies may be on one node.")] = False,
    accept_loss: Annotated[
        bool,
        typer.Option("--accept-loss", help="After a loss of the cluster, do without a copy that may hold newer words."),
    ] = False,
    address: Join = None,
    as_json: Json = False,
) -> None:
    """Start a memory on a Ray cluster, or go on with its files.

    It runs until it is stopped, on its own; ray:NAME is the TARGET of all other commands. A write is with every copy
    before it is acknowledged; where a node is lost, another copy leads, and a new one is made on another node.
    """
    give(
        lambda: commands.launch(name, bits, shards, copies, str(folder), policy.value, together, accept_loss, address),
        as_json,
        output.cluster_status,
    )


@memory.command()
def reshard(
    name: Name,
    shards: Annotated[int, typer.Argument(min=1, help="How many there are to be.", show_default=False)],
    address: Join = None,
    as_json: Json = False,
) -> None:
    """Have a cluster's memory on more or fewer shards, while it is used.

    Only words whose shard changes move; where this is cut off, the same command ends it.
    """
    give(lambda: commands.reshard(name, shards, address), as_json, output.moved)


@memory.command()
def stop(name: Name, address: Join = None, as_json: Json = False) -> None:
    """Stop a cluster's memory.

    Its files stay on the nodes, and launch goes on with them.
    """

    def show(outcome: dict[str, Any]) -> None:
        print(f"memory {outcome['stopped']} is stopped; its files stay where they are")

    give(lambda: commands.stop(name, address), as_json, show)
