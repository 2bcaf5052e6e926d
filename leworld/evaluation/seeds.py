"""Intervals over seeds: a few runs that differ only in their random draws.

Shapes:
    n: seeds.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from leworld.errors import DataError
from leworld.evaluation.metrics import Interval

# fmt: off
_STUDENT_95 = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131,
    2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
)
# fmt: on


def mean_interval(values: Sequence[float]) -> Interval:
    """95 % interval of the mean over n seeds, by Student's t.

    Errors and ratios of errors cannot be negative: pass their interval through ``metrics.positive``.

    Raises:
        DataError: there are fewer than two values.
    """
    return _interval(values, 1 / len(values) if values else 0)


def next_interval(values: Sequence[float]) -> Interval:
    """The interval that holds one more seed in 95 % of cases, as n seeds predict it.

    Raises:
        DataError: there are fewer than two values.
    """
    return _interval(values, 1 + 1 / len(values) if values else 0)


def student_95(freedom: int) -> float:
    """The factor of a two-sided 95 % interval with ``freedom`` degrees of freedom, at least 1."""
    # Beyond the table the first term of the expansion about the normal is right to a thousandth.
    return _STUDENT_95[freedom - 1] if freedom <= len(_STUDENT_95) else 1.96 + 2.42 / freedom


def _interval(values: Sequence[float], variances: float) -> Interval:
    if len(values) < 2:
        raise DataError(f"an interval over seeds needs 2 and has {len(values)}; run more seeds")
    mean = statistics.fmean(values)
    half = student_95(len(values) - 1) * statistics.stdev(values) * variances**0.5
    return Interval(mean, mean - half, mean + half)
