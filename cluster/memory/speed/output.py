"""What ``leworld memory bench`` prints for people."""

from __future__ import annotations

from typing import Any

from cluster.cli.tables import print_table
from cluster.memory.numbers import size

Outcome = dict[str, Any]
_IN_RAM = ("tmpfs", "ramfs")


def table(outcome: Outcome) -> None:
    """A line a row, and what they mean."""
    print(_head(outcome))
    print()
    head = ("", "a second", "", "median", "99 %", "beside")
    print_table(map(_cells, outcome["rows"]), head, right=(1, 2, 3, 4))
    print()
    for line in _notes(outcome):
        print(line)


def _head(outcome: Outcome) -> str:
    machine, settings = outcome["machine"], outcome["settings"]
    disk = f" on {outcome['disk']}" if outcome["disk"] else ""
    what = f"{outcome['target']}{disk}" if outcome["target"] else f"a memory made for this in {outcome['memory']}{disk}"
    return (
        f"{what}: {size(4 * outcome['num_words'])}, ranges and blocks of {settings['range_words']} words,"
        f" {machine['cores']} cores"
    )


def _cells(row: Outcome) -> tuple[str, ...]:
    rate, throughput = "", ""
    if row["unit"]:
        rate, throughput = f"{_short(row['rate'])} {row['unit'].removesuffix('/s')}", f"{_bytes(row['bytes_per_s'])}/s"
    beside = ""
    if row["beside"]:
        low, high = row["ratio_quartiles"]
        beside = f"{row['ratio']:.2g} [{low:.2g}, {high:.2g}] x {row['beside']}"
    return row["name"], rate, throughput, _time(row["p50_s"]), _time(row["p99_s"]), beside


def _notes(outcome: Outcome) -> list[str]:
    settings, names = outcome["settings"], " ".join(row["name"] for row in outcome["rows"])
    lines = [
        f"Times are of a batch: {settings['batch']:,} ranges, {settings['wire_ranges']} over the wire,"
        f" {settings['blocks']} blocks.",
        "Rates and ratios are those of the middle round; all rows took turns in each. With ratios stand their"
        " quartiles: where these are far apart, the machine is busy.",
    ]
    if "numpy" in names:
        lines.append(
            "Beside numpy: what is left of copying the same bytes bare when every read also sees no half write and no"
            " damage."
        )
    if "bare" in names:
        lines.append(
            "Beside the bare disk or file: what is left of appending the blocks' bytes alone when what they replace,"
            " checksums and the words themselves are written, too."
        )
    if "over the wire" in names:
        lines.append("Over the wire: question and answer one after another, through a socket.")
    if outcome["disk"] in _IN_RAM:
        lines.append(f"{outcome['disk']} is no disk: name a directory on one with --dir to see what syncing costs.")
    return lines


def _short(value: float) -> str:
    for factor, letter in ((1e9, " G"), (1e6, " M"), (1e3, " K")):
        if value >= factor:
            return f"{value / factor:.3g}{letter}"
    return f"{value:.3g}"


def _bytes(value: float) -> str:
    return f"{value:.3g} B" if value < 1024 else size(int(value))


def _time(seconds: float) -> str:
    for factor, unit in ((1.0, "s"), (1e-3, "ms")):
        if seconds >= factor:
            return f"{seconds / factor:.3g} {unit}"
    return f"{seconds / 1e-6:.3g} µs"
