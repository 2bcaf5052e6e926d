"""Command line of ``leworld bench``; what is heavy is imported by the commands that need it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cluster.cli.options import Changes, Config, Json, Run, Seed, print_outcome

if TYPE_CHECKING:
    from cluster.bench.claims import Study

bench = typer.Typer(name="bench", help="Measure every claim again.", no_args_is_help=True)

DEFAULT_OUT, QUICK_OUT = Path("bench/learning"), Path("bench/quick")


@bench.command()
def learning(
    seeds: Annotated[
        str | None, typer.Option(help="How many seeds, or which: 3 is 0,1,2. By default 5; quick 1, and 3 to record.")
    ] = None,
    only: Annotated[
        list[str] | None, typer.Option(help="Run only the study of this name. May come many times.", show_default=False)
    ] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Processes at once, of one thread each.")] = 1,
    out: Annotated[
        Path | None, typer.Option(help="Where everything is kept. By default bench/learning, or bench/quick.")
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Small studies, compared with what was recorded: exit code 1 if worse.")
    ] = False,
    record: Annotated[bool, typer.Option("--record", help="With --quick: record what to expect from now on.")] = False,
    list_only: Annotated[bool, typer.Option("--list", help="Show the studies with their goals; run nothing.")] = False,
    as_json: Json = False,
) -> None:
    """Train and measure all that is claimed of learning, over seeds, and make its table and pictures.

    What is finished is kept and not run again unless its config changed, so after Ctrl-C the same command goes on; the
    quick studies always run again.
    A study that fails is named, and the exit code is 1; a goal that is missed is a result, and stands in the table.
    """
    from cluster.bench.output import claim_list
    from cluster.bench.studies import QUICK, STUDIES, chosen

    if record and not quick:
        raise typer.BadParameter("only the quick studies are recorded: add --quick", param_hint="--record")
    studies = QUICK if quick else STUDIES
    named = chosen(studies, only or [])
    if list_only:
        print_outcome(studies_as_data(named), as_json, claim_list)
    else:
        numbers = parse_seeds(("5" if not quick else "3" if record else "1") if seeds is None else seeds)
        if record and only:
            raise typer.BadParameter("all quick studies are recorded together: leave out --only", param_hint="--record")
        if record and len(numbers) < 2:
            raise typer.BadParameter(
                "one seed says nothing of the next: give 2 or more to record", param_hint="--seeds"
            )
        where = out or (QUICK_OUT if quick else DEFAULT_OUT)
        _learning(studies, tuple(only or ()), numbers, where, jobs, quick, record, as_json)


@bench.command()
def capacity(config: Config = "rules", changes: Changes = None, seed: Seed = None, as_json: Json = False) -> None:
    """Train SLMs alike for memories of 2^16, 2^24 and 2^32 words; compare hit rates and the cost of a lookup."""
    from cluster.bench.capacity import run_capacity
    from cluster.bench.output import capacity_table
    from cluster.cli.output import progress_console
    from cluster.config.presets import load_config

    settings = [*(changes or []), *([] if seed is None else [f"seed={seed}"])]
    print_outcome(run_capacity(load_config(config, settings), progress_console()), as_json, capacity_table)


@bench.command()
def measure(
    name: Annotated[str, typer.Argument(help="What to measure, such as corruption.", show_default=False)],
    run: Run,
    as_json: Json = False,
) -> None:
    """Measure something of a run that is not in its gate."""
    from cluster.bench.measure import measure_run
    from cluster.bench.output import print_tree
    from cluster.cli.output import progress_console

    print_outcome(measure_run(name, run, progress_console()), as_json, print_tree)


def parse_seeds(text: str) -> tuple[int, ...]:
    """``3`` to 0, 1, 2; ``4,7`` or ``4,`` to those.

    Raises:
        typer.BadParameter: it is neither.
    """
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not parts or not all(part.isascii() and part.isdigit() for part in parts):
        raise typer.BadParameter(
            f"{text!r} is neither a number of seeds nor a list such as 0,1,2", param_hint="--seeds"
        )
    numbers = tuple(dict.fromkeys(int(part) for part in parts))
    if "," in text:
        return numbers
    if numbers[0] < 1:
        raise typer.BadParameter("0 seeds measure nothing: give 1 or more, or 0, for seed 0", param_hint="--seeds")
    return tuple(range(numbers[0]))


def studies_as_data(studies: tuple[Study, ...]) -> list[dict[str, Any]]:
    """The studies as plain values."""
    return [
        {
            "study": study.name,
            "preset": study.preset,
            "changes": list(study.changes),
            "steps": list(study.steps),
            "claims": [{"figure": claim.figure, "goal": str(claim.goal)} for claim in study.claims],
        }
        for study in studies
    ]


def _learning(
    studies: tuple[Study, ...],
    only: tuple[str, ...],
    seeds: tuple[int, ...],
    out: Path,
    jobs: int,
    quick: bool,
    record: bool,
    as_json: bool,
) -> None:
    from cluster.bench.expected import read_expected, record_expected, regressions, with_expected
    from cluster.bench.learning import run_learning
    from cluster.bench.output import findings_table
    from cluster.cli.output import progress_console

    expected = read_expected() if quick and not record else {}
    compared = with_expected(studies, expected) if expected else studies
    findings = run_learning(compared, seeds, out, jobs, progress_console(), only=only, fresh=quick)
    if record and not findings.failed:
        record_expected(findings.rows)
    print_outcome({**findings.to_dict(seeds), "out": str(out)}, as_json, findings_table)
    complaints = [*findings.failed, *(regressions(findings.rows, expected) if expected else [])]
    for line in complaints:
        typer.echo(f"leworld: {line}", err=True)
    if complaints:
        raise typer.Exit(1)
