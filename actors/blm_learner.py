"""BLM learner: the trainer with its hands on fleet and memory, wherever those are, and the state of all of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from leworld.errors import CheckpointError
from leworld.memory import Memory, Snapshot
from leworld.models.fleet import Fleet
from leworld.models.system import ModelConfig, System
from leworld.phases.trainer import PhasesConfig, Position, Progress, Trainer
from leworld.worlds.base import World


@dataclass(frozen=True)
class LearnerState:
    """All that a run needs to go on: tensors by name, the memory's pages, and where training stands."""

    position: Position
    blm: dict[str, Tensor]
    slms: dict[str, Tensor]
    memory: Snapshot


class BLMLearner:
    """Trains a system. Lives in a Ray Train worker, or in the only process there is."""

    def __init__(
        self,
        model: ModelConfig,
        phases: PhasesConfig,
        world: World,
        fleet: Fleet,
        memory: Memory,
        *,
        seed: int,
        threads: int,
        device: str = "cpu",
    ) -> None:
        torch.set_num_threads(threads)
        self.trainer = Trainer(model, phases, world, fleet, memory, seed=seed, device=device)

    @property
    def system(self) -> System:
        """The system as it stands, ready to predict."""
        return self.trainer.learner.system

    def num_steps(self, phase: str) -> int:
        """Steps of a phase."""
        return self.trainer.num_steps(phase)

    def steps(self) -> Iterator[Progress]:
        """Do the steps that are left; see ``Trainer.steps``."""
        return self.trainer.steps()

    def can_be_cut(self, progress: Progress) -> bool:
        """Whether all parts stand just after this step, so that the state may be kept."""
        return self.trainer.position == progress.position

    def state(self) -> LearnerState:
        """Copy the whole state."""
        learner = self.trainer.learner
        return LearnerState(self.trainer.position, learner.state(), learner.fleet.state(), learner.memory.snapshot())

    def load_state(self, state: LearnerState) -> None:
        """Inverse of ``state``.

        Raises:
            CheckpointError: the state is of another system; nothing is changed in the parts checked before.
        """
        learner = self.trainer.learner
        wanted = members_of(state)
        for slm_id in [slm_id for slm_id in learner.fleet.members if slm_id not in wanted]:
            learner.leave(slm_id)
        for slm_id in [slm_id for slm_id in wanted if slm_id not in learner.fleet.members]:
            learner.join(slm_id, 0)
        learner.load_state(state.blm)
        learner.fleet.load_state(state.slms)
        learner.memory.restore(state.memory)
        self.trainer.position = state.position


def members_of(state: LearnerState) -> list[int]:
    """The SLMs of a state; some may have joined or left since the run began.

    Raises:
        CheckpointError: its BLM is not of as many.
    """
    found = sorted({int(name.split(".")[1]) for name in state.slms if name.startswith("slm.")})
    key = state.blm.get("model.router.key")
    if not found or key is None or len(found) != len(key):
        number = "no" if key is None else len(key)
        raise CheckpointError(
            f"checkpoint has {len(found)} SLMs, this system {number}: the files are not of one checkpoint; take another"
        )
    return found
