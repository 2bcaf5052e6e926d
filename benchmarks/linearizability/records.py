"""What is written and read, and what is noted down of it: in files, so that nothing is lost with whoever is killed.

Shapes:
    K: key ranges.  N: operations.  W: words.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from leworld.memory import Words

from .checker import INITIAL, NEVER, TORN, History, Ints

ADDRESS_BITS = 16
LENGTHS = (1, 3, 8, 64, 200, 256)
STRIPE_WORDS = 4096
CAPACITY = 1 << 20
COLUMNS = ("client", "key", "write", "state", "value", "begin", "end")
ASKED, DONE, UNKNOWN = 1, 2, 3
_STEP = 0x9E3779B1


@dataclass(frozen=True)
class Keys:
    """(K,) ranges of words that do not overlap, each a register; one next to the other, across pages and stripes."""

    start: Ints
    length: Ints

    @classmethod
    def some(cls, count: int) -> Keys:
        """A number of them."""
        length = np.resize(np.array(LENGTHS, np.int64), count)
        # The first few end behind the begin of a stripe.
        first = STRIPE_WORDS - 100 - (length[:5].sum() if count > 5 else 0)
        return cls(first + np.cumsum(length) - length, length)


def block(value: int, length: int) -> NDArray[np.uint32]:
    """The words that stand for a value: all differ, and none is like that of another value at its place."""
    return (value + np.arange(length, dtype=np.uint64) * _STEP).astype(np.uint32)


def value_of(words: NDArray[np.uint32]) -> int:
    """The value that words stand for; TORN where they stand for none."""
    value = int(words[0])
    if value and (words == block(value, len(words))).all():
        return value
    return TORN if words.any() else INITIAL


def blocks_of(values: Sequence[int], lengths: Sequence[int]) -> Words:
    """The words of several values."""
    parts = [block(value, length) for value, length in zip(values, lengths, strict=True)]
    return Words(np.concatenate(parts), np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)]))


class Recorder:
    """What one client does, in a file of int64: first their number, then a row for each operation."""

    def __init__(self, path: Path, client: int) -> None:
        self.client, self._count = client, 0
        self._rows = np.memmap(path, np.int64, "w+", shape=(CAPACITY, len(COLUMNS)))

    @property
    def count(self) -> int:
        """Operations so far."""
        return self._count

    @property
    def has_room(self) -> bool:
        """Whether a few more can be noted down."""
        return self._count < CAPACITY - 16

    def begin(self, keys: Sequence[int], values: Sequence[int], *, write: bool) -> slice:
        """Note down what is about to be asked for."""
        at = slice(self._count + 1, self._count + 1 + len(keys))
        for row, key, value in zip(range(at.start, at.stop), keys, values, strict=True):
            self._rows[row] = (self.client, key, write, ASKED, value, 0, NEVER)
        self._rows[at, 5] = time.monotonic_ns()
        self._count += len(keys)
        self._rows[0, 0] = self._count
        return at

    def done(self, at: slice, moment: int, values: Sequence[int]) -> None:
        """Note down an answer that came at a moment."""
        self._rows[at, 4], self._rows[at, 6] = values, moment
        self._rows[at, 3] = DONE

    def unknown(self, at: slice) -> None:
        """Note down that there was no answer, or none that tells what was done."""
        self._rows[at, 3] = UNKNOWN

    def forget(self, at: slice) -> None:
        """Take back what was begun last: a read without an answer tells nothing."""
        self._count = at.start - 1
        self._rows[0, 0] = self._count


def load(directory: Path) -> Ints:
    """(N, 7) rows of all clients."""
    found = [np.zeros((0, len(COLUMNS)), np.int64)]
    for path in sorted(directory.glob("*.rows")):
        if path.stat().st_size < CAPACITY * len(COLUMNS) * 8:
            # Its client was killed before it did anything.
            continue
        rows = np.memmap(path, np.int64, "r", shape=(CAPACITY, len(COLUMNS)))
        found.append(np.array(rows[1 : 1 + int(rows[0, 0])]))
    return np.concatenate(found)


def history_of(rows: Ints) -> tuple[History, Ints]:
    """The history that rows tell, and the row of each of its operations."""
    _, key, write, state, value, begin, end = rows.T
    kept = np.flatnonzero((write == 1) | (state == DONE))
    end = np.where(state == DONE, end, NEVER)
    return History(key[kept], write[kept] == 1, value[kept], begin[kept], end[kept]), kept


def text_of(rows: Ints, zero: int, keys: Keys) -> list[str]:
    """Rows as people read them: times in milliseconds since ``zero``."""
    found = []
    for client, key, write, state, value, begin, end in rows.tolist():
        ends = "-" if state != DONE else f"{(end - zero) / 1e6:.3f}"
        found.append(
            f"{(begin - zero) / 1e6:.3f} .. {ends} ms: client {client} {'wrote' if write else 'read'} {value:#x}"
            f" {'to' if write else 'from'} key {key} (words {keys.start[key]} + {keys.length[key]})"
        )
    return found
