"""``leworld bench learning``: run what is left of the studies, and make the table and the pictures of what is there."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from cluster.bench.claims import Study
from cluster.bench.details import details
from cluster.bench.jobs import Job, Runner, StepFailed
from cluster.bench.pictures import draw_pictures
from cluster.bench.table import ClaimRow, Outcomes, markdown, table, to_dict
from cluster.json_files import write_json, write_text
from cluster.messages import interrupted
from cluster.run.progress import make_bars

Outcome = dict[str, Any]


@dataclass(frozen=True)
class Findings:
    """The table's rows, and a line for every job that failed."""

    rows: list[ClaimRow]
    failed: list[str]

    def to_dict(self, seeds: Sequence[int]) -> Outcome:
        """What ``results.json`` keeps."""
        return {"seeds": list(seeds), "failed": self.failed, "claims": [to_dict(row) for row in self.rows]}


def run_learning(
    studies: Sequence[Study],
    seeds: Sequence[int],
    out: Path,
    num_jobs: int,
    console: Console,
    *,
    only: Sequence[str] = (),
    fresh: bool = False,
) -> Findings:
    """Run every study with every seed, but for what is there already, and write table and pictures.

    Args:
        studies: in the order of the table.
        seeds: of each.
        out: where everything is kept.
        num_jobs: processes at once, of one thread each.
        console: for progress.
        only: run the studies of these names; of the others the table has what is there. None: run all that need not be
            named.
        fresh: run again what is there.

    Raises:
        ConfigError: a preset does not take a study's changes; nothing was run then.
        Interrupted: Ctrl-C; the same command goes on, but for ``fresh``.
    """
    jobs = [Job(study, seed, out / study.name / f"seed-{seed}") for seed in seeds for study in studies]
    wanted = [job for job in jobs if (job.study.name in only if only else not job.study.by_name)]
    for job in wanted:
        job.prepare(fresh)
    failed: list[str] = []

    def found(known: Outcomes) -> Findings:
        shown = [study for study in studies if study in (job.study for job in wanted) or study.name in known]
        return Findings(table(shown, known), failed)

    def note(job: Job, error: StepFailed | None) -> None:
        if error is not None:
            failed.append(str(error))
        write_findings(found(outcomes(jobs)), seeds, out)

    run_jobs([job for job in wanted if not job.done()], num_jobs, note, console)
    known = outcomes(jobs)
    findings = found(known)
    write_findings(findings, seeds, out)
    if text := details(known):
        write_text(out / "details.md", text)
    draw_pictures(findings.rows, known, out)
    return findings


def run_jobs(
    jobs: Sequence[Job], num_jobs: int, note: Callable[[Job, StepFailed | None], None], console: Console
) -> None:
    """Run jobs side by side, and tell of each that ends, from this thread."""
    if not jobs:
        return
    runner = Runner()
    go_on = interrupted("to go on, give the same command again")
    with go_on, make_bars(console) as bars, ThreadPoolExecutor(num_jobs) as pool:
        task = bars.add_task("bench", total=len(jobs), figures="")
        running = Running(lambda names: bars.update(task, figures=names))
        waiting = {pool.submit(running.follow, runner, job): job for job in jobs}
        try:
            for ended in as_completed(waiting):
                error = failure(ended)
                note(waiting[ended], error)
                bars.advance(task)
                what = str(error) if error else f"{waiting[ended].name}: {ended.result():.0f} s"
                bars.console.print(what, style="red" if error else "", highlight=False)
        except BaseException:
            runner.stop()
            pool.shutdown(cancel_futures=True)
            raise


class Running:
    """Which jobs run, for the bar."""

    def __init__(self, show: Callable[[str], None]) -> None:
        self._show = show
        self._names: list[str] = []
        self._lock = threading.Lock()

    def follow(self, runner: Runner, job: Job) -> float:
        """Run a job; its seconds."""
        self._change(self._names.append, job.name)
        try:
            return runner.run(job)
        finally:
            self._change(self._names.remove, job.name)

    def _change(self, change: Callable[[str], None], name: str) -> None:
        with self._lock:
            change(name)
            self._show(" | ".join(self._names))


def failure(ended: Future[float]) -> StepFailed | None:
    """Why a job failed, if it did; any other error is raised."""
    error = ended.exception()
    if error is None or isinstance(error, StepFailed):
        return error
    raise error


def outcomes(jobs: Sequence[Job]) -> dict[str, dict[int, Outcome]]:
    """What every finished job found, by study and seed."""
    found: dict[str, dict[int, Outcome]] = {}
    for job in jobs:
        if job.done():
            found.setdefault(job.study.name, {})[job.seed] = job.outcome()
    return found


def write_findings(findings: Findings, seeds: Sequence[int], out: Path) -> None:
    """Write ``results.json`` and ``table.md``."""
    write_json(out / "results.json", findings.to_dict(seeds))
    write_text(out / "table.md", markdown(findings.rows, seeds))
