"""Command line ``leworld``: train, eval, resume, serve, export, describe, worlds, bench, memory, cluster and slm.

What is heavy is imported by the commands that need it, so that help comes at once.
"""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from cluster.bench.cli import bench
from cluster.cli.options import Address, Changes, Checkpoint, Config, Json, Run, Seed, print_outcome
from cluster.cli.slm import slm
from cluster.machines.cli import cluster
from cluster.memory.cluster_cli import memory
from cluster.messages import Interrupted, say

INTERRUPTED = 130

app = typer.Typer(
    name="leworld",
    help="A world model that looks things up in a memory of bits.",
    no_args_is_help=True,
    add_completion=False,
    # Help as plain text: rich takes longer to import than all else that help needs.
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

app.add_typer(bench)
app.add_typer(memory)
app.add_typer(cluster)
app.add_typer(slm)


@app.command()
def train(
    config: Config = "small",
    changes: Changes = None,
    seed: Seed = None,
    out: Annotated[Path | None, typer.Option(help="Where the run's directory is made. By default runs.")] = None,
    address: Address = None,
    as_json: Json = False,
) -> None:
    """Train a system, put it through the gate, and write a report.

    The run's directory holds its config, metrics, timing, checkpoints, and report.html.
    """
    from cluster.cli.output import progress_console, summary
    from cluster.run.commands import train_run

    loaded = _load(config, [*(changes or []), *_options(seed, out, address)])
    print_outcome(train_run(loaded, progress_console()), as_json, summary)


@app.command("eval")
def evaluate(
    run: Run,
    checkpoint: Checkpoint = None,
    changes: Changes = None,
    address: Address = None,
    as_json: Json = False,
) -> None:
    """Put a checkpoint of a run through the gate again, and write its report anew."""
    from cluster.cli.output import progress_console, summary
    from cluster.run.commands import evaluate_run

    settings = [*(changes or []), *_options(None, None, address)]
    print_outcome(evaluate_run(run, checkpoint, settings, progress_console()), as_json, summary)


@app.command()
def resume(
    run: Run,
    checkpoint: Checkpoint = None,
    changes: Changes = None,
    address: Address = None,
    as_json: Json = False,
) -> None:
    """Go on with a run from a checkpoint: the numbers are those of a run that was never interrupted."""
    from cluster.cli.output import progress_console, summary
    from cluster.run.commands import resume_run

    settings = [*(changes or []), *_options(None, None, address)]
    print_outcome(resume_run(run, checkpoint, settings, progress_console()), as_json, summary)


@app.command()
def serve(
    run: Run,
    checkpoint: Checkpoint = None,
    host: Annotated[str, typer.Option(help="Address to answer at; 0.0.0.0 is all of a machine's.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="There; 0 takes a free one.")] = 8800,
    gateways: Annotated[int, typer.Option(min=1, help="Processes that answer, on the nodes of their role.")] = 1,
    tokens: Annotated[
        Path | None,
        typer.Option(help="File of those who may ask: lines of a token and a name. By default anyone here."),
    ] = None,
    changes: Changes = None,
    address: Address = None,
    as_json: Json = False,
) -> None:
    """Answer over HTTP what a run's system predicts, and read and write its memory, until Ctrl-C.

    What is written is known to the next prediction, and kept only as long as this runs. See docs/serving.md.
    """
    from cluster.cli.output import progress_console, served
    from cluster.run.serve import ServeOptions, serve_run

    settings = [*(changes or []), *_options(None, None, address)]
    options = ServeOptions(host, port, gateways, tokens)
    serve_run(run, checkpoint, settings, options, progress_console(), lambda what: print_outcome(what, as_json, served))


@app.command()
def export(
    run: Run,
    folder: Annotated[Path, typer.Argument(help="A new folder, or an empty one.", show_default=False)],
    checkpoint: Checkpoint = None,
    as_json: Json = False,
) -> None:
    """Write a run's model to a folder that Python reads without Ray: leworld.load(FOLDER). See docs/python.md."""
    from cluster.cli.output import exported
    from cluster.run.export import export_run

    print_outcome(export_run(run, folder, checkpoint), as_json, exported)


@app.command()
def describe(config: Config = "small", changes: Changes = None, as_json: Json = False) -> None:
    """Show what a config makes: parameters, world, and processes."""
    from cluster.cli.output import description
    from cluster.run.commands import describe as describe_config

    print_outcome(describe_config(_load(config, changes or [])), as_json, description)


@app.command()
def worlds(as_json: Json = False) -> None:
    """List the worlds."""
    from cluster.cli.output import world_list
    from cluster.run.commands import list_worlds

    print_outcome(list_worlds(), as_json, world_list)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Returns:
        the exit code: 0, 2 for an error that is the user's to mend, 130 after Ctrl-C.
    """
    from leworld.errors import LeWorldError

    # A finally clause runs for an exception, but not for a signal: actors would be left behind.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        code = app(args=arguments, prog_name="leworld", standalone_mode=False) or 0
        # Before a run has begun there is nothing to go on with.
        return _complain("interrupted before the run began", code) if code == INTERRUPTED else code
    except LeWorldError as error:
        return _complain(str(error), 2)
    except Interrupted as error:
        return _complain(str(error), INTERRUPTED)
    except Exception as error:
        if hasattr(error, "format_message"):
            return _complain(f"{error.format_message().rstrip('.')}; see 'leworld --help'", 2)  # pyright: ignore
        raise


def _load(name_or_path: str, changes: Sequence[str]) -> Any:
    from cluster.config.presets import load_config

    return load_config(name_or_path, changes)


def _options(seed: int | None, out: Path | None, address: str | None) -> list[str]:
    """Options are short for settings."""
    settings = {"seed": seed, "output.dir": None if out is None else str(out), "cluster.address": address}
    return [f"{name}={json.dumps(value)}" for name, value in settings.items() if value is not None]


def _complain(message: str, code: int) -> int:
    say(message)
    return code
