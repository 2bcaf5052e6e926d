"""Rivals that take turns, and the ratios that come of it."""

from __future__ import annotations

import math
import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

Rate = Callable[[float], float]
"""Works for about so many seconds and says how many units a second it did."""
Rates = Mapping[str, Sequence[float]]
"""Name of a rival to its rate in each round."""


@dataclass(frozen=True)
class Comparison:
    """One line of the table: ours against a rival, round by round.

    Attributes:
        row: name of the group of lines.
        ours, rival: who.
        unit: of ``own`` and ``other``, which are quantities a round.
        ratios: a round, above 1 where ours is better; empty where the rival could not be run.
        goal: least ratio that is wanted.
        note: what a reader must know.
    """

    row: str
    ours: str
    rival: str
    unit: str = ""
    own: tuple[float, ...] = ()
    other: tuple[float, ...] = ()
    ratios: tuple[float, ...] = ()
    goal: float | None = None
    note: str = ""

    @property
    def status(self) -> str:
        """Whether the goal is met; by the median alone where the interval reaches over it."""
        if self.goal is None or not self.ratios:
            return ""
        low, high = interval(self.ratios)
        if low >= self.goal:
            return "met"
        if high < self.goal:
            return "missed"
        return "met by the median" if statistics.median(self.ratios) >= self.goal else "missed by the median"

    def as_map(self) -> dict[str, Any]:
        """All of it, for JSON."""
        middle = statistics.median(self.ratios) if self.ratios else None
        between = interval(self.ratios) if self.ratios else None
        return {**asdict(self), "ratio": middle, "interval": between, "status": self.status}


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Where the median is with 95 %, whatever the distribution: order statistics; least and most of fewer than 6."""
    count, outside, rank = len(values), 0.0, 0
    while rank < count // 2:
        outside += 2 * math.comb(count, rank) / 2**count
        if outside > 0.05:
            break
        rank += 1
    first = max(0, rank - 1)
    ordered = sorted(values)
    return ordered[first], ordered[count - 1 - first]


def rate_of(call: Callable[[], int], seconds: float) -> float:
    """Units a second of a call that does some units and says how many."""
    count, begin = 0, time.perf_counter()
    while (now := time.perf_counter()) - begin < seconds:
        count += call()
    return count / (now - begin)


def interleave(
    rivals: Mapping[str, Rate], rounds: int, seconds: float, between: Callable[[], object] | None = None
) -> Rates:
    """The rates of rivals that take turns; who goes first changes by the round; a first round is not counted.

    Args:
        rivals: name to rate.
        rounds: that are counted.
        seconds: a turn.
        between: done before each turn, not counted.
    """
    names, rates = list(rivals), {name: [] for name in rivals}
    for turn in range(rounds + 1):
        shift = turn % len(names)
        for name in names[shift:] + names[:shift]:
            if between is not None:
                between()
            rate = rivals[name](seconds)
            if turn:
                rates[name].append(rate)
    return rates


def compare_rates(
    row: str, unit: str, rates: Rates, ours: str, rival: str, *, goal: float | None = None, note: str = ""
) -> Comparison:
    """Ours against a rival, both rates of ``rates``: the more the better."""
    own, other = tuple(rates[ours]), tuple(rates[rival])
    ratios = tuple(a / b for a, b in zip(own, other, strict=True))
    return Comparison(row, ours, rival, unit, own, other, ratios, goal, note)


def compare_times(
    row: str, own: Sequence[float], other: Sequence[float], ours: str, rival: str, *, goal: float | None = None,
    note: str = "",
) -> Comparison:  # fmt: skip
    """Seconds of ours against those of a rival: the less the better."""
    ratios = tuple(b / a for a, b in zip(own, other, strict=True))
    return Comparison(row, ours, rival, "s", tuple(own), tuple(other), ratios, goal, note)


def against_goal(row: str, unit: str, rates: Rates, ours: str, goal: float) -> Comparison:
    """A rate against a fixed one that is wanted."""
    own = tuple(rates[ours])
    return Comparison(
        row, ours, f"goal of {quantity(goal, unit)}", unit, own, (goal,) * len(own), tuple(a / goal for a in own), 1.0
    )


def table(lines: Sequence[Comparison]) -> str:
    """The comparisons as a table of Markdown, with notes below."""
    head = ("row", "ours", "rival", "ratio, median [95 %]", "ours", "rival", "goal", "status")
    rows = [head, *(_cells(line) for line in lines)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    printed = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in rows
    ]
    printed.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    notes = dict.fromkeys(f"{line.row}, {line.rival}: {line.note}" for line in lines if line.note)
    return "\n".join([*printed, "", *notes]).rstrip()


def quantity(value: float, unit: str) -> str:
    """A number with its unit, in three digits: 2.31 M ranges/s."""
    if unit == "s":
        return f"{value * 1000:.3g} ms" if value < 1 else f"{value:.3g} s"
    for factor, letter in ((1e6, "M "), (1e3, "K ")):
        if value >= factor:
            return f"{value / factor:.3g} {letter}{unit}"
    return f"{value:.3g} {unit}"


def settle_disk() -> None:
    """Have the disk done with what was written before, so that no rival pays for another."""
    os.sync()


def _cells(line: Comparison) -> tuple[str, ...]:
    goal = "" if line.goal is None else f">= {line.goal:g}"
    if not line.ratios:
        return (line.row, line.ours, line.rival, "not measured", "", "", goal, "")
    low, high = interval(line.ratios)
    ratio = f"{statistics.median(line.ratios):.3g} [{low:.3g}, {high:.3g}]"
    own, other = (quantity(statistics.median(values), line.unit) for values in (line.own, line.other))
    return (line.row, line.ours, line.rival, ratio, own, other, goal, line.status)
