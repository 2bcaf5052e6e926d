"""Pictures of claims: every figure over its goal, and the cost of a wider memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from leworld.errors import DataError
from leworld.evaluation.drawing import CURVES, LEWORLD, TEXT, legend_beside, plain, save

_COLOURS = {"met": "#1b7f4b", "within interval": "#b8860b", "missed": "#c8553d"}
_LEAST = 1e-3
"""Smaller values are drawn here, as a log axis has no zero."""


@dataclass(frozen=True)
class Dot:
    """A figure over its goal, with its interval if there is one, and each seed's value.

    Attributes:
        limits: the goal over itself: (1, None) for at least, (None, 1) for at most, both for a range.
    """

    study: str
    figure: str
    mean: float
    low: float | None
    high: float | None
    values: tuple[float, ...]
    limits: tuple[float | None, float | None]
    status: str


def draw_claims(dots: Sequence[Dot], path: str | Path) -> None:
    """Draw one line per claim: dot and interval on a log axis, seeds as pale dots, the wrong side shaded.

    Raises:
        DataError: there is no claim to draw.
    """
    if not dots:
        raise DataError("no claim was measured; there is nothing to draw")
    places, heads = _places(dots)
    bottom = places[-1] + 1
    figure = Figure(figsize=(10, 1.5 + 0.19 * bottom), layout="constrained")
    axes = figure.add_subplot()
    left, right = _limits(dots)
    for place, dot in zip(places, dots, strict=True):
        _draw_dot(axes, place, dot, left, right)
    axes.axvline(1, color=TEXT, linewidth=1)
    axes.set(xscale="log", xlim=(left, right), ylim=(bottom - 0.4, -0.6), xlabel="figure / goal (log scale)")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    if right / left < 20:
        axes.set_xticks([tick for tick in (0.1, 0.2, 0.3, 0.5, 0.7, 1, 1.5, 2, 3, 5, 7, 10) if left < tick < right])
    _explain(axes, dots)
    plain(axes)
    axes.set_title("Figures over their goals; shaded is where a goal is missed", loc="left", color=TEXT)
    axes.set_yticks([*places, *heads], [*(dot.figure for dot in dots), *heads.values()], fontsize=8)
    axes.tick_params(axis="y", length=0)
    for label in axes.get_yticklabels()[len(places) :]:
        label.set_fontweight("bold")
    save(figure, path)


def draw_capacity(seeds: Mapping[int, Mapping[str, Any]], path: str | Path) -> None:
    """Draw hit rates and the cost of a lookup against the memory's width: a pale line per seed, and their mean.

    Args:
        seeds: each seed's result of ``measure_capacity``.
        path: of the PNG.

    Raises:
        DataError: there is no seed.
    """
    if not seeds:
        raise DataError("no capacity was measured; there is nothing to draw")
    figure = Figure(figsize=(9.5, 3.4), layout="constrained")
    hits, costs = figure.subplots(1, 2)
    for name, label, colour in (("hit_top1", "top 1", LEWORLD), ("hit_top4", "among four", CURVES[1])):
        _draw_widths(hits, seeds, name, label, colour)
    _draw_widths(costs, seeds, "cost_ratio", "lookup", LEWORLD)
    hits.set(ylabel="right address, share of test samples", ylim=(None, 1.005))
    costs.set(ylabel="cost of a lookup, over that at 2^16", ylim=(0, 1.05 * max(1.15, *costs.get_ylim())))
    costs.axhline(1.1, color=TEXT, linewidth=1, linestyle=(0, (4, 2)))
    costs.annotate("1.1", (0.01, 1.1), xycoords=("axes fraction", "data"), xytext=(0, 3), textcoords="offset points")
    hits.legend(frameon=False, labelcolor=TEXT, loc="lower left")
    for axes in (hits, costs):
        axes.set_xlabel("words of memory")
        plain(axes)
    save(figure, path)


def _places(dots: Sequence[Dot]) -> tuple[list[int], dict[int, str]]:
    """The line of each dot, and of the name above each study."""
    places: list[int] = []
    heads: dict[int, str] = {}
    for before, dot in zip([None, *dots], dots, strict=False):
        line = places[-1] + 1 if places else 0
        if before is None or before.study != dot.study:
            heads[line] = dot.study
            line += 1
        places.append(line)
    return places, heads


def _limits(dots: Sequence[Dot]) -> tuple[float, float]:
    drawn = [
        max(value, _LEAST) for dot in dots for value in (dot.mean, dot.low, dot.high, *dot.values) if value is not None
    ]
    return min(*drawn, 0.9) / 1.15, max(*drawn, 1.1) * 1.15


def _draw_dot(axes: Axes, place: int, dot: Dot, left: float, right: float) -> None:
    low, high = dot.limits
    if low is not None:
        axes.fill_betweenx((place - 0.42, place + 0.42), left, low, color="#f3e3df", linewidth=0, zorder=0)
    if high is not None:
        axes.fill_betweenx((place - 0.42, place + 0.42), high, right, color="#f3e3df", linewidth=0, zorder=0)
    colour = _COLOURS.get(dot.status, TEXT)
    seeds = [max(value, _LEAST) for value in dot.values]
    axes.plot(seeds, [place] * len(seeds), "o", color=colour, alpha=0.3, markersize=3.5, markeredgewidth=0)
    if dot.low is not None and dot.high is not None:
        ends = (max(dot.low, _LEAST), max(dot.high, _LEAST))
        axes.plot(ends, (place, place), color=colour, linewidth=1.8, solid_capstyle="butt")
    axes.plot(max(dot.mean, _LEAST), place, "o", color=colour, markersize=5.5)


def _explain(axes: Axes, dots: Sequence[Dot]) -> None:
    for status in dict.fromkeys(dot.status for dot in dots):
        axes.plot([], [], "o", color=_COLOURS.get(status, TEXT), label=status)
    legend_beside(axes)


def _draw_widths(axes: Axes, seeds: Mapping[int, Mapping[str, Any]], name: str, label: str, colour: str) -> None:
    lines = [[width[name] for width in study["widths"]] for study in seeds.values()]
    bits = [width["address_bits"] for width in next(iter(seeds.values()))["widths"]]
    for line in lines:
        axes.plot(bits, line, color=colour, alpha=0.25, linewidth=1)
    means = [sum(column) / len(column) for column in zip(*lines, strict=True)]
    axes.plot(bits, means, "o-", color=colour, linewidth=1.8, label=label)
    axes.set_xticks(bits, [f"$2^{{{bit}}}$" for bit in bits])
