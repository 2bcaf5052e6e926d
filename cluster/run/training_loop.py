"""Training: the learner's loop over all phases, with the files that it writes; the same in every mode."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import asdict, dataclass
from typing import Any

from actors.processes import ProcessStat
from actors.training.learner_process import LearnerProcess
from actors.training.step_timer import Meter
from cluster.config.run_config import RunConfig
from cluster.json_files import to_json, write_json
from cluster.run.checkpoint import load_checkpoint, save_checkpoint
from cluster.run.membership_changes import MembershipChanges, follow_changes
from cluster.run.run_dir import RunDir
from cluster.run.tensorboard import TensorBoardLog
from leworld.training.phase_runner import PHASES, Progress

Processes = Callable[[], list[ProcessStat]]
Report = Callable[[dict[str, Any]], None]
"""Is told of a step's line of ``metrics.jsonl``."""


def learn(
    learner: LearnerProcess, run: RunDir, config: RunConfig, processes: Processes, report: Report | None = None,
    export: Report | None = None,
) -> None:  # fmt: skip
    """Train the remaining phases.

    Args:
        learner: new, with clients of a fleet and a memory.
        run: where checkpoints are read and written.
        config: of the run.
        processes: the other processes of the system, for the record.
        report: receives every checkpoint.
        export: receives every step.
    """
    if learner.group.rank == 0:
        begin(learner, run, config)
    learner.align()
    changes = MembershipChanges(run)
    if learner.group.rank:
        follow(learner, config, changes, report)
        return
    sizes = {phase: learner.num_steps(phase) for phase in PHASES}
    board = TensorBoardLog(run.board, learner.runner.position, sizes)
    with run.metrics.open("a", encoding="utf-8") as log, closing(board):
        for step in steps_of(learner, config, changes):
            record = to_record(step.progress, step.seconds, learner.meter)
            log.write(to_json(record) + "\n")
            log.flush()
            board.add(record)
            if export is not None:
                export(record)
            if step.is_kept:
                keep(learner, run, config)
                if report is not None:
                    report(record)
            if step.is_last:
                note_phase(run, step.progress.position.phase, [*learner.processes(), *processes()])


def follow(learner: LearnerProcess, config: RunConfig, changes: MembershipChanges, report: Report | None) -> None:
    """Train the remaining phases as a learner that is not the first of its group and writes no files."""
    for step in steps_of(learner, config, changes):
        if step.is_kept and report is not None:
            # The first one reports what was kept; Ray waits for all.
            report(to_record(step.progress, step.seconds, learner.meter))
        if step.is_last:
            learner.processes()


@dataclass(frozen=True)
class Done:
    """A step with its seconds; whether a checkpoint is due after it, and whether it is the last of its phase."""

    progress: Progress
    seconds: float
    is_kept: bool
    is_last: bool


def steps_of(learner: LearnerProcess, config: RunConfig, changes: MembershipChanges) -> Iterator[Done]:
    """Run the remaining steps, the same in every learner of a group; SLMs join and leave between them."""
    kept = learner.runner.position
    follow_changes(learner, changes)
    for progress, seconds in timed(learner.steps()):
        position = progress.position
        is_last = position.step == progress.num_steps
        before = kept.step if kept.phase == position.phase else 0
        is_due = position.step - before >= config.output.checkpoint_every
        is_kept = (is_last or is_due) and learner.can_be_cut(progress)
        kept = position if is_kept else kept
        yield Done(progress, seconds, is_kept, is_last)
        # A checkpoint of this step exists now: a learner that begins there repeats what follows.
        if learner.can_be_cut(progress):
            follow_changes(learner, changes)


def begin(learner: LearnerProcess, run: RunDir, config: RunConfig) -> None:
    """Load the newest checkpoint, or write the first.

    A learner that is lost before its next checkpoint then finds its initial state,
    not the later state of the SLM actors.
    """
    newest = run.newest_checkpoint()
    if newest is None:
        learner.runner.train_state.world.populate(learner.runner.train_state.memory, "train")
        keep(learner, run, config)
    else:
        learner.load_state(load_checkpoint(newest, config))
    run.cut_metrics(learner.runner.position)


def keep(learner: LearnerProcess, run: RunDir, config: RunConfig) -> None:
    """Write a checkpoint, from which the run resumes after a failure."""
    run.point_to(save_checkpoint(learner.state(), config, run.checkpoints))


def timed(steps: Iterator[Progress]) -> Iterator[tuple[Progress, float]]:
    """Each step with the seconds that it took; what is done between steps does not count."""
    while True:
        start = time.perf_counter()
        progress = next(steps, None)
        if progress is None:
            return
        yield progress, time.perf_counter() - start


def to_record(progress: Progress, seconds: float, meter: Meter) -> dict[str, Any]:
    """A line of ``metrics.jsonl``; ``meter`` is what was counted since the last one."""
    place = {"phase": progress.position.phase, "step": progress.position.step, "num_steps": progress.num_steps}
    return {**place, "seconds": round(seconds, 6), "meter": meter.take(), **progress.metrics}


def note_phase(run: RunDir, phase: str, processes: list[ProcessStat]) -> None:
    """Put a phase's seconds, and the peak memory of every process up to its end, into ``timing.json``."""
    seconds = [record["seconds"] for record in run.records() if record["phase"] == phase]
    timing = run.read_timing()
    timing.setdefault("phases", {})[phase] = {
        "steps": len(seconds),
        "seconds": round(sum(seconds), 3),
        "processes": [asdict(process) for process in processes],
    }
    write_json(run.timing, timing)
