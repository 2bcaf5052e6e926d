"""Ratios of our error to the floor and to each rival, with intervals.

Shapes: see ``leworld.types``.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from leworld.evaluation.baselines import WITH_MEMORY
from leworld.evaluation.metrics import mean, ratio_interval

Spread = dict[str, float]


def best_no_memory(errors: Mapping[str, Tensor]) -> str:
    """The best baseline among those that get neither the memory nor the truth.

    Args:
        errors: (B, T) of each baseline, by name.
    """
    rivals = [name for name in errors if name not in (*WITH_MEMORY, "oracle")]
    return min(rivals, key=lambda name: mean(errors[name]))


def our_ratios(
    ours: Tensor, errors: Mapping[str, Tensor], floor: float | None, groups: Tensor | None
) -> dict[str, Spread | None]:
    """Our error over the floor and over rivals, paired on the same samples.

    Args:
        ours: (B, T) errors.
        errors: (B, T) of each baseline, by name.
        floor: of the world, if known.
        groups: (B, T) which world a sample is of, as in ``ratio_interval``.

    Returns:
        ``floor``, ``oracle``, ``no_memory`` (the best of those), and those ``WITH_MEMORY``; None if the world has no
        such rival, or its error is 0.
    """
    rivals = {name: errors.get(name) for name in ("oracle", *WITH_MEMORY)}
    rivals["no_memory"] = errors[best_no_memory(errors)]
    rivals["floor"] = None if floor is None else torch.full_like(ours, floor)
    names = ("floor", "oracle", "no_memory", *WITH_MEMORY)
    return {name: ratio(ours, rivals[name], groups) for name in names}


def ratio(a: Tensor, b: Tensor | None, groups: Tensor | None) -> Spread | None:
    """Interval of a over b, (B, T) errors of the same samples; None without b, or if its error is 0."""
    return None if b is None or not b.any() else ratio_interval(a, b, groups).to_dict()
