"""The baselines that a world model must beat, trained on the same data with one budget.

name          what it may use
predict_zero  nothing
copy_last     the current state
linear        past, current, characteristics (ridge)
mlp           past, current, characteristics
gru           the whole episode so far, characteristics
knn           the transitions in memory of the same world, searched exactly
least_squares the same transitions, fitted by a polynomial
gru_context   the same transitions, followed by the episode so far
dict          the mean change seen in training with exactly these characteristics
oracle        what mlp has, and the truth about the world: a ceiling, not a rival

mlp, gru and oracle omit the characteristics if that is better on the valid split.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from leworld.errors import ConfigError
from leworld.evaluation.context_baseline import fit_gru_context
from leworld.evaluation.least_squares import LeastSquares
from leworld.evaluation.metrics import errors
from leworld.evaluation.network_baselines import fit_gru, fit_mlp, fit_oracle
from leworld.evaluation.predictor import Budget, Predictor
from leworld.evaluation.simple_baselines import CopyLast, Linear, Neighbours, PlainDict, PredictZero
from leworld.types import Batch
from leworld.worlds.base import World

BASELINES: dict[str, Callable[[World, Budget], Predictor]] = {
    "predict_zero": PredictZero.fit,
    "copy_last": CopyLast.fit,
    "linear": Linear.fit,
    "mlp": fit_mlp,
    "gru": fit_gru,
    "knn": Neighbours.fit,
    "least_squares": LeastSquares.fit,
    "gru_context": fit_gru_context,
    "dict": PlainDict.fit,
    "oracle": fit_oracle,
}
WITH_MEMORY = ("knn", "least_squares", "gru_context")
"""Baselines that get the memory's content."""


def applicable(world: World) -> list[str]:
    """The baselines that a world allows: an oracle needs a context, and those with memory stored transitions."""
    refused = () if _stores(world) else WITH_MEMORY
    return [name for name in BASELINES if name not in refused and (name != "oracle" or world.spec.context_dim > 0)]


def train_baselines(world: World, budget: Budget, names: Sequence[str] | None = None) -> dict[str, Predictor]:
    """Train baselines, each on the same batches.

    Args:
        world: source of the data.
        budget: of each baseline.
        names: keys of ``BASELINES``; by default all that are ``applicable``.

    Returns:
        The trained predictors, in the order of ``names``.

    Raises:
        ConfigError: a name is unknown, or the world does not allow it.
    """
    chosen = applicable(world) if names is None else list(names)
    for name in chosen:
        _check_name(name)
    return {name: BASELINES[name](world, budget) for name in chosen}


def evaluate(predictor: Predictor, batches: Iterable[Batch], scale: Tensor) -> Tensor:
    """Compute the error of every sample.

    Args:
        predictor: the predictor to judge.
        batches: of one horizon T.
        scale: (Y,) ``WorldSpec.scale``.

    Returns:
        (B over all batches, T) errors; the mean of all is the MSE.
    """
    return torch.cat([errors(predictor.predict(batch), batch.target, scale) for batch in batches])


def _stores(world: World) -> bool:
    worlds = world.batch("valid", 1, torch.Generator().manual_seed(0)).world
    return worlds is not None and world.stored(worlds[:, 0]) is not None


def _check_name(name: str) -> None:
    if name in BASELINES:
        return
    near = difflib.get_close_matches(name, BASELINES, n=1)
    hint = f"did you mean {near[0]}?" if near else f"choose from {', '.join(BASELINES)}"
    raise ConfigError(f"there is no baseline {name!r}; {hint}")
