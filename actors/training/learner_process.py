"""Trains the BLM with a fleet and a memory, local or remote, and holds the state of all."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from actors.processes import ProcessStat, own_stat
from actors.training.shared_fleet import to_array
from actors.training.step_timer import Meter, MeteredFleet, MeteredMemory
from leworld.errors import CheckpointError
from leworld.memory import Memory, Snapshot
from leworld.models.system import ModelConfig, System
from leworld.training.data_parallel import ALONE, LearnerGroup
from leworld.training.phase_runner import PhasesConfig, Position, Progress, phase_runner
from leworld.training.slm_training import TrainableFleet
from leworld.worlds.base import World


@dataclass(frozen=True)
class LearnerState:
    """All that a run needs to continue: tensors by name, the memory's pages, and where training stands."""

    position: Position
    blm: dict[str, Tensor]
    slms: dict[str, Tensor]
    memory: Snapshot


@dataclass(frozen=True)
class LearnerConfig:
    """What a learner is: its model and phases, its seed, torch's threads, and the device of the BLM."""

    model: ModelConfig
    phases: PhasesConfig
    seed: int
    threads: int
    device: str = "cpu"


class LearnerProcess:
    """Trains a system. Lives in a Ray Train worker, or in the only process there is.

    Attributes:
        group: of learners, this one among them.
        meter: counts its waiting times and its reads.
    """

    def __init__(
        self, config: LearnerConfig, world: World, fleet: TrainableFleet, memory: Memory, group: LearnerGroup = ALONE
    ) -> None:
        torch.set_num_threads(config.threads)
        self.group, self.meter = group, Meter()
        metered = MeteredFleet(fleet, self.meter), MeteredMemory(memory, self.meter)
        self.runner = phase_runner(
            config.model, config.phases, world, *metered, seed=config.seed, device=config.device, group=group
        )

    @property
    def system(self) -> System:
        """The system as it stands, ready to predict."""
        return self.runner.train_state.system

    def num_steps(self, phase: str) -> int:
        """Steps of a phase."""
        return self.runner.num_steps(phase)

    def steps(self) -> Iterator[Progress]:
        """Run the remaining steps; see ``PhaseRunner.steps``."""
        return self.runner.steps()

    def can_be_cut(self, progress: Progress) -> bool:
        """Whether all parts stand just after this step, so that the state may be kept."""
        return self.runner.position == progress.position

    def align(self) -> None:
        """Take the state of the first learner of the group."""
        if self.group.size == 1:
            return
        learner, position = self.runner.train_state, self.runner.position
        given = self.group.share(
            lambda: {
                **asdict(position),
                "members": list(learner.fleet.members),
                "blm": {name: to_array(x) for name, x in learner.state().items()},
            }
        )
        if self.group.rank:
            self._have(given["members"])
            learner.load_state({name: torch.tensor(array) for name, array in given["blm"].items()})
            self.runner.position = Position(given["phase"], given["step"])

    def _have(self, members: Sequence[int]) -> None:
        """Make the fleet have exactly these SLMs."""
        learner = self.runner.train_state
        for slm_id in [slm_id for slm_id in learner.fleet.members if slm_id not in members]:
            learner.leave(slm_id)
        for slm_id in [slm_id for slm_id in members if slm_id not in learner.fleet.members]:
            learner.join(slm_id, 0)

    def processes(self) -> list[ProcessStat]:
        """Those of the group's learners."""
        name = "BLM learner" if self.group.size == 1 else f"BLM learner {self.group.rank}"
        return self.group.exchange(own_stat(name))

    def state(self) -> LearnerState:
        """Copy the whole state."""
        learner = self.runner.train_state
        return LearnerState(self.runner.position, learner.state(), learner.fleet.state(), learner.memory.snapshot())

    def load_state(self, state: LearnerState, *, with_memory: bool = True) -> None:
        """Inverse of ``state``; without the memory its words stay as they are.

        Raises:
            CheckpointError: the state is of another system; nothing is changed in the parts checked before.
        """
        learner = self.runner.train_state
        self._have(members_of(state))
        learner.load_state(state.blm)
        learner.fleet.load_state(state.slms)
        if with_memory:
            learner.memory.restore(state.memory)
        self.runner.position = state.position


def members_of(state: LearnerState) -> list[int]:
    """The SLMs of a state; some may have joined or left since the run began.

    Raises:
        CheckpointError: its BLM has another number of SLMs.
    """
    found = sorted({int(name.split(".")[1]) for name in state.slms if name.startswith("slm.")})
    key = state.blm.get("model.router.key")
    if not found or key is None or len(found) != len(key):
        number = "no" if key is None else len(key)
        raise CheckpointError(
            f"checkpoint has {len(found)} SLMs, this system {number}: the files are not of one checkpoint; take another"
        )
    return found
