"""Retention: the error of policies that choose which few records of each body a memory keeps.

Every policy of ``leworld.evaluation.retention_policies`` sees the same streams, and all hold equally many words.
The result of ``measure_retention``, errors in the world's units on transitions of test bodies that no policy
saw; intervals are of 95 %, with bodies as the independent groups::

    world, bodies, samples, stream  the setting: ``stream`` transitions are seen of a body
    rooms, record_words             records that a body has room for, and the words of each
    policies {name: [...]}          {mean, low, high}, one for each room
    versus_random {name: [...]}     error of random less that of the policy, paired: above 0 if the policy is better
    target                          the error of writing all until the largest room is full
    words {name: float}             words per body at which the policy reaches the target, interpolated between rooms
                                    in logarithms; None if it never does
    ratio {name: float}             words of writing all over these
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from leworld.errors import ConfigError
from leworld.evaluation.drawing import BASELINE, CURVES, TEXT, legend_beside, plain, save
from leworld.evaluation.metrics import mean, paired_interval
from leworld.evaluation.record_curves import log_records
from leworld.evaluation.record_sets import SetReader, body_streams
from leworld.evaluation.retention_policies import KeepingConfig, policies, typical_moments
from leworld.models.system import System
from leworld.worlds.trajectories import TrajectoryWorld


@dataclass(frozen=True)
class RetentionConfig:
    """``rooms`` to try, in records of a body, ascending; ``keeping`` limits the policies' cost."""

    rooms: tuple[int, ...] = (0, 1, 2, 4, 8, 12, 16, 24, 33)
    keeping: KeepingConfig = field(default_factory=KeepingConfig)

    def __post_init__(self) -> None:
        if list(self.rooms) != sorted(set(self.rooms)) or len(self.rooms) < 2 or self.rooms[0] < 0:
            raise ConfigError(f"retention: rooms {self.rooms} must be two or more, ascending, from 0 on")


def measure_retention(world: TrajectoryWorld, system: System, config: RetentionConfig, seed: int) -> dict[str, Any]:
    """Try all policies.

    Args:
        world: its bodies need two sequences or more; a body's stream is its stored transitions and all of its
            sequences but the last.
        system: its weights are used, its memory is not; right addresses are read.
        config: the rooms and the policies' limits.
        seed: of all random draws.

    Raises:
        ConfigError: a room is larger than a stream.
        DataError: a body has too few sequences.
    """
    streams = body_streams(world, "test")
    length = streams.words.shape[1]
    if config.rooms[-1] > length:
        raise ConfigError(
            f"retention: {config.rooms[-1]} records are more than the {length} of a stream: give smaller rooms"
        )
    typical = typical_moments(SetReader(system, body_streams(world, "train", config.keeping.train_bodies)))
    reader = SetReader(system, streams)
    keeps = policies(reader, typical, config.keeping, seed)
    found = {name: [reader.test_errors(keep(room)) for room in config.rooms] for name, keep in keeps.items()}
    means = {name: [mean(error) for error in errors] for name, errors in found.items()}
    target = means["first"][-1]
    record_words = world.spec.record_words
    needed = {name: records_needed(config.rooms, errors, target) for name, errors in means.items()}
    # By definition, writing all needs the largest room.
    needed["first"] = float(config.rooms[-1])
    return {
        "world": world.spec.name,
        "bodies": len(streams.world),
        "samples": found["first"][0].numel(),
        "stream": length,
        "rooms": list(config.rooms),
        "record_words": record_words,
        "policies": {name: [paired_interval(error).to_dict() for error in errors] for name, errors in found.items()},
        "versus_random": {
            name: [paired_interval(r, e).to_dict() for r, e in zip(found["random"], errors, strict=True)]
            for name, errors in found.items()
        },
        "target": target,
        "words": {name: None if count is None else count * record_words for name, count in needed.items()},
        "ratio": {name: None if not count else config.rooms[-1] / count for name, count in needed.items()},
    }


def records_needed(rooms: tuple[int, ...], errors: list[float], target: float) -> float | None:
    """The least room at which the error is no more than the target, in logarithms between the rooms tried."""
    if errors[0] <= target:
        return float(rooms[0])
    for (room, error), (following, lower) in zip(
        zip(rooms, errors, strict=True), zip(rooms[1:], errors[1:], strict=True), strict=False
    ):
        if lower <= target:
            part = math.log(error / target) / math.log(error / lower)
            return math.exp(math.log(room + 1) + part * math.log((following + 1) / (room + 1))) - 1
    return None


def draw_retention(result: Mapping[str, Any], path: str | Path) -> None:
    """Draw the error of every policy against the room, both on log axes, and the error that is to be reached; a full
    mark where a policy's interval against random excludes zero.

    Args:
        result: of ``measure_retention``.
        path: of the PNG.
    """
    figure = Figure(figsize=(8.5, 4.6), layout="constrained")
    axes = figure.add_subplot()
    for (name, found), colour in zip(result["policies"].items(), CURVES[::-1], strict=False):
        means = [interval["mean"] for interval in found]
        told = [interval["low"] > 0 or interval["high"] < 0 for interval in result["versus_random"][name]]
        axes.plot(result["rooms"], means, color=colour, linewidth=1.7, label=_label(name, result["ratio"][name]))
        faces = [colour if sure else "white" for sure in told]
        axes.scatter(result["rooms"], means, s=22, c=faces, edgecolors=colour, linewidths=1.2, zorder=3)
    axes.axhline(result["target"], color=BASELINE, linewidth=1.4, linestyle=(0, (4, 2)), label="to be reached")
    log_records(axes, result["rooms"])
    axes.set(xlabel="room for records of each body (full marks: unlike random, 95 %)", ylabel="MSE on held-out bodies")
    axes.set_title(f"What is worth keeping: {result['world']}", loc="left", color=TEXT, fontweight="bold")
    plain(axes)
    legend_beside(axes)
    save(figure, path)


def _label(name: str, ratio: float | None) -> str:
    if name == "first":
        return "first: write all until full"
    return name if ratio is None else f"{name}: {ratio:.2g} x fewer words"
