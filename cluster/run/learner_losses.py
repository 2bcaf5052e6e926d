"""Records what Ray Train does about lost learners in the run's events."""

from __future__ import annotations

from typing import Any

from ray.train.v2.api.callback import UserCallback

from cluster.run.run_dir import RunDir

WAY_OUT = "another one goes on from the last checkpoint"


class NoteLosses(UserCallback):
    """Records learners that died; learners record the errors that they raise."""

    def __init__(self, run: RunDir, learners: int) -> None:
        self.run, self.learners = run, learners

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        """See Ray."""
        for rank, error in worker_exceptions.items():
            if type(error).__name__.startswith("WorkerHealthCheck"):
                name = "BLM learner" if self.learners == 1 else f"BLM learner {rank}"
                self.run.note_event(f"{name} died", WAY_OUT)


def note_size(run: RunDir, size: int, learners: int) -> None:
    """Record the number of learners of a group, if there is not always room for all."""
    if learners > 1:
        run.note_event(f"{size} of {learners} BLM learners are there", "train together from the last checkpoint")
