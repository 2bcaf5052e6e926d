"""A baseline in closed form: least squares on the transitions that the memory holds for the sample's world.

A ridge draws each world's weights to those of all training steps. Ridge and degree are chosen on the valid split.

Shapes: see ``leworld.types``; U: worlds.  M: stored transitions of a world.  F: terms of a state.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from leworld.evaluation.metrics import mse
from leworld.evaluation.predictor import Budget, Features, Output, normal_equations, stored_of, valid_batch
from leworld.types import Batch
from leworld.worlds.base import World

_DEGREES = (1, 2)
_RIDGES = (1e-3, 1e-2, 1e-1, 1.0, 10.0)
_PRIOR_RIDGE = 1e-6


@dataclass(frozen=True)
class Terms:
    """The terms of a state: 1, its standardised dimensions and, with ``degree`` 2, their products."""

    mean: Tensor
    std: Tensor
    degree: int

    def __call__(self, states: Tensor) -> Tensor:
        """(..., S) to (..., F) float64."""
        x = ((states - self.mean) / self.std).double()
        x = torch.cat([x.new_ones(*x.shape[:-1], 1), x], -1)
        if self.degree == 1:
            return x
        first, second = torch.triu_indices(x.shape[-1], x.shape[-1])
        return x[..., first] * x[..., second]


@dataclass(frozen=True)
class LeastSquares:
    """``prior`` (F, Y) float64, the weights of all training steps; ``ridge`` the pull of a world's weights to them."""

    world: World
    output: Output
    terms: Terms
    prior: Tensor
    ridge: float

    @staticmethod
    def fit(world: World, budget: Budget) -> LeastSquares:
        """Fit the prior of each degree, and choose.

        Raises:
            ConfigError: the world stores no transitions.
        """
        valid = valid_batch(world, budget)
        stored_of(world, valid, "least_squares")
        features = Features.fit(world, budget, ("current",))
        choices = []
        for degree in _DEGREES:
            terms = Terms(features.mean, features.std, degree)
            prior = _prior(world, budget, terms)
            choices += [LeastSquares(world, Output.of(world.spec), terms, prior, ridge) for ridge in _RIDGES]
        return min(choices, key=lambda choice: mse(choice.predict(valid), valid.target, world.spec.scale))

    def predict(self, batch: Batch) -> Tensor:
        """(B, T, Y)."""
        stored, index = stored_of(self.world, batch, "least_squares")
        rows = self.terms(stored.inputs)
        left = self.output.wanted(stored.inputs, stored.targets).double() - rows @ self.prior
        # As many equations as records: the weights lie in the span of the rows.
        gram = rows @ rows.mT + self.ridge * torch.eye(rows.shape[1], dtype=rows.dtype)
        weights = self.prior + rows.mT @ torch.linalg.solve(gram, left)
        terms = self.terms(batch.current)
        out = torch.einsum("btf,btfy->bty", terms, weights[index]) if _varies(index) else terms @ weights[index[:, 0]]
        return self.output.prediction(batch.current, out.float())


def _prior(world: World, budget: Budget, terms: Terms) -> Tensor:
    """(F, Y) weights of the steps of the budget's batches."""
    gram, moment = normal_equations(world, budget, lambda batch: terms(batch.current).flatten(0, 1))
    return torch.linalg.solve(gram + _PRIOR_RIDGE * gram[0, 0] * torch.eye(len(gram), dtype=gram.dtype), moment)


def _varies(index: Tensor) -> bool:
    """Whether a sequence has more than one world."""
    return bool((index != index[:, :1]).any())
