"""Expectations of the quick studies: what several seeds gave when they were recorded, and what a worse run is."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from cluster.bench.claims import Claim, Goal, Study
from cluster.bench.table import MISSED, UNKNOWN, ClaimRow
from cluster.json_files import write_json
from leworld.errors import ConfigError
from leworld.evaluation.seeds import next_interval

EXPECTED = Path(__file__).with_name("expected.json")

LEAST_WIDTH = 0.01
"""An interval reaches this share of its mean to both sides at least: seeds that agree by chance would allow nothing."""

Record = dict[str, Any]


def read_expected(path: Path = EXPECTED) -> Record:
    """Study to figure to {mean, low, high, seeds}.

    Raises:
        ConfigError: nothing was recorded.
    """
    if not path.is_file():
        raise ConfigError(f"{path}: nothing to compare with; record it with 'leworld bench learning --quick --record'")
    return json.loads(path.read_text(encoding="utf-8"))


def record_expected(rows: Sequence[ClaimRow], path: Path = EXPECTED) -> None:
    """Keep, for each figure, where one seed more falls in 95 % of all cases.

    Raises:
        ConfigError: a figure was measured with fewer than two seeds.
    """
    record: Record = {}
    for row in rows:
        values = list(row.values.values())
        if len(values) < 2:
            raise ConfigError(
                f"{row.study}, {row.figure}: an expectation needs 2 seeds and has {len(values)}; give --seeds 3"
            )
        record.setdefault(row.study, {})[row.figure] = {**_next(values), "seeds": len(values)}
    write_json(path, record)


def with_expected(studies: Sequence[Study], record: Record) -> list[Study]:
    """The same studies, whose goals are the near ends of what was recorded.

    Raises:
        ConfigError: a figure was not recorded.
    """
    return [
        replace(study, claims=tuple(_expected(study.name, claim, record) for claim in study.claims))
        for study in studies
    ]


def regressions(rows: Sequence[ClaimRow], record: Record) -> list[str]:
    """A line for each figure that is worse than recorded, or is gone."""
    return [_complaint(row, record[row.study][row.figure]) for row in rows if row.status in (MISSED, UNKNOWN)]


def _next(values: Sequence[float]) -> dict[str, float]:
    found = next_interval(values)
    least = LEAST_WIDTH * abs(found.mean)
    return {"mean": found.mean, "low": min(found.low, found.mean - least), "high": max(found.high, found.mean + least)}


def _expected(study: str, claim: Claim, record: Record) -> Claim:
    try:
        entry = record[study][claim.figure]
    except KeyError:
        raise ConfigError(
            f"{study}, {claim.figure}: not recorded; record it with 'leworld bench learning --quick --record'"
        ) from None
    low = entry["low"] if math.isfinite(claim.goal.low) else -math.inf
    high = entry["high"] if math.isfinite(claim.goal.high) else math.inf
    return replace(claim, goal=Goal(low, high))


def _complaint(row: ClaimRow, entry: Record) -> str:
    found = "was not measured" if row.mean is None else f"is {row.mean:.4g}"
    recorded = f"mean {entry['mean']:.4g} of {entry['seeds']} seeds"
    return f"{row.study}: {row.figure} {found}, expected {row.goal} ({recorded})"
