"""The table: every claim's figure over seeds, its goal, and whether it is met."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from cluster.bench.claims import Claim, Goal, Study
from cluster.bench.measures import Measure, Outcome
from cluster.cli.tables import markdown_table
from leworld.evaluation.metrics import positive
from leworld.evaluation.seeds import mean_interval

Outcomes = Mapping[str, Mapping[int, Outcome]]
"""Study and seed to what its steps gave out."""

MET, NEAR, MISSED, UNKNOWN = "met", "within interval", "missed", "-"


@dataclass(frozen=True)
class ClaimRow:
    """A claim over seeds; numbers are None where nothing was measured, the interval where one seed was.

    Attributes:
        values: by seed.
        worst: the seed whose value is furthest from the goal, or least on its right side.
        status: ``met`` if the mean is, ``within interval`` if only a part of the 95 % interval is, else ``missed``.
    """

    study: str
    figure: str
    goal: Goal
    values: dict[int, float]
    mean: float | None
    low: float | None
    high: float | None
    worst: int | None
    status: str


def table(studies: Sequence[Study], outcomes: Outcomes) -> list[ClaimRow]:
    """A row a claim."""
    return [make_row(study.name, claim, outcomes) for study in studies for claim in study.claims]


def make_row(study: str, claim: Claim, outcomes: Outcomes) -> ClaimRow:
    """One claim over all seeds that were measured."""
    values, goal = claim_values(study, claim, outcomes), claim.goal
    if not values:
        return ClaimRow(study, claim.figure, goal, {}, None, None, None, None, UNKNOWN)
    mean, low, high = spread(list(values.values()), claim.signed or claim.less is not None)
    worst = max(values, key=lambda seed: goal.excess(values[seed]))
    return ClaimRow(study, claim.figure, goal, values, mean, low, high, worst, status_of(goal, mean, low, high))


def claim_values(study: str, claim: Claim, outcomes: Outcomes) -> dict[int, float]:
    """The figure of each seed that has one."""
    own = known(claim.measure, outcomes.get(study, {}))
    if claim.less is None:
        return own
    others = known(claim.measure, outcomes.get(claim.less, {}))
    return {seed: value - others[seed] for seed, value in own.items() if seed in others}


def known(measure: Measure, outcomes: Mapping[int, Outcome]) -> dict[int, float]:
    """A measure of each seed's outcome, where it is there."""
    values = {seed: measure(outcome) for seed, outcome in sorted(outcomes.items())}
    return {seed: value for seed, value in values.items() if value is not None}


def spread(values: Sequence[float], signed: bool) -> tuple[float, float | None, float | None]:
    """Mean, and the ends of its 95 % interval; None where there is one value only.

    Args:
        values: one of each seed.
        signed: whether the figure may be negative; the interval of any other does not reach below 0.
    """
    if len(values) == 1:
        return values[0], None, None
    plain = mean_interval(values)
    interval = plain if signed else positive(plain)
    return interval.mean, interval.low, interval.high


def spread_text(mean: float, low: float | None, high: float | None) -> str:
    """``1.09 [1.07, 1.11]``."""
    return f"{mean:.3g}" if low is None or high is None else f"{mean:.3g} [{low:.3g}, {high:.3g}]"


def status_of(goal: Goal, mean: float, low: float | None, high: float | None) -> str:
    """See ``ClaimRow``."""
    if goal.excess(mean) <= 0:
        return MET
    if low is None or high is None:
        return MISSED
    return NEAR if low <= goal.high and high >= goal.low else MISSED


def to_dict(row: ClaimRow) -> dict[str, object]:
    """A row as ``results.json`` keeps it."""
    return {**asdict(row), "goal": str(row.goal), "over_goal": over_goal(row, row.mean)}


def over_goal(row: ClaimRow, value: float | None) -> float | None:
    """A number of the row over its goal; None where that says nothing."""
    return None if value is None or row.goal.middle <= 0 else value / row.goal.middle


def cells(row: ClaimRow) -> list[str]:
    """The texts of a row: study, figure, goal, mean with its interval, worst seed, status."""
    if row.mean is None:
        return [row.study, row.figure, str(row.goal), "-", "-", row.status]
    worst = "-" if row.worst is None else f"{row.values[row.worst]:.3g} (seed {row.worst})"
    return [row.study, row.figure, str(row.goal), spread_text(row.mean, row.low, row.high), worst, row.status]


LOG_SCALE = "on the log scale where an error or a ratio would else reach below 0"
COLUMNS = ("study", "figure", "goal", "mean [95 %]", "worst", "status")


def markdown(rows: Sequence[ClaimRow], seeds: Sequence[int]) -> str:
    """The table with a line on what it is of."""
    note = f"Seeds {', '.join(map(str, seeds))}; mean over seeds with its 95 % interval by Student's t, {LOG_SCALE}."
    return f"{note}\n\n{markdown_table(map(cells, rows), COLUMNS, right=(2, 3, 4))}\n"
