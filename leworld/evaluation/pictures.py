"""Pictures of a report: the gate as bars, and training as curves by phase."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from leworld.errors import DataError
from leworld.evaluation.drawing import (
    BASELINE,
    CONTROL,
    CURVES,
    FLOOR,
    LEWORLD,
    ORACLE,
    TEXT,
    legend_beside,
    plain,
    save,
)

_REWRITTEN = "#7fb0d8"
_SHARE_WORDS = ("hit", "mask", "accuracy", "share")
_LOSS_WORDS = ("loss", "mse", "nll", "entropy")
_WINDOWS = 60
"""A curve is averaged over a sixtieth of its points."""


@dataclass(frozen=True)
class _Bar:
    name: str
    mse: float
    colour: str


def draw_gate(gate: Mapping[str, Any], path: str | Path) -> None:
    """Draw the errors of LeWorld, its baselines and its controls, best first, on a log axis; floor and oracle as lines.

    Args:
        gate: as in ``gate.json``: ``world``, ``leworld``, ``floor``, ``oracle``, ``baselines`` and ``controls``; null
            omits a bar or a line.
        path: of the PNG.

    Raises:
        DataError: there is no error above zero to draw.
    """
    bars = _gate_bars(gate)
    lines = {"floor": _known(gate.get("floor")), "oracle": _known(gate.get("oracle"))}
    left, right = _limits([bar.mse for bar in bars] + [value for value in lines.values() if value is not None])
    figure = Figure(figsize=(9, 1.7 + 0.36 * len(bars)), layout="constrained")
    axes = figure.add_subplot()
    for place, bar in enumerate(bars):
        _draw_bar(axes, place, bar, left, right)
    axes.set(
        xscale="log", xlim=(left, right), ylim=(len(bars) - 0.4, -0.9), xlabel="MSE on held-out worlds (log scale)"
    )
    axes.set_yticks(range(len(bars)), [bar.name for bar in bars])
    axes.set_title(f"The gate: {gate['world']}", loc="left", color=TEXT, fontweight="bold", pad=32)
    _draw_lines(axes, lines)
    plain(axes)
    axes.tick_params(axis="y", length=0)
    _embolden(axes, bars)
    save(figure, path)


def draw_losses(records: Sequence[Mapping[str, Any]], path: str | Path) -> None:
    """Draw training curves: losses on a log axis above, shares (hits, masks) from 0 to 1 below, phases side by side.

    Args:
        records: each with ``phase``, ``step`` and any numbers; those named after a loss or a share are drawn. Steps
            may start again in every phase.
        path: of the PNG.

    Raises:
        DataError: no record has a loss or a share.
    """
    panels = [
        ("loss", _names(records, lambda name: _is(name, _LOSS_WORDS))),
        ("share of samples", _names(records, lambda name: _is(name, _SHARE_WORDS) and not _is(name, _LOSS_WORDS))),
    ]
    panels = [(title, names) for title, names in panels if names]
    if not panels:
        raise DataError(f"none of the {len(records)} training records has a loss or a share; there is nothing to draw")
    figure = Figure(figsize=(9.5, 0.8 + 2.8 * len(panels)), layout="constrained")
    positions, borders = _positions(records)
    for row, (title, names) in enumerate(panels):
        axes = figure.add_subplot(len(panels), 1, row + 1)
        _draw_curves(axes, records, positions, names)
        axes.set(ylabel=title, xlim=(positions[0], max(positions[-1], positions[0] + 1)))
        _scale(axes, shares=title != "loss")
        _mark_phases(axes, borders, named=row == 0)
        legend_beside(axes)
        plain(axes)
    figure.axes[-1].set_xlabel("step")
    save(figure, path)


def _gate_bars(gate: Mapping[str, Any]) -> list[_Bar]:
    """Every error that is known, best first; the oracle is a line, not a bar."""
    bars = [("LeWorld", gate.get("leworld"), LEWORLD), ("LeWorld, rewritten", gate.get("rewritten"), _REWRITTEN)]
    baselines = (gate.get("baselines") or {}).items()
    bars += [(name.replace("_", " "), value, BASELINE) for name, value in baselines if name != "oracle"]
    bars += [
        (f"memory {name.replace('_', ' ')}", value, CONTROL) for name, value in (gate.get("controls") or {}).items()
    ]
    known = [_Bar(name, float(value), colour) for name, value, colour in bars if value is not None]
    return sorted(known, key=lambda bar: math.inf if math.isnan(bar.mse) else bar.mse)


def _known(value: float | None) -> float | None:
    """A value that a log axis can show, else None."""
    return float(value) if value is not None and math.isfinite(value) and value > 0 else None


def _limits(values: list[float]) -> tuple[float, float]:
    """Axis limits with room for the smallest value's bar and the largest value's label."""
    drawn = [value for value in values if _known(value) is not None]
    if not drawn:
        raise DataError("the gate has no error above 0; evaluate the model before drawing it")
    low, high = min(drawn), max(drawn)
    span = max(math.log10(high / low), 0.5)
    return low / 10 ** (0.12 * span), high * 10 ** (0.14 * span)


def _draw_bar(axes: Axes, place: int, bar: _Bar, left: float, right: float) -> None:
    """A bar with its number; one that is not finite reaches the edge and says so."""
    end = min(max(bar.mse, left), right) if math.isfinite(bar.mse) else right
    axes.barh(place, end - left, left=left, height=0.68, color=bar.colour, zorder=2)
    inside = end > right / (right / left) ** 0.1
    weight = "bold" if bar.colour == LEWORLD else "normal"
    axes.annotate(
        f"{bar.mse:.3g}",
        (end, place),
        xytext=(-4 if inside else 4, 0),
        textcoords="offset points",
        ha="right" if inside else "left",
        va="center",
        color=TEXT,
        fontsize=9,
        fontweight=weight,
        zorder=4,
        bbox=None if inside else {"facecolor": "white", "edgecolor": "none", "pad": 0.8, "alpha": 0.85},
    )


def _embolden(axes: Axes, bars: list[_Bar]) -> None:
    """Make LeWorld's name bold."""
    for label, bar in zip(axes.get_yticklabels(), bars, strict=True):
        label.set_color(LEWORLD if bar.colour == LEWORLD else TEXT)
        label.set_fontweight("bold" if bar.colour == LEWORLD else "normal")


def _draw_lines(axes: Axes, lines: Mapping[str, float | None]) -> None:
    """Floor and oracle, named above the bars in two rows, so that near ones do not overlap."""
    known = sorted((value, name) for name, value in lines.items() if value is not None)
    for order, (value, name) in enumerate(known):
        colour = FLOOR if name == "floor" else ORACLE
        axes.axvline(value, color=colour, linewidth=1.4, linestyle=(0, (4, 2)), zorder=3)
        axes.annotate(
            f"{name} {value:.3g}",
            (value, 1),
            xytext=(0, 3 + 11 * order),
            xycoords=("data", "axes fraction"),
            textcoords="offset points",
            ha="center",
            va="bottom",
            color=colour,
            fontsize=9,
        )


def _is(name: str, words: tuple[str, ...]) -> bool:
    return any(word in name for word in words)


def _names(records: Sequence[Mapping[str, Any]], wanted: Callable[[str], bool]) -> list[str]:
    """Names of the numbers that are wanted, in the order they first appear."""
    names: dict[str, None] = {}
    for record in records:
        names.update(dict.fromkeys(name for name, value in record.items() if _is_number(value) and wanted(name)))
    return list(names)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _positions(records: Sequence[Mapping[str, Any]]) -> tuple[NDArray[np.float64], list[tuple[float, str]]]:
    """Where each record stands on one axis of steps, and where each phase begins."""
    positions, borders, offset = [], [], 0.0
    for index, record in enumerate(records):
        if index == 0 or record["phase"] != records[index - 1]["phase"]:
            last = positions[-1] if positions else -math.inf
            offset = last + 1 if record["step"] + offset <= last else offset
            borders.append((record["step"] + offset, str(record["phase"])))
        positions.append(record["step"] + offset)
    return np.array(positions, dtype=np.float64), borders


def _draw_curves(
    axes: Axes, records: Sequence[Mapping[str, Any]], positions: NDArray[np.float64], names: list[str]
) -> None:
    """Draw one colour per name and one line per phase: pale points, and their running mean on top."""
    phases = np.array([str(record["phase"]) for record in records])
    for name, colour in zip(names, CURVES * (len(names) // len(CURVES) + 1), strict=False):
        values = np.array([record[name] if _is_number(record.get(name)) else np.nan for record in records], dtype=float)
        label: str | None = name.replace("_", " ")
        for phase in dict.fromkeys(phases):
            own = (phases == phase) & np.isfinite(values)
            if own.any():
                axes.plot(positions[own], values[own], color=colour, alpha=0.25, linewidth=0.8)
                marker = "o" if own.sum() == 1 else None
                smooth = _running_mean(values[own])
                axes.plot(positions[own], smooth, color=colour, linewidth=1.7, label=label, marker=marker)
                label = None


def _running_mean(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Centred mean over a sixtieth of the points, shorter at both ends."""
    half = len(values) // (2 * _WINDOWS)
    sums = np.concatenate([[0.0], np.cumsum(values)])
    index = np.arange(len(values))
    low, high = np.maximum(index - half, 0), np.minimum(index + half + 1, len(values))
    return (sums[high] - sums[low]) / (high - low)


def _scale(axes: Axes, shares: bool) -> None:
    """Shares from 0 to 1; losses on a log axis if none is zero or below."""
    if shares:
        axes.set_ylim(-0.02, 1.02)
        return
    lowest = min(float(np.min(line.get_ydata())) for line in axes.get_lines())
    if lowest > 0:
        axes.set_yscale("log")


def _mark_phases(axes: Axes, borders: list[tuple[float, str]], named: bool) -> None:
    """Draw a line at the start of each phase, and its name above."""
    for place, (start, name) in enumerate(borders):
        if place:
            axes.axvline(start, color=TEXT, linewidth=0.8, alpha=0.5)
        if named:
            axes.annotate(
                name,
                (start, 1),
                xytext=(3, 4),
                xycoords=("data", "axes fraction"),
                textcoords="offset points",
                color=TEXT,
                fontsize=9,
                fontweight="bold",
            )
