"""Baselines without gradients: zero, the last state, a ridge, nearest neighbours and a dict.

Shapes: see ``leworld.types``; F: features.  U: worlds.  M: stored transitions.  n: samples.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from leworld.evaluation.metrics import mse
from leworld.evaluation.predictor import (
    Budget,
    Features,
    Output,
    normal_equations,
    stored_of,
    training_batches,
    valid_batch,
)
from leworld.types import Batch
from leworld.worlds.base import World

_RIDGES = (1e-6, 1e-4, 1e-2, 1.0)
_NEIGHBOURS = (1, 2, 4, 8)
_CHUNK = 2048
_DECIMALS = 4


@dataclass(frozen=True)
class CopyLast:
    """Predicts that nothing changes."""

    target_dim: int

    @classmethod
    def fit(cls, world: World, budget: Budget) -> Self:
        """Nothing to learn."""
        return cls(world.spec.target_dim)

    def predict(self, batch: Batch) -> Tensor:
        """(B, T, Y), the current state."""
        return batch.current[..., : self.target_dim].clone()


class PredictZero(CopyLast):
    """Every next state is zero."""

    def predict(self, batch: Batch) -> Tensor:
        """(B, T, Y) zeros."""
        return batch.current.new_zeros(*batch.shape, self.target_dim)


@dataclass(frozen=True)
class Linear:
    """Ridge regression on past, current and characteristics, in closed form; the ridge is chosen on the valid split.

    ``weight`` (F + 1, Y) float64, its last row is the offset.
    """

    features: Features
    output: Output
    weight: Tensor

    @staticmethod
    def fit(world: World, budget: Budget) -> Linear:
        """Sum the normal equations over the budget's batches and solve them once a ridge."""
        features, output = Features.fit(world, budget), Output.of(world.spec)
        gram, moment = normal_equations(world, budget, lambda batch: _with_one(features(batch)))
        valid, unit = valid_batch(world, budget), torch.eye(len(gram), dtype=torch.float64) * gram[-1, -1]
        choices = [Linear(features, output, torch.linalg.solve(gram + ridge * unit, moment)) for ridge in _RIDGES]
        return min(choices, key=lambda choice: mse(choice.predict(valid), valid.target, world.spec.scale))

    def predict(self, batch: Batch) -> Tensor:
        """(B, T, Y)."""
        out = (_with_one(self.features(batch)) @ self.weight).float().unflatten(0, batch.shape)
        return self.output.prediction(batch.current, out)


def _with_one(features: Tensor) -> Tensor:
    """(B, T, F) to (B * T, F + 1) float64."""
    rows = features.flatten(0, 1).double()
    return torch.cat([rows, rows.new_ones(len(rows), 1)], 1)


@dataclass(frozen=True)
class Neighbours:
    """Exact k nearest neighbours among the transitions that the memory holds for the sample's world.

    Their mean change (or mean next state, if the world is not residual) is the prediction. ``std`` (S,) is the unit
    of the distance.
    """

    world: World
    output: Output
    std: Tensor
    k: int

    @staticmethod
    def fit(world: World, budget: Budget) -> Neighbours:
        """Choose k on the valid split.

        Raises:
            ConfigError: the world stores no transitions.
        """
        valid = valid_batch(world, budget)
        first = Neighbours(world, Output.of(world.spec), _state_std(world, budget), 1)
        num_stored = stored_of(world, valid, "knn")[0].inputs.shape[1]
        choices = [replace(first, k=k) for k in _NEIGHBOURS if k <= num_stored]
        return min(choices, key=lambda choice: mse(choice.predict(valid), valid.target, world.spec.scale))

    def predict(self, batch: Batch) -> Tensor:
        """(B, T, Y)."""
        stored, index = stored_of(self.world, batch, "knn")
        current = batch.current.flatten(0, 1)
        values = self.output.wanted(stored.inputs, stored.targets)
        pieces = zip(current.split(_CHUNK), index.flatten().split(_CHUNK), strict=True)
        out = torch.cat([self._mean(rows, stored.inputs[own], values[own]) for rows, own in pieces])
        return self.output.prediction(batch.current, out.unflatten(0, batch.shape))

    def _mean(self, rows: Tensor, inputs: Tensor, values: Tensor) -> Tensor:
        """(n, Y) mean of the values (n, M, Y) at the k inputs (n, M, S) nearest to rows (n, S)."""
        distance = ((inputs - rows.unsqueeze(1)) / self.std).square().sum(-1)
        nearest = distance.topk(self.k, dim=1, largest=False).indices
        return values.gather(1, nearest.unsqueeze(-1).expand(-1, -1, values.shape[-1])).mean(1)


def _state_std(world: World, budget: Budget) -> Tensor:
    """(S,) deviation of the training states."""
    return Features.fit(world, budget).std[world.spec.state_dim : 2 * world.spec.state_dim]


@dataclass(frozen=True)
class PlainDict:
    """A dict from characteristics to the mean change (or next state) seen with exactly them; elsewhere, copy-last.

    ``rows`` says which row of ``means`` (U, Y) a key has.
    """

    output: Output
    rows: dict[bytes, int]
    means: Tensor

    @staticmethod
    def fit(world: World, budget: Budget) -> PlainDict:
        """Average over the samples of each key."""
        output, rows = Output.of(world.spec), {}
        index, values = [], []
        for batch in training_batches(world, budget):
            index += [rows.setdefault(key, len(rows)) for key in _keys(batch)]
            values.append(output.wanted(batch.current, batch.target).flatten(0, 1))
        places = torch.tensor(index)
        sums = torch.zeros(len(rows), world.spec.target_dim).index_add_(0, places, torch.cat(values))
        return PlainDict(output, rows, sums / places.bincount().unsqueeze(1))

    def predict(self, batch: Batch) -> Tensor:
        """(B, T, Y)."""
        places = self.places(batch)
        found = self.output.prediction(batch.current, self.means[places.clamp(min=0)])
        return torch.where(places.unsqueeze(-1) >= 0, found, batch.current[..., : found.shape[-1]])

    def places(self, batch: Batch) -> Tensor:
        """(B, T) row of each sample, -1 if training never showed its key."""
        return torch.tensor([self.rows.get(key, -1) for key in _keys(batch)]).view(batch.shape)


def _keys(batch: Batch) -> list[bytes]:
    rounded = (batch.characteristics.flatten(0, 1).double() * 10**_DECIMALS).round().long().numpy()
    return [row.tobytes() for row in rounded]
