"""The base of all baselines: a predictor, trained on one stream of batches with one budget.

Shapes: see ``leworld.types``; F: features of a step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from leworld.errors import ConfigError
from leworld.rng import generator
from leworld.types import Batch
from leworld.worlds.base import Stored, World, WorldSpec

STATES = ("past", "current")
INPUTS = (*STATES, "characteristics")
"""Inputs that any baseline may use."""

_MOMENT_BATCHES = 16
_VALID_SEQUENCES = 256


class Predictor(Protocol):
    """Anything that predicts the next state of every step of a batch."""

    def predict(self, batch: Batch) -> Tensor:
        """(B, T, Y) predicted next states; may look at all steps up to the predicted one, never at ``batch.target``."""
        ...


@dataclass(frozen=True)
class Budget:
    """The training budget of a baseline.

    Attributes:
        steps: batches seen.
        sequences: B of each batch; a batch has ``sequences * horizon`` samples.
        lr: peak learning rate of those that learn by gradient.
        seed: of the batches and the first weights; one seed, one stream of batches for all baselines.
    """

    steps: int = 1500
    sequences: int = 16
    lr: float = 3e-3
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "sequences", "lr"):
            if getattr(self, name) <= 0:
                raise ConfigError(f"{name} of a baseline's budget is {getattr(self, name)}; it must be above 0")


@dataclass(frozen=True)
class Output:
    """How a baseline's numbers become a prediction: a change in units of ``scale``, or the state itself."""

    residual: bool
    scale: Tensor

    @staticmethod
    def of(spec: WorldSpec) -> Output:
        """The output of this world."""
        return Output(spec.residual, spec.scale)

    def prediction(self, current: Tensor, out: Tensor) -> Tensor:
        """(..., Y) prediction from (..., S) state and (..., Y) numbers."""
        return current[..., : out.shape[-1]] + self.scale * out if self.residual else out

    def wanted(self, current: Tensor, target: Tensor) -> Tensor:
        """(..., Y) numbers whose ``prediction`` is the target."""
        return (target - current[..., : target.shape[-1]]) / self.scale if self.residual else target


@dataclass(frozen=True)
class Features:
    """The standardised inputs of a step: fields of ``Batch``, side by side."""

    mean: Tensor
    std: Tensor
    inputs: tuple[str, ...]

    @staticmethod
    def fit(world: World, budget: Budget, inputs: tuple[str, ...] = INPUTS) -> Features:
        """Take mean and deviation from the first training batches; a constant input keeps its size."""
        first = Budget(min(budget.steps, _MOMENT_BATCHES), budget.sequences, budget.lr, budget.seed)
        rows = torch.cat([_raw(batch, inputs).flatten(0, 1) for batch in training_batches(world, first)])
        std = rows.std(0, correction=0)
        return Features(rows.mean(0), torch.where(std > 1e-6, std, 1.0), inputs)

    def __call__(self, batch: Batch) -> Tensor:
        """(B, T, F)."""
        return (_raw(batch, self.inputs) - self.mean) / self.std

    @property
    def size(self) -> int:
        """F."""
        return len(self.mean)


def _raw(batch: Batch, inputs: tuple[str, ...]) -> Tensor:
    return torch.cat([getattr(batch, name) for name in inputs], -1)


def stored_of(world: World, batch: Batch, baseline: str) -> tuple[Stored, Tensor]:
    """The transitions in memory of the U worlds of a batch, and (B, T) which of them each sample is of.

    Raises:
        ConfigError: the world stores none.
    """
    if batch.world is not None:
        worlds, index = batch.world.unique(return_inverse=True)
        stored = world.stored(worlds)
        if stored is not None:
            return stored, index
    raise ConfigError(f"world {world.spec.name} stores no transitions to use; leave the baseline {baseline} out")


def training_batches(world: World, budget: Budget) -> Iterator[Batch]:
    """The batches of a budget, always the same."""
    random = generator(budget.seed, "baselines", "train")
    for _ in range(budget.steps):
        yield world.batch("train", budget.sequences, random)


def normal_equations(world: World, budget: Budget, rows_of: Callable[[Batch], Tensor]) -> tuple[Tensor, Tensor]:
    """Sum the equations of least squares over the budget's batches.

    Args:
        world: source of the batches.
        budget: number of batches.
        rows_of: a batch to its (B * T, F) float64 rows.

    Returns:
        (F, F) products of the rows, and (F, Y) of the rows with what is ``wanted``; float64.
    """
    output = Output.of(world.spec)
    gram, moment = torch.zeros((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    for batch in training_batches(world, budget):
        rows = rows_of(batch)
        gram = gram + rows.T @ rows
        moment = moment + rows.T @ output.wanted(batch.current, batch.target).flatten(0, 1).double()
    return gram, moment


def valid_batch(world: World, budget: Budget) -> Batch:
    """One large batch of the valid split, for choices such as the number of neighbours."""
    return world.batch("valid", _VALID_SEQUENCES, generator(budget.seed, "baselines", "valid"))
