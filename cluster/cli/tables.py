"""Tables of the command line, at a terminal, in a file, and as Markdown."""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterable, Sequence

Row = Sequence[str]
ENDLESS = 1 << 20
"""Columns of a file, which has no right edge."""


def print_table(
    rows: Iterable[Row], head: Row = (), right: Collection[int] = (), styles: Iterable[str] = (), title: str = ""
) -> None:
    """Print rows with their columns aligned. A file gets every row as one line, a terminal wraps long cells.

    Args:
        rows: texts, as many in each row.
        head: of the columns; none leaves the line out.
        right: columns that are aligned to the right.
        styles: a rich style for each row.
        title: above the table.
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, show_header=bool(head), title=title or None, title_justify="left")
    found = list(rows)
    for place, name in enumerate(head or next(iter(found), ())):
        table.add_column(Text(name), justify="right" if place in right else "left", overflow="fold")
    shades = list(styles) or [""] * len(found)
    for row, style in zip(found, shades, strict=True):
        table.add_row(*map(Text, row), style=style)
    console = Console(width=None if sys.stdout.isatty() else ENDLESS)
    with console.capture() as capture:
        console.print(table)
    print("\n".join(line.rstrip() for line in capture.get().splitlines()), flush=True)


def markdown_table(rows: Iterable[Row], head: Row, right: Collection[int] = ()) -> str:
    """Format rows as a table of Markdown."""
    marks = ["---:" if place in right else "---" for place in range(len(head))]
    lines = [" | ".join(row) for row in (head, *rows)]
    return "\n".join([f"| {lines[0]} |", f"|{'|'.join(marks)}|", *(f"| {line} |" for line in lines[1:])])
