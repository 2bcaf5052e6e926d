"""Details: figures of the studies that have no goal of their own, a column a study, for readers of ``details.md``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cluster.bench.measures import Measure, Outcome, at, gate, or_zero, over
from cluster.bench.table import Outcomes, known, spread, spread_text
from cluster.cli.tables import markdown_table

LOOKED_UP = ("rules-medium", "rules-hard", "rules-no-labels", "pointers")
BODIES = ("cartpole", "pendulum", "acrobot", "hopper", "swimmer", "halfcheetah")
RECORDS = {0: 0, 1: 1, 3: 4, 5: 16, 6: 33}
"""Places in a curve, and how many records were written there."""


@dataclass(frozen=True)
class Detail:
    """A row: what it is, how it is found, what it is multiplied by, and whether it may be negative."""

    label: str
    measure: Measure
    times: float = 1.0
    signed: bool = False


WORST_MEMORY = {"zeroed": "nothing", "shuffled": "another's records"}
POLICIES = ("information", "surprise", "random", "fitness")
OF_ALL = (Detail("error after memory and dynamics were rewritten / before", gate("rewritten_ratio.mean")),)
OF_LOOKED_UP = (
    Detail("error / floor", gate("ratios.floor.mean")),
    Detail("oracle's error / floor", over(gate("oracle"), gate("floor"))),
    Detail("error / best without memory", gate("ratios.no_memory.mean")),
    Detail("right address first, %", gate("hit_top1"), 100),
    Detail("right address in the first four, %", gate("hit_top4"), 100),
    Detail("right address where only a request can tell, %", gate("hit_asked"), 100),
    Detail("mask exactly right, %", gate("exact_mask"), 100),
    Detail("reads a prediction", gate("reads_per_prediction")),
    *(
        Detail(f"error with {what} in memory / best without memory", gate(f"wrong_memory.{name}.mean"))
        for name, what in WORST_MEMORY.items()
    ),
    *OF_ALL,
    Detail("gain of requests, 1,000 x", gate("info_gain.mean"), 1000, signed=True),
    Detail("gain over shuffled requests, 1,000 x", gate("info_controls.shuffled.mean"), 1000, signed=True),
    Detail("gain over random requests, 1,000 x", gate("info_controls.random.mean"), 1000, signed=True),
)
OF_BODIES = (
    Detail("error, 1,000 x", gate("leworld"), 1000),
    Detail("error / oracle, an MLP told the true physics", gate("ratios.oracle.mean")),
    Detail("error / best without memory", gate("ratios.no_memory.mean")),
    Detail("error / GRU with the same records as context", gate("ratios.gru_context.mean")),
    Detail("error / least squares on the same records", gate("ratios.least_squares.mean")),
    Detail("error / exact kNN on the same records", gate("ratios.knn.mean")),
    Detail("error with another body's memory / best without memory", gate("wrong_memory.shuffled.mean")),
    *OF_ALL,
    *(
        Detail(f"error with {count} records, 1,000 x", at(f"curve.leworld.{place}.mean"), 1000)
        for place, count in RECORDS.items()
    ),
    *(Detail(f"words of write-all / kept by {name}, 0 never", or_zero(f"retention.ratio.{name}")) for name in POLICIES),
    *(
        Detail(f"own predictions, {name}, step {step}", gate(f"rollout.{key}.free_running.{step - 1}"))
        for step in (1, 5, 20)
        for key, name in {"leworld": "error", "gru_context": "GRU with context", "oracle": "oracle"}.items()
    ),
)


def details(outcomes: Outcomes) -> str:
    """The tables as Markdown: means over seeds with the intervals of ``spread``; empty if nothing was run."""
    tables = ((OF_LOOKED_UP, LOOKED_UP), (OF_BODIES, BODIES))
    made = [_table(rows, studies, outcomes) for rows, studies in tables if outcomes.keys() & set(studies)]
    return "\n\n".join([*made, ""]) if made else ""


def _table(rows: Sequence[Detail], studies: Sequence[str], outcomes: Outcomes) -> str:
    seeds = ["seeds", *(str(len(outcomes.get(study, {}))) for study in studies)]
    found = [[row.label, *(_cell(row, outcomes.get(study, {})) for study in studies)] for row in rows]
    measured = [cells for cells in found if any(cell != "-" for cell in cells[1:])]
    head = ["", *(f"`{name}`" for name in studies)]
    return markdown_table([seeds, *measured], head, right=range(1, len(head)))


def _cell(row: Detail, outcomes: Mapping[int, Outcome]) -> str:
    values = [row.times * value for value in known(row.measure, outcomes).values()]
    if not values:
        return "-"
    return f"{values[0]:.4g}" if len(values) == 1 else spread_text(*spread(values, row.signed))
