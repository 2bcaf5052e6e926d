"""Rollouts of predictors: every state after the first is their own prediction, the actions are the true ones.

Shapes: see ``leworld.types``.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from leworld.evaluation.metrics import errors
from leworld.evaluation.predictor import Predictor
from leworld.types import Batch

HORIZONS = (1, 5, 20)
"""Steps of a rollout that reports show."""


def roll_predictor(predictor: Predictor, batch: Batch, scale: Tensor) -> Tensor:
    """Error of every step of a free-running predictor.

    Args:
        predictor: called at every step with the sequence so far.
        batch: (B, T) sequences; their targets are only compared with.
        scale: (Y,) ``WorldSpec.scale``.

    Returns:
        (B, T) errors.
    """
    past, current = batch.past.clone(), batch.current.clone()
    own = replace(batch, past=past, current=current)
    results = []
    for t in range(batch.shape[1]):
        predicted = predictor.predict(own.map(lambda tensor, seen=t + 1: tensor[:, :seen]))[:, -1]
        results.append(errors(predicted, batch.target[:, t], scale))
        if t + 1 < batch.shape[1]:
            past[:, t + 1] = current[:, t]
            current[:, t + 1, : len(scale)] = predicted
    return torch.stack(results, dim=1)


def shown_steps(num_steps: int) -> list[int]:
    """The ``HORIZONS`` that a rollout reaches, and its last step if it ends before the furthest."""
    return sorted({min(horizon, num_steps) for horizon in HORIZONS})
