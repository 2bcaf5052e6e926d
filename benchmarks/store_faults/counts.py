"""What became of faults: one row of the table for each kind."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

LINES_KEPT = 5


@dataclass
class Counts:
    """Faults of one kind.

    Attributes:
        name: of the kind.
        injected: how many there were.
        right: after how many all was as it should be: acknowledged writes there, others whole or absent.
        refused: how many were found and said to be there, in one line of an error of ours.
        lost: acknowledged words that were gone or wrong, or wrong words that were served.
        half: halves of writes that were visible.
        died: processes that died, hung, or raised what no user should see.
        lines: the first of those that went wrong.
    """

    name: str
    injected: int = 0
    right: int = 0
    refused: int = 0
    lost: int = 0
    half: int = 0
    died: int = 0
    lines: list[str] = field(default_factory=list)

    @property
    def failed(self) -> bool:
        """Whether one of them was not met as it should be."""
        return bool(self.lost or self.half or self.died) or self.injected != self.right + self.refused

    def tell(self, line: str) -> None:
        """Note what went wrong."""
        if len(self.lines) < LINES_KEPT:
            self.lines.append(line)

    def add(self, other: Counts) -> None:
        """Count others of the same kind too."""
        for name in ("injected", "right", "refused", "lost", "half", "died"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for line in other.lines:
            self.tell(line)


def table(rows: Sequence[Counts]) -> str:
    """A table of plain text."""
    columns = ("injected", "found", "of these mended", "of these refused", "lost words", "half writes", "died")
    width = max(len(row.name) for row in rows)
    lines = ["  ".join(["fault".ljust(width), *columns])]
    for row in rows:
        found = row.right + row.refused
        values = (row.injected, found, row.right, row.refused, row.lost, row.half, row.died)
        cells = [str(value).rjust(len(column)) for value, column in zip(values, columns, strict=True)]
        lines.append("  ".join([row.name.ljust(width), *cells]))
        lines.extend(f"    {line}" for line in row.lines)
    return "\n".join(lines)
