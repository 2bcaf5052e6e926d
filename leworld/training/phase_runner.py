"""PhaseRunner: the phases in order, as a stream of steps that can stop and resume anywhere."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch

from leworld.errors import CheckpointError, ConfigError
from leworld.memory import Memory
from leworld.models.system import ModelConfig, build_blm
from leworld.training.data_parallel import ALONE, LearnerGroup
from leworld.training.joint import JointConfig, joint_step
from leworld.training.pretrain import PretrainConfig, pretrain_step
from leworld.training.refine import RefineConfig, refine_step
from leworld.training.setting_checks import check_not_negative, check_positive
from leworld.training.slm_training import SLMTrainingConfig, TrainableFleet
from leworld.training.train_state import Metrics, TrainOptions, TrainState
from leworld.worlds.base import World

PHASES = ("pretrain", "joint", "refine")
CHUNK_STEPS = 25
"""SLMs and BLM pre-train in chunks of this many steps, side by side."""


@dataclass(frozen=True)
class PhasesConfig:
    """Settings of the three phases, and those that they share.

    Attributes:
        labels: whether the write log teaches where the training worlds' records are. Without it the system knows only
            the addresses of keys that it places itself, and learns from hindsight. Refining needs it.
        rehearsal: fresh keys that each SLM practises on in a step of the later phases; 0 for none.
        weight_decay, grad_clip: of every optimiser.
    """

    pretrain: PretrainConfig = field(default_factory=PretrainConfig)
    joint: JointConfig = field(default_factory=JointConfig)
    refine: RefineConfig = field(default_factory=RefineConfig)
    labels: bool = True
    rehearsal: int = 256
    weight_decay: float = 0.01
    grad_clip: float = 1.0

    def __post_init__(self) -> None:
        if not self.labels and self.refine.steps:
            raise ConfigError(
                f"phases.labels false with {self.refine.steps} steps of refining, which is taught by them: "
                "set phases.refine.steps=0"
            )
        check_not_negative("phases", self, "rehearsal", "weight_decay")
        check_positive("phases", self, "grad_clip")


@dataclass(frozen=True)
class Position:
    """A position in training: ``step`` steps of ``phase`` are done."""

    phase: str = "pretrain"
    step: int = 0

    def __post_init__(self) -> None:
        if self.phase not in PHASES or self.step < 0:
            raise CheckpointError(f"position {self.phase!r} step {self.step} is no place in {', '.join(PHASES)}")

    @property
    def order(self) -> tuple[int, int]:
        """Sort key."""
        return PHASES.index(self.phase), self.step


@dataclass(frozen=True)
class Progress:
    """One step done: the position after it, the phase's number of steps, and the metrics."""

    position: Position
    num_steps: int
    metrics: Metrics


def fleet_config(model: ModelConfig, phases: PhasesConfig, seed: int) -> SLMTrainingConfig:
    """The settings of a run that an SLM needs."""
    pretrain = phases.pretrain
    return SLMTrainingConfig(
        slm=model.slm,
        num_slms=model.num_slms,
        query_dim=model.blm.query_dim,
        pretrain_batch=pretrain.slm_batch,
        rule_batch=pretrain.rule_batch,
        rule_steps=pretrain.rule_steps,
        pretrain_steps=pretrain.slm_steps,
        pretrain_lr=pretrain.slm_lr,
        rehearsal_batch=phases.rehearsal,
        warmup_steps=pretrain.warmup_steps,
        weight_decay=phases.weight_decay,
        grad_clip=phases.grad_clip,
        length_weight=pretrain.length_weight,
        confidence_weight=pretrain.confidence_weight,
        seed=seed,
    )


def phase_runner(
    model: ModelConfig, phases: PhasesConfig, world: World, fleet: TrainableFleet, memory: Memory, *, seed: int,
    device: str = "cpu", group: LearnerGroup = ALONE,
) -> PhaseRunner:  # fmt: skip
    """A runner with a new BLM; fleet and memory may be remote."""
    options = TrainOptions(seed, phases.weight_decay, phases.grad_clip, phases.labels, device)
    blm = build_blm(model, world.spec, seed)
    return PhaseRunner(phases, TrainState(blm, fleet, memory, world, options, group))


class PhaseRunner:
    """Runs the remaining steps of the phases from any position."""

    def __init__(self, phases: PhasesConfig, state: TrainState) -> None:
        self.phases = phases
        self.position = Position()
        self.train_state = state

    def join(self, slm_id: int) -> None:
        """Between steps: add an SLM, pre-trained like the others, for table ``slm_id`` modulo their number.

        Raises:
            ConfigError: its number is not above those of the others.
        """
        steps = self.phases.pretrain.slm_steps
        self.train_state.join(slm_id, min(steps, self.position.step) if self.position.phase == "pretrain" else steps)

    def leave(self, slm_id: int) -> None:
        """Between steps: remove an SLM, and the BLM's parameters for it.

        Raises:
            ConfigError: the SLM is not there, or is the only one.
        """
        self.train_state.leave(slm_id)

    def num_steps(self, phase: str) -> int:
        """Steps of a phase; pre-training takes as long as the longer of its two halves."""
        config = getattr(self.phases, phase)
        return max(config.steps, config.slm_steps) if phase == "pretrain" else config.steps

    def steps(self) -> Iterator[Progress]:
        """Make the remaining steps, one per item."""
        runners = {"pretrain": self._pretrain, "joint": self._joint, "refine": self._refine}
        for phase in PHASES[PHASES.index(self.position.phase) :]:
            if self.position.phase != phase:
                self.position = Position(phase, 0)
            yield from runners[phase](self.position.step)

    def _done(self, phase: str, step: int, metrics: Metrics) -> Progress:
        self._serve_probation(1)
        self.position = Position(phase, step + 1)
        return Progress(self.position, self.num_steps(phase), metrics)

    def _pretrain(self, first: int) -> Iterator[Progress]:
        """Pre-train SLMs and BLM side by side, chunk by chunk, as they do not interact yet."""
        config, total = self.phases.pretrain, self.num_steps("pretrain")
        for start in range(first, total, CHUNK_STEPS):
            end = min(start + CHUNK_STEPS, total)
            pending = self.train_state.fleet.pretrain(start, max(0, min(end, config.slm_steps) - start))
            # Without labels the BLM asks the SLMs, which must then be at the same step wherever they run.
            taught = None if self.train_state.labels else pending()
            metrics = [self._pretrain_metrics(config, step) for step in range(start, end)]
            metrics[-1].update(mean_metrics(pending() if taught is None else taught))
            self._serve_probation(end - start)
            # From here on the SLMs are at the end of the chunk; a run may stop only there.
            for step, values in zip(range(start, end), metrics, strict=True):
                self.position = Position("pretrain", end)
                yield Progress(Position("pretrain", step + 1), total, values)

    def _serve_probation(self, steps: int) -> None:
        blm = self.train_state.blm
        blm.probation = [max(0, left - steps) for left in blm.probation]

    def _pretrain_metrics(self, config: PretrainConfig, step: int) -> Metrics:
        return pretrain_step(self.train_state, config, step) if step < config.steps else {}

    def _joint(self, first: int) -> Iterator[Progress]:
        for step in range(first, self.phases.joint.steps):
            yield self._done("joint", step, joint_step(self.train_state, self.phases.joint, step))

    def _refine(self, first: int) -> Iterator[Progress]:
        for step in range(first, self.phases.refine.steps):
            yield self._done("refine", step, refine_step(self.train_state, self.phases.refine, step))


def mean_metrics(parts: list[Metrics]) -> Metrics:
    """The mean over SLMs of each metric that all of them report."""
    if not parts or not parts[0]:
        return {}
    return {name: float(torch.tensor([part[name] for part in parts]).mean()) for name in parts[0]}
