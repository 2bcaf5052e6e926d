"""Curves: error against the number of records that the memory holds of each test body.

The result of ``measure_curve``, errors in the world's units, all on the same samples; intervals are of 95 %, and
bodies are the independent groups, each of which counts alike::

    world                   its name
    records                 [0, 1, 2, 4, ...], up to all that the world stores
    samples                 how many
    leworld                 [{mean, low, high}], one for each number of records
    rivals {name: [...]}    the same of predictors that were given the same records; None if they have none
    versus {name: [...]}    error of a rival less ours, paired: above 0 if we win
    steps                   [{mean, low, high}], error at one number of records less that at the next: above 0 where
                            more records help
    falls                   True if no interval of ``steps`` is wholly below 0
    lines {name: {...}}     predictors that use no records, such as ``oracle`` and the best without memory
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, StrMethodFormatter
from torch import Tensor

from leworld.errors import ConfigError
from leworld.evaluation.baselines import evaluate
from leworld.evaluation.drawing import BASELINE, CURVES, LEWORLD, ORACLE, TEXT, legend_beside, plain, save
from leworld.evaluation.metrics import paired_interval, positive
from leworld.evaluation.predictor import Predictor
from leworld.evaluation.trials import reading, teacher_forced
from leworld.memory import Memory, Receipt, WordStore
from leworld.models.system import System
from leworld.types import Batch, Split
from leworld.worlds.base import Keys, Stored
from leworld.worlds.trajectories import TrajectoryWorld

Rival = Callable[["FewerRecords"], Predictor]


class FewerRecords:
    """A world whose memory holds only the first ``records`` transitions of each body."""

    def __init__(self, world: TrajectoryWorld, records: int) -> None:
        self.world = world
        self.records = records
        self.spec = world.spec

    def populate(self, memory: Memory, split: Split) -> list[Receipt]:
        """Write the first ``records`` of each body."""
        return self.world.populate(memory, split, self.records)

    def outdate(self, memory: Memory, split: Split) -> None:
        """The world's."""
        self.world.outdate(memory, split)

    def batch(self, split: Split, batch_size: int, generator: torch.Generator) -> Batch:
        """The world's."""
        return self.world.batch(split, batch_size, generator)

    def keys(self, batch_size: int, generator: torch.Generator) -> Keys:
        """The world's."""
        return self.world.keys(batch_size, generator)

    def stored(self, world: Tensor) -> Stored | None:
        """The first ``records`` of each body."""
        return self.world.stored(world, self.records)


def record_counts(capacity: int) -> list[int]:
    """0, 1, 2, 4 ... and the capacity, without a power of two just below it."""
    powers = [1 << exponent for exponent in range(capacity.bit_length())]
    return [0, *(power for power in powers if 4 * power <= 3 * capacity), capacity]


def measure_curve(
    world: TrajectoryWorld,
    system: System,
    batch: Batch,
    *,
    rivals: Mapping[str, Rival] | None = None,
    lines: Mapping[str, Predictor] | None = None,
    records: list[int] | None = None,
) -> dict[str, Any]:
    """Write ever more records of the test bodies to memories of their own, and predict from each.

    Args:
        world: whose test bodies are written.
        system: its weights are used, its memory is not.
        batch: (B, T) test sequences of two bodies or more.
        rivals: by name, function from a world with few records to a predictor; called from one record on.
        lines: predictors that do not depend on records.
        records: how many, ascending; by default ``record_counts`` of the world.

    Raises:
        ConfigError: ``records`` does not ascend.
    """
    counts = record_counts(world.num_records) if records is None else records
    if sorted(set(counts)) != counts or not counts:
        raise ConfigError(f"records {counts} do not ascend: give numbers such as {record_counts(world.num_records)}")
    scale = world.spec.scale
    cuts = [FewerRecords(world, count) for count in counts]
    ours = [_our_error(cut, system, batch) for cut in cuts]
    others = {name: [_error(rival, cut, batch) for cut in cuts] for name, rival in (rivals or {}).items()}
    steps = [paired_interval(a, b, batch.world) for a, b in itertools.pairwise(ours)]
    return {
        "world": world.spec.name,
        "records": counts,
        "samples": ours[0].numel(),
        "leworld": [_interval(error, None, batch) for error in ours],
        "rivals": {name: [_interval(error, None, batch) for error in found] for name, found in others.items()},
        "versus": {
            name: [_interval(a, b, batch) for a, b in zip(found, ours, strict=True)] for name, found in others.items()
        },
        "steps": [step.to_dict() for step in steps],
        "falls": all(step.high >= 0 for step in steps),
        "lines": {name: _interval(evaluate(p, [batch], scale), None, batch) for name, p in (lines or {}).items()},
    }


def _our_error(cut: FewerRecords, system: System, batch: Batch) -> Tensor:
    memory = WordStore(cut.spec.address_bits)
    cut.populate(memory, "test")
    return teacher_forced(reading(system, memory), batch).error


def _error(rival: Rival, cut: FewerRecords, batch: Batch) -> Tensor | None:
    return evaluate(rival(cut), [batch], cut.spec.scale) if cut.records else None


def _interval(error: Tensor | None, other: Tensor | None, batch: Batch) -> dict[str, float] | None:
    """Interval of an error, or of its difference to another."""
    if error is None:
        return None
    found = paired_interval(error, other, batch.world)
    return (positive(found) if other is None else found).to_dict()


def draw_curve(curve: Mapping[str, Any], path: str | Path) -> None:
    """Draw errors against records on log axes, with intervals, and lines for predictors without records.

    Args:
        curve: the result of ``measure_curve``.
        path: of the PNG.
    """
    figure = Figure(figsize=(8.5, 4.6), layout="constrained")
    axes = figure.add_subplot()
    counts = curve["records"]
    for (name, found), colour in zip(curve["rivals"].items(), CURVES[1:], strict=False):
        draw_intervals(axes, counts, found, name.replace("_", " "), colour)
    draw_intervals(axes, counts, curve["leworld"], "LeWorld", LEWORLD)
    for name, interval in curve["lines"].items():
        colour = ORACLE if name == "oracle" else BASELINE
        axes.axhline(interval["mean"], color=colour, linewidth=1.4, linestyle=(0, (4, 2)), label=name.replace("_", " "))
    log_records(axes, counts)
    axes.set(xlabel="records written of each body", ylabel="MSE on held-out bodies")
    axes.set_title(f"What records are worth: {curve['world']}", loc="left", color=TEXT, fontweight="bold")
    plain(axes)
    legend_beside(axes)
    save(figure, path)


def log_records(axes: Axes, counts: list[int]) -> None:
    """Log axes with a place for 0 records: the lower one is linear up to one record."""
    axes.set_xscale("symlog", linthresh=1, linscale=0.6)
    axes.set_yscale("log")
    axes.set_xticks(counts, [str(count) for count in counts])
    axes.set_xlim(counts[0] - 0.1, counts[-1] * 1.1)
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.minorticks_off()


def draw_intervals(
    axes: Axes, counts: list[int], found: list[Mapping[str, float] | None], label: str, colour: str
) -> None:
    """Draw a curve and the band of its intervals; None is omitted."""
    known = [(count, interval) for count, interval in zip(counts, found, strict=True) if interval is not None]
    places = [count for count, _ in known]
    lowest = min(interval["mean"] for _, interval in known)
    low = [max(interval["low"], lowest / 10) for _, interval in known]
    axes.fill_between(places, low, [interval["high"] for _, interval in known], color=colour, alpha=0.15, linewidth=0)
    axes.plot(places, [i["mean"] for _, i in known], color=colour, linewidth=1.7, marker="o", markersize=4, label=label)
