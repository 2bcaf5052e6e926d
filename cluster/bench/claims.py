"""What a claim is: a figure of a study, and what it should be."""

from __future__ import annotations

import math
from dataclasses import dataclass

from cluster.bench.measures import Measure


@dataclass(frozen=True)
class Goal:
    """A figure meets it within ``[low, high]``."""

    low: float = -math.inf
    high: float = math.inf

    def __str__(self) -> str:
        if math.isinf(self.low):
            return f"<= {self.high:g}"
        return f">= {self.low:g}" if math.isinf(self.high) else f"{self.low:g} to {self.high:g}"

    def excess(self, value: float) -> float:
        """How far a value is on the wrong side, or below 0 how far it is on the right one."""
        return max(self.low - value, value - self.high)

    @property
    def middle(self) -> float:
        """What a figure is drawn over: the limit, or the middle between two."""
        finite = [bound for bound in (self.low, self.high) if math.isfinite(bound)]
        return sum(finite) / len(finite)


@dataclass(frozen=True)
class Claim:
    """A figure of a study and its goal.

    Attributes:
        less: a study whose same figure, of the same seed, is subtracted first.
        signed: whether the figure may be negative, as a gain may and an error may not.
    """

    figure: str
    measure: Measure
    goal: Goal
    less: str | None = None
    signed: bool = False


@dataclass(frozen=True)
class Study:
    """What is run once a seed.

    Attributes:
        preset: and ``changes``: the config.
        steps: ``train``, then measurements of the run, each a command of its own; or ``capacity`` alone.
        by_name: whether it is run only where it is named, as it takes long.
    """

    name: str
    preset: str
    claims: tuple[Claim, ...]
    changes: tuple[str, ...] = ()
    steps: tuple[str, ...] = ("train",)
    by_name: bool = False


def at_most(figure: str, measure: Measure, high: float) -> Claim:
    """A claim that a figure is no higher."""
    return Claim(figure, measure, Goal(high=high))


def at_least(figure: str, measure: Measure, low: float, signed: bool = False) -> Claim:
    """A claim that a figure is no lower."""
    return Claim(figure, measure, Goal(low=low), signed=signed)


def within(figure: str, measure: Measure, low: float, high: float) -> Claim:
    """A claim that a figure is neither lower nor higher."""
    return Claim(figure, measure, Goal(low, high))
