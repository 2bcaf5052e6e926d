"""A small system, trained by whoever is given."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from actors.training.learner_process import LearnerConfig, LearnerProcess, LearnerState
from cluster.config.presets import load_config
from cluster.config.run_config import RunConfig
from leworld.memory import Memory, WordStore
from leworld.training.data_parallel import ALONE, LearnerGroup
from leworld.training.phase_runner import fleet_config
from leworld.training.slm_training import SLMGroup, SLMTrainingConfig, TrainableFleet
from leworld.worlds.base import World
from leworld.worlds.registry import build_world

CHANGES = ("phases.pretrain.steps=26", "phases.pretrain.slm_steps=26", "phases.joint.steps=4", "phases.refine.steps=3")


@dataclass(frozen=True)
class Small:
    """All that a system is built from."""

    config: RunConfig
    world: World

    @property
    def slms(self) -> SLMTrainingConfig:
        """What its SLMs need."""
        return fleet_config(self.config.model, self.config.phases, self.config.seed)

    def learner(
        self,
        fleet: TrainableFleet | None = None,
        memory: Memory | None = None,
        device: str = "cpu",
        group: LearnerGroup = ALONE,
    ) -> LearnerProcess:
        """A learner with a populated memory; of this process where nothing else is given."""
        memory = WordStore(self.world.spec.address_bits) if memory is None else memory
        self.world.populate(memory, "train")
        fleet = SLMGroup(self.slms, self.world) if fleet is None else fleet
        config = self.config
        learner = LearnerConfig(config.model, config.phases, config.seed, 1, device)
        return LearnerProcess(learner, self.world, fleet, memory, group)


def small(*changes: str) -> Small:
    """The tiny preset, shorter still."""
    config = load_config("tiny", [*CHANGES, *changes])
    return Small(config, build_world(config.world.name, config.world.settings, config.seed))


def run(learner: LearnerProcess) -> tuple[list[dict[str, Any]], LearnerState]:
    """Train to the end: what each step measured, and the final state."""
    return [progress.metrics for progress in learner.steps()], learner.state()


def same_bits(one: LearnerState, other: LearnerState) -> bool:
    """Whether two states are equal in every bit."""
    pairs = [(one.blm, other.blm), (one.slms, other.slms)]
    tensors = all(a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a) for a, b in pairs)
    words = (one.memory.words == other.memory.words).all() and (one.memory.pages == other.memory.pages).all()
    return tensors and bool(words) and one.position == other.position
