"""What ``leworld bench`` prints for people."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import yaml

from cluster.cli.tables import print_table

Outcome = dict[str, Any]
STYLES = {"met": "green", "within interval": "yellow", "missed": "red"}


def findings_table(outcome: Outcome) -> None:
    """Print every claim, and where the files are."""
    claims = outcome["claims"]
    rows = [
        (name, claim["figure"], claim["goal"], *_figures(claim), claim["status"])
        for name, claim in zip(_once(claim["study"] for claim in claims), claims, strict=True)
    ]
    head = ("study", "figure", "goal", "mean", "95 %", "worst", "")
    print_table(rows, head, right=range(2, 6), styles=[STYLES.get(claim["status"], "dim") for claim in claims])
    print(f"table and pictures: {outcome['out']}/table.md")


def claim_list(studies: list[Outcome]) -> None:
    """Print the studies with their goals."""
    rows = [
        (study["study"], " ".join((study["preset"], *study["changes"])), claim["figure"], claim["goal"])
        for study in studies
        for claim in study["claims"]
    ]
    names = _once(row[0] for row in rows)
    shown = [row if name else ("", "", *row[2:]) for name, row in zip(names, rows, strict=True)]
    print_table(shown, ("study", "config", "figure", "goal"), right=(3,))


def capacity_table(outcome: Outcome) -> None:
    """Print a line for each width of an address."""
    rows = []
    for width in outcome["widths"]:
        shares = [f"{width[name]:.4f}" for name in ("hit_top1", "hit_top4")]
        seconds = [f"{1000 * width[name]:.2f}" for name in ("propose_s", "read_s")]
        cost = f"{width['cost_ratio']:.3f}"
        rows.append((f"2^{width['address_bits']}", f"{width['pages']:,}", *shares, *seconds, cost))
    head = ("words", "pages", "hit, top 1", "top 4", "propose, ms", "read, ms", "lookup / 2^16")
    print_table(rows, head, right=range(1, 7))
    print(f"a lookup: all SLMs asked and their best ranges read, for {outcome['batch']} samples")


def print_tree(outcome: Outcome) -> None:
    """Plain values as YAML: nested, and short enough to read."""
    print(yaml.safe_dump(outcome, sort_keys=False, allow_unicode=True), end="")


def _figures(claim: Outcome) -> tuple[str, str, str]:
    mean, low, high, worst = (claim[name] for name in ("mean", "low", "high", "worst"))
    spread = "-" if low is None else f"{low:.3g} to {high:.3g}"
    found = "-" if worst is None else f"{claim['values'][worst]:.3g} (seed {worst})"
    return "-" if mean is None else f"{mean:.3g}", spread, found


def _once(names: Iterable[str]) -> list[str]:
    """Names, but empty where one is the same as the name before."""
    found = list(names)
    return ["" if name == before else name for name, before in zip(found, ["", *found], strict=False)]
