"""Errors, their intervals, and how often the right address and the right mask were found.

Shapes:
    M: samples.  N: SLMs.  K: candidates.  Y: predicted dimensions.  G: groups, independent of each other.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from leworld.errors import DataError
from leworld.types import Ranges

_NORMAL_95 = 1.959963984540054


@dataclass(frozen=True)
class Interval:
    """A mean and its 95 % interval."""

    mean: float
    low: float
    high: float

    def to_dict(self) -> dict[str, float]:
        """A dict for reports."""
        return {"mean": self.mean, "low": self.low, "high": self.high}


def positive(found: Interval) -> Interval:
    """The interval of a figure that cannot be negative, such as an error or a ratio of errors.

    An interval that reaches below 0 moves to the log scale, by the delta method: the logarithm of a mean m
    with the standard error s has the standard error s / m. The mean stays as it is.
    """
    if found.low >= 0 or found.mean <= 0:
        return found
    factor = math.exp((found.high - found.mean) / found.mean)
    return Interval(found.mean, found.mean / factor, found.mean * factor)


def errors(prediction: Tensor, target: Tensor, scale: Tensor) -> Tensor:
    """Error of every sample: the mean over Y of ``((prediction - target) / scale) ** 2``.

    Args:
        prediction: (..., Y).
        target: (..., Y), of the same shape.
        scale: (Y,) the unit of the world, ``WorldSpec.scale``.

    Returns:
        (...) float.

    Raises:
        DataError: the shapes differ.
    """
    if prediction.shape != target.shape:
        shapes = f"prediction {tuple(prediction.shape)} and target {tuple(target.shape)}"
        raise DataError(f"{shapes} differ in shape; give both as (..., Y)")
    return ((prediction - target) / scale).square().mean(-1)


def mean(values: Tensor) -> float:
    """Mean over all samples."""
    return float(values.double().mean())


def mse(prediction: Tensor, target: Tensor, scale: Tensor) -> float:
    """Mean of ``errors`` over all samples."""
    return mean(errors(prediction, target, scale))


def paired_interval(a: Tensor, b: Tensor | None = None, groups: Tensor | None = None) -> Interval:
    """95 % interval of ``mean(a - b)`` for errors a and b on the same samples; without b, of ``mean(a)``.

    Samples of one sequence are alike, so each group is averaged first and only groups count as independent. If several
    sequences share a world, give the world as the group.

    Args:
        a: (M,) or (G, T).
        b: of the same shape.
        groups: of the same shape, int64: which group a sample is of; by default each row of (G, T) or sample of (M,).

    Raises:
        DataError: the shapes differ, or there are fewer than two groups.
    """
    if b is None:
        return _interval(_group_means(a.double(), groups))
    _check_pair(a, b)
    return _interval(_group_means(a.double() - b.double(), groups))


def ratio_interval(a: Tensor, b: Tensor, groups: Tensor | None = None) -> Interval:
    """95 % interval of ``mean(a) / mean(b)``, linearised at the ratio (the delta method) and kept ``positive``.

    Args and errors are those of ``paired_interval``; ``b`` must not have the mean zero.
    """
    _check_pair(a, b)
    means_a, means_b = _group_means(a.double(), groups), _group_means(b.double(), groups)
    below = _divisor(means_b)
    ratio = float(means_a.mean() / below)
    spread = _interval((means_a - ratio * means_b) / below)
    return positive(Interval(ratio, ratio + spread.low, ratio + spread.high))


def hit(start: Tensor, label_start: Tensor, k: int) -> Tensor:
    """Whether the address is among the k best candidates.

    Args:
        start: (M, N, K) int64, best first (``Proposals.start``).
        label_start: (M, N) int64.
        k: ``1 <= k <= K``.

    Returns:
        (M, N) bool.

    Raises:
        DataError: k is out of range.
    """
    if not 1 <= k <= start.shape[-1]:
        raise DataError(f"k is {k} but {start.shape[-1]} candidates were proposed; choose k in 1..{start.shape[-1]}")
    return (start[..., :k] == label_start.unsqueeze(-1)).any(-1)


def hit_rate(start: Tensor, labels: Ranges, k: int, counted: Tensor | None = None) -> float | None:
    """Share of known addresses (label length above 0) that ``hit``; None if no address is known.

    Args:
        start: (M, N, K) int64, best first.
        labels: (M, N).
        k: ``1 <= k <= K``.
        counted: (M, N) bool, for instance ``Batch.keyed``; by default all that are known.
    """
    known = labels.length > 0
    if counted is not None:
        known = known & counted
    if not known.any():
        return None
    return mean(hit(start, labels.start, k)[known])


def exact_mask(mask: Tensor, relevant: Tensor) -> float:
    """Share of samples whose whole mask is right; both (M, N) bool."""
    return mean((mask == relevant).all(-1))


def _check_pair(a: Tensor, b: Tensor) -> None:
    if a.shape != b.shape:
        raise DataError(f"errors {tuple(a.shape)} and {tuple(b.shape)} are not paired; give them on the same samples")


def _divisor(means: Tensor) -> Tensor:
    below = means.mean()
    if below == 0:
        raise DataError("the errors to divide by have the mean 0; compare by paired_interval instead")
    return below


def _group_means(values: Tensor, groups: Tensor | None) -> Tensor:
    """(G,) mean of every group."""
    if groups is None:
        return values.flatten(1).mean(1) if values.dim() > 1 else values
    if groups.shape != values.shape:
        raise DataError(f"groups {tuple(groups.shape)} do not fit errors {tuple(values.shape)}; give one a sample")
    names, index = groups.flatten().unique(return_inverse=True)
    sums = torch.zeros(len(names), dtype=values.dtype).index_add_(0, index, values.flatten())
    return sums / index.bincount(minlength=len(names))


def _interval(means: Tensor) -> Interval:
    if len(means) < 2:
        raise DataError(f"an interval needs 2 independent groups and has {len(means)}; evaluate more sequences")
    middle, half = float(means.mean()), _NORMAL_95 * float(means.std()) / len(means) ** 0.5
    return Interval(middle, middle - half, middle + half)
