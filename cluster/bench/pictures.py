"""The pictures of ``leworld bench learning``: of the claims, and of each study that has one of its own."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from cluster.bench.claims import Goal
from cluster.bench.measures import Outcome
from cluster.bench.table import ClaimRow, Outcomes, over_goal
from leworld.evaluation.claim_pictures import Dot, draw_capacity, draw_claims
from leworld.evaluation.record_curves import draw_curve
from leworld.evaluation.retention import draw_retention

PICTURES: dict[str, Callable[[Any, Path], None]] = {"curve": draw_curve, "retention": draw_retention}
"""Step to what draws its result."""


def draw_pictures(rows: Sequence[ClaimRow], outcomes: Outcomes, out: Path) -> None:
    """Draw what was measured: ``claims.png``, ``capacity.png``, and ``STUDY-STEP.png`` of a study's first seed."""
    dots = [dot for dot in map(to_dot, rows) if dot is not None]
    if dots:
        draw_claims(dots, out / "claims.png")
    widths = found_by("capacity", outcomes.get("capacity", {}))
    if widths:
        draw_capacity(widths, out / "capacity.png")
    for study, seeds in outcomes.items():
        for step, draw in PICTURES.items():
            for result in list(found_by(step, seeds).values())[:1]:
                draw({**result, "world": study}, out / f"{study}-{step}.png")


def found_by(step: str, seeds: Mapping[int, Outcome]) -> dict[int, Any]:
    """What a step gave out, by seed."""
    return {seed: outcome[step] for seed, outcome in seeds.items() if step in outcome}


def to_dot(row: ClaimRow) -> Dot | None:
    """A row as it is drawn; None where it cannot be."""
    mean = over_goal(row, row.mean)
    if mean is None:
        return None
    low, high = over_goal(row, row.low), over_goal(row, row.high)
    values = tuple(value / row.goal.middle for value in row.values.values())
    return Dot(row.study, row.figure, mean, low, high, values, limits_of(row.goal), row.status)


def limits_of(goal: Goal) -> tuple[float | None, float | None]:
    """Both ends of a goal over its middle; None where there is no end."""
    low, high = (bound / goal.middle if math.isfinite(bound) else None for bound in (goal.low, goal.high))
    return low, high
