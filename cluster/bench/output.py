"""What ``leworld bench`` prints for people."""

from __future__ import annotations

from typing import Any

import yaml
from rich.console import Console
from rich.table import Table

Outcome = dict[str, Any]
STYLES = {"met": "green", "within interval": "yellow", "missed": "red"}


def findings_table(outcome: Outcome) -> None:
    """Every claim, and where everything lies."""
    table = Table("study", "figure", box=None, pad_edge=False)
    for name in ("goal", "mean", "95 %", "worst"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("")
    before = None
    for claim in outcome["claims"]:
        name = "" if claim["study"] == before else claim["study"]
        before = claim["study"]
        table.add_row(name, claim["figure"], claim["goal"], *_figures(claim), claim["status"], style=_style(claim))
    Console().print(table)
    print(f"table and pictures: {outcome['out']}/table.md")


def claim_list(studies: list[Outcome]) -> None:
    """The studies with their goals."""
    table = Table("study", "config", "figure", box=None, pad_edge=False)
    table.add_column("goal", justify="right", no_wrap=True)
    for study in studies:
        config = " ".join((study["preset"], *study["changes"]))
        for place, claim in enumerate(study["claims"]):
            table.add_row(*((study["study"], config) if place == 0 else ("", "")), claim["figure"], claim["goal"])
    Console().print(table, highlight=False)


def capacity_table(outcome: Outcome) -> None:
    """A line a width."""
    table = Table("words", box=None, pad_edge=False)
    for name in ("pages", "hit, top 1", "top 4", "propose, ms", "read, ms", "lookup / 2^16"):
        table.add_column(name, justify="right", no_wrap=True)
    for width in outcome["widths"]:
        shares = [f"{width[name]:.4f}" for name in ("hit_top1", "hit_top4")]
        seconds = [f"{1000 * width[name]:.2f}" for name in ("propose_s", "read_s")]
        row = (f"2^{width['address_bits']}", f"{width['pages']:,}", *shares, *seconds, f"{width['cost_ratio']:.3f}")
        table.add_row(*row)
    Console().print(table)
    print(f"a lookup: all SLMs asked and their best ranges read, for {outcome['batch']} samples")


def print_tree(outcome: Outcome) -> None:
    """Plain values as YAML: nested, and short enough to read."""
    print(yaml.safe_dump(outcome, sort_keys=False, allow_unicode=True), end="")


def _figures(claim: Outcome) -> tuple[str, str, str]:
    mean, low, high, worst = (claim[name] for name in ("mean", "low", "high", "worst"))
    spread = "-" if low is None else f"{low:.3g} to {high:.3g}"
    found = "-" if worst is None else f"{claim['values'][worst]:.3g} (seed {worst})"
    return "-" if mean is None else f"{mean:.3g}", spread, found


def _style(claim: Outcome) -> str:
    return STYLES.get(claim["status"], "dim")
