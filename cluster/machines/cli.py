"""Commands of ``leworld cluster``: example, plan, up, status, submit, logs, stop and down."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cluster.cli.lazy import LazyModule
from cluster.cli.options import Changes, Config, Json, print_outcome
from leworld.errors import ConfigError

if TYPE_CHECKING:
    from cluster.config import presets
    from cluster.machines import cluster_file, examples, jobs, lifecycle, output, planning
    from cluster.machines import status as states
else:
    presets = LazyModule("cluster.config.presets")
    cluster_file, examples, jobs, lifecycle, output, planning, states = (
        LazyModule(f"cluster.machines.{name}")
        for name in ("cluster_file", "examples", "jobs", "lifecycle", "output", "planning", "status")
    )

cluster = typer.Typer(name="cluster", help="Start, look at, use and stop a cluster of machines.", no_args_is_help=True)

File = Annotated[
    Path, typer.Argument(help="A YAML file for 'ray up'; 'leworld cluster example' prints some.", show_default=False)
]
Job = Annotated[str | None, typer.Option(help="Its name, leworld-... By default the newest.")]


@cluster.command()
def example(
    name: Annotated[str, typer.Argument(help="local, aws, gcp, raycluster or rayjob.", show_default=False)],
) -> None:
    """Print a file to begin with: of machines that are there, of a cloud, or of Kubernetes."""
    print(examples.example_text(name), end="")


@cluster.command()
def up(
    file: File,
    limit: Annotated[float, typer.Option(min=1, help="Seconds that the start, and then the joining, may take.")] = 600,
    restart: Annotated[bool, typer.Option("--restart", help="Even if it runs already; its jobs end.")] = False,
    as_json: Json = False,
) -> None:
    """Start a cluster and wait until every node has joined.

    All machines are looked at first: what does not fit is said before anything starts.
    """
    outcome = lifecycle.up(cluster_file.load_cluster(file), limit, restart, output.teller())
    print_outcome(outcome, as_json, output.show_status)


@cluster.command()
def status(file: File, as_json: Json = False) -> None:
    """Show every node with its resources and versions, what is wrong, and what the runs there are at.

    Steps, reads, waiting questions and writes are those that Ray's exporters showed last. Exit code 1 if something is
    wrong.
    """
    outcome = states.status(cluster_file.load_cluster(file))
    print_outcome(outcome, as_json, output.show_figures)
    raise typer.Exit(1 if outcome["problems"] else 0)


@cluster.command()
def plan(
    file: Annotated[
        Path | None,
        typer.Argument(help="The file of a cluster that is up. By default this machine.", show_default=False),
    ] = None,
    config: Config = "small",
    changes: Changes = None,
    node: Annotated[
        list[str] | None,
        typer.Option(help="A node there might be: cpus=16,memory=64G,gpus=1,role=slm,count=3. May come many times."),
    ] = None,
    gateways: Annotated[int, typer.Option(min=0, help="Of 'leworld serve', beside a training's parts.")] = 0,
    as_json: Json = False,
) -> None:
    """Show where the parts of a run would go, and what is missing; exit code 1 if something is.

    Nothing is started. The nodes are those of a cluster that is up, or as described with --node, or this machine.
    """
    loaded = presets.load_config(config, changes or [])
    if file is not None:
        if node:
            raise ConfigError("a cluster's file and --node were both given: plan for one of them")
        nodes = planning.nodes_that_run(cluster_file.load_cluster(file))
    else:
        nodes = planning.described(node) if node else planning.this_machine()
    placement = planning.plan_run(loaded, nodes, gateways)
    print_outcome(placement.outcome(), as_json, output.show_plan)
    raise typer.Exit(1 if placement.problems else 0)


@cluster.command(context_settings={"ignore_unknown_options": True})
def submit(
    file: File,
    command: Annotated[list[str], typer.Argument(help="After --, such as: -- leworld train --out /shared/runs")],
    working_dir: Annotated[Path, typer.Option(help="Is shipped, but for what .gitignore and .rayignore name.")] = Path(
        "."
    ),
    no_wait: Annotated[bool, typer.Option("--no-wait", help="Return at once; see it with logs.")] = False,
) -> None:
    """Run a command on the cluster, with this folder shipped to every node, and show its output.

    Ctrl-C stops the showing, not the job.
    """
    raise typer.Exit(jobs.submit(cluster_file.load_cluster(file), working_dir, command, not no_wait, output.teller()))


@cluster.command()
def logs(
    file: File,
    job: Job = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the job ends.")] = False,
) -> None:
    """Show what a job printed."""
    raise typer.Exit(jobs.logs(cluster_file.load_cluster(file), job, follow))


@cluster.command()
def stop(file: File, job: Job = None) -> None:
    """End a job; a run that it cuts goes on with 'leworld resume'."""
    name, state = jobs.stop(cluster_file.load_cluster(file), job)
    print(f"job {name}: {state}")


@cluster.command()
def down(file: File, as_json: Json = False) -> None:
    """Stop a cluster, its workers too; exit code 1 if a machine could not be stopped."""
    outcome = lifecycle.down(cluster_file.load_cluster(file), output.teller())
    print_outcome(outcome, as_json, output.show_down)
    raise typer.Exit(1 if outcome["left"] else 0)
