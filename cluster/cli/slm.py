"""Commands of ``leworld slm``: list, add and remove."""

from __future__ import annotations

from typing import Annotated

import typer

from cluster.cli.options import Json, Run, print_outcome

slm = typer.Typer(name="slm", help="See, add and remove SLMs of a run while it goes on.", no_args_is_help=True)


@slm.command("list")
def list_slms(run: Run, as_json: Json = False) -> None:
    """Show the SLMs of a run: which there are, which joined or left after which step, and which are going to."""
    from cluster.cli.output import slm_list
    from cluster.run.membership_commands import list_of

    print_outcome(list_of(run), as_json, slm_list)


@slm.command()
def add(
    run: Run,
    count: Annotated[int, typer.Option(min=1, help="How many.")] = 1,
    as_json: Json = False,
) -> None:
    """Have SLMs join a run after the step that is under way, each in a process of its own; nothing restarts.

    An SLM is pre-trained as far as the others before it joins. SLM n has the memory's table n modulo their number.
    """
    from cluster.cli.output import slm_list
    from cluster.run.membership_commands import ask_to_add

    print_outcome(ask_to_add(run, count), as_json, slm_list)


@slm.command()
def remove(
    run: Run,
    number: Annotated[int, typer.Argument(metavar="SLM", help="Its number, as list shows it.", show_default=False)],
    as_json: Json = False,
) -> None:
    """Have an SLM leave a run after the step that is under way; nothing restarts."""
    from cluster.cli.output import slm_list
    from cluster.run.membership_commands import ask_to_remove

    print_outcome(ask_to_remove(run, number), as_json, slm_list)
