"""What Ray Train does about a run's learners, put down among the run's events."""

from __future__ import annotations

from typing import Any

from ray.train.v2.api.callback import UserCallback

from cluster.run.run_dir import RunDir

WAY_OUT = "another one goes on from the last checkpoint"


class NoteLosses(UserCallback):
    """Notes learners that died; what they raise themselves, they note themselves."""

    def __init__(self, run: RunDir, learners: int) -> None:
        self.run, self.learners = run, learners

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        """See Ray."""
        for rank, error in worker_exceptions.items():
            if type(error).__name__.startswith("WorkerHealthCheck"):
                name = "BLM learner" if self.learners == 1 else f"BLM learner {rank}"
                self.run.note_event(f"{name} died", WAY_OUT)


def note_size(run: RunDir, size: int, learners: int) -> None:
    """Note of how many learners a group is now, where there is not always room for all."""
    if learners > 1:
        run.note_event(f"{size} of {learners} BLM learners are there", "train together from the last checkpoint")
