"""Shared by all pictures: colours, plain axes, and writing a file.

Pictures do without pyplot, so they need no global state and no display.
"""

from __future__ import annotations

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

LEWORLD, BASELINE, CONTROL = "#1261a0", "#9aa5b1", "#e0b46c"
FLOOR, ORACLE, TEXT = "#1b7f4b", "#7a3e9d", "#30363d"
CURVES = (LEWORLD, "#c8553d", FLOOR, ORACLE, "#b8860b", "#2a9d8f", "#8d6e63", "#5c6b7a")


def plain(axes: Axes) -> None:
    """Remove the frame and draw a pale grid behind."""
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.grid(axis="both" if axes.get_ylabel() else "x", color="#e3e7eb", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.tick_params(colors=TEXT, labelsize=9)


def legend_beside(axes: Axes) -> None:
    """Put the legend right of the axes."""
    axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1), frameon=False, labelcolor=TEXT, borderaxespad=0)


def save(figure: Figure, path: str | Path) -> None:
    """Write a PNG."""
    FigureCanvasAgg(figure)
    figure.savefig(path, dpi=150, facecolor="white")
