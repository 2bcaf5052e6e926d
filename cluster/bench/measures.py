"""Measures: how to find a figure in what a study's steps gave out; None where it is not there."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

Outcome = Mapping[str, Any]
Measure = Callable[[Outcome], float | None]


def at(path: str) -> Measure:
    """The number at ``gate.ratios.floor.mean``; a whole number in the path is a place in a list."""

    def measure(outcome: Outcome) -> float | None:
        value: Any = outcome
        for key in path.split("."):
            value = _item(value, key)
        return float(value) if isinstance(value, int | float) else None

    return measure


def gate(path: str) -> Measure:
    """The same in the gate of a training."""
    return at(f"train.gate.{path}")


def over(above: Measure, below: Measure | float) -> Measure:
    """One measure divided by another, or by a number."""

    def measure(outcome: Outcome) -> float | None:
        a, b = above(outcome), below(outcome) if callable(below) else below
        return a / b if a is not None and b else None

    return measure


def or_zero(path: str) -> Measure:
    """``at``, but 0, and so not left out of a mean, where the step was run and has no number."""

    def measure(outcome: Outcome) -> float | None:
        return at(path)(outcome) or (0.0 if path.partition(".")[0] in outcome else None)

    return measure


def least(*measures: Measure) -> Measure:
    """The least of several; None if one is not there."""

    def measure(outcome: Outcome) -> float | None:
        values = [each(outcome) for each in measures]
        known = [value for value in values if value is not None]
        return min(known) if known and len(known) == len(values) else None

    return measure


def gained(outcome: Outcome) -> float | None:
    """What requests save, as a share of what right addresses would."""
    gain, ours = gate("info_gain.mean")(outcome), gate("leworld")(outcome)
    right = gate("oracle_addresses")(outcome)
    if gain is None or ours is None or right is None or not ours + gain - right > 0:
        return None
    return gain / (ours + gain - right)


def training_minutes(outcome: Outcome) -> float | None:
    """How long the phases took together."""
    phases = outcome.get("train", {}).get("timing", {}).get("phases")
    return sum(phase["seconds"] for phase in phases.values()) / 60 if phases else None


def _item(value: Any, key: str) -> Any:
    if isinstance(value, Mapping):
        return value.get(key)
    if isinstance(value, list) and key.isdigit() and int(key) < len(value):
        return value[int(key)]
    return None
