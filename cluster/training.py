"""Training: the learner's loop over all phases, with the files that it leaves behind; alike in every mode."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import Any

from actors.blm_learner import BLMLearner
from actors.processes import ProcessStat, own_stat
from cluster.checkpoint import load_checkpoint, save_checkpoint
from cluster.config import RunConfig
from cluster.files import to_json, write_json
from cluster.run_dir import RunDir
from leworld.phases.trainer import Progress

Processes = Callable[[], list[ProcessStat]]
Report = Callable[[dict[str, Any]], None]


def learn(
    learner: BLMLearner, run: RunDir, config: RunConfig, processes: Processes, report: Report | None = None
) -> None:
    """Do what is left of the phases.

    Args:
        learner: new, with clients of a fleet and a memory.
        run: where checkpoints are found and left.
        config: of the run.
        processes: the other processes of the system, for the record.
        report: is told of every checkpoint.
    """
    begin(learner, run, config)
    kept = learner.trainer.position
    with run.metrics.open("a", encoding="utf-8") as log:
        for progress, seconds in timed(learner.steps()):
            record = to_record(progress, seconds)
            log.write(to_json(record) + "\n")
            log.flush()
            ended = progress.position.step == progress.num_steps
            before = kept.step if kept.phase == progress.position.phase else 0
            due = progress.position.step - before >= config.output.checkpoint_every
            if (ended or due) and learner.can_be_cut(progress):
                keep(learner, run, config)
                kept = progress.position
                if report is not None:
                    report(record)
            if ended:
                note_phase(run, progress.position.phase, [own_stat("BLM learner"), *processes()])


def begin(learner: BLMLearner, run: RunDir, config: RunConfig) -> None:
    """Go on from the newest checkpoint, or make the first.

    A learner that is lost before its first steps were kept finds the state that it began with, not what SLM actors have
    made of it since.
    """
    newest = run.newest_checkpoint()
    if newest is None:
        learner.trainer.learner.world.populate(learner.trainer.learner.memory, "train")
        keep(learner, run, config)
    else:
        learner.load_state(load_checkpoint(newest, config))
    run.cut_metrics(learner.trainer.position)


def keep(learner: BLMLearner, run: RunDir, config: RunConfig) -> None:
    """Write a checkpoint, and go on from there should anything happen."""
    run.point_to(save_checkpoint(learner.state(), config, run.checkpoints))


def timed(steps: Iterator[Progress]) -> Iterator[tuple[Progress, float]]:
    """Each step with the seconds that it took; what is done between steps does not count."""
    while True:
        start = time.perf_counter()
        progress = next(steps, None)
        if progress is None:
            return
        yield progress, time.perf_counter() - start


def to_record(progress: Progress, seconds: float) -> dict[str, Any]:
    """A line of ``metrics.jsonl``."""
    place = {"phase": progress.position.phase, "step": progress.position.step, "num_steps": progress.num_steps}
    return {**place, "seconds": round(seconds, 6), **progress.metrics}


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
