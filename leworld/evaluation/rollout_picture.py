"""A picture of rollouts: how the errors of LeWorld and its rivals grow on their own predictions."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, NullLocator

from leworld.errors import DataError
from leworld.evaluation.drawing import BASELINE, CURVES, FLOOR, LEWORLD, ORACLE, TEXT, legend_beside, plain, save
from leworld.evaluation.rollouts import shown_steps

_COLOURS = {
    "leworld": LEWORLD,
    "oracle": ORACLE,
    "copy_last": BASELINE,
    "gru_context": CURVES[1],
    **dict(zip(("linear", "mlp", "gru"), CURVES[4:], strict=False)),
}
_FORCED = "LeWorld, true states"


def draw_rollouts(gate: Mapping[str, Any], path: str | Path) -> None:
    """Draw the error at every step on a log axis, one line a name; LeWorld's from true states is dashed.

    Args:
        gate: as in ``gate.json``: ``world``, ``floor`` and ``rollout``. A line ends where its error is not finite.
        path: of the PNG.

    Raises:
        DataError: there is no rollout with an error above 0.
    """
    rollout = gate.get("rollout") or {}
    lines = {name: _drawable(found["free_running"]) for name, found in rollout.items()}
    if not any(np.isfinite(values).any() for values in lines.values()):
        raise DataError("the gate has no rollout with an error above 0; evaluate the model before drawing it")
    figure = Figure(figsize=(9.5, 4.2), layout="constrained")
    axes = figure.add_subplot()
    _draw_lines(axes, lines)
    if "leworld" in rollout:
        forced = _drawable(rollout["leworld"]["teacher_forced"])
        axes.plot(_steps(forced), forced, color=LEWORLD, linewidth=1.4, linestyle=(0, (4, 2)), label=_FORCED)
    if gate.get("floor"):
        axes.axhline(gate["floor"], color=FLOOR, linewidth=1.2, linestyle=(0, (1, 2)), label="floor")
    _label(axes, gate["world"], max(len(values) for values in lines.values()))
    save(figure, path)


def _drawable(values: list[float | None]) -> np.ndarray:
    """The values that a log axis can show, the others nan."""
    found = np.array([np.nan if value is None else value for value in values], dtype=np.float64)
    return np.where(np.isfinite(found) & (found > 0), found, np.nan)


def _last(values: np.ndarray) -> float:
    """The last number; one that is not finite ranks worst."""
    return float(values[-1]) if np.isfinite(values[-1]) else np.inf


def _steps(values: np.ndarray) -> np.ndarray:
    return np.arange(1, len(values) + 1)


def _draw_lines(axes: Axes, lines: Mapping[str, np.ndarray]) -> None:
    """Worst first, as the legend has them; LeWorld in front, and thicker; the horizons that reports show are marked."""
    for name, values in sorted(lines.items(), key=lambda line: _last(line[1]), reverse=True):
        ours = name == "leworld"
        axes.plot(
            _steps(values),
            values,
            color=_COLOURS[name],
            linewidth=2.6 if ours else 1.6,
            marker="o",
            markersize=6 if ours else 4,
            markevery=[step - 1 for step in shown_steps(len(values))],
            zorder=4 if ours else 3,
            label="LeWorld" if ours else name.replace("_", " "),
        )


def _label(axes: Axes, world: str, num_steps: int) -> None:
    axes.set(yscale="log", xlabel="steps on its own predictions", ylabel="MSE (log scale)")
    shown = shown_steps(num_steps)
    axes.set_xticks(shown, [str(step) for step in shown])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_title(f"Running free: {world}", loc="left", color=TEXT, fontweight="bold")
    legend_beside(axes)
    plain(axes)
