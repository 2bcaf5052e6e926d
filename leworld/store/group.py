"""Writes that are made together: their ranges and words one after another, so that numpy is called once for all.

Shapes:
    R: ranges of all writes.  W: words of all ranges.  P: pages that they lie in.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from leworld.errors import DataError
from leworld.memory.protocol import PAGE_WORDS, Words
from leworld.memory.ranges import Ints, as_integers, check_ranges, pages_of
from leworld.memory.words import as_words
from leworld.store.records import Record


@dataclass(frozen=True)
class Write:
    """What is to be written: R blocks of words, by ``writer``; ``kind`` and ``note`` as of a ``Record``."""

    start: ArrayLike
    blocks: Words
    writer: str = ""
    note: str = ""
    kind: str = "write"


@dataclass(frozen=True)
class Group:
    """Writes in their order: ``start`` and ``length`` (R,), ``words`` (W,), and ``pages`` (P,) ascending, each once."""

    writes: tuple[Write, ...]
    start: Ints
    length: Ints
    words: NDArray[np.uint32]
    pages: Ints

    @property
    def whole_pages(self) -> Ints:
        """Pages of which the first write sets every word."""
        count = len(self.writes[0].blocks.offsets) - 1 if self.writes else 0
        start, length = self.start[:count], self.length[:count]
        return start[(start % PAGE_WORDS == 0) & (length == PAGE_WORDS)] // PAGE_WORDS

    def parts(self) -> Iterator[tuple[Ints, Ints, NDArray[np.uint32], Write]]:
        """Starts, lengths and words of each write."""
        first, begin = 0, 0
        for write in self.writes:
            last = first + len(write.blocks.offsets) - 1
            end = begin + int(self.length[first:last].sum())
            yield self.start[first:last], self.length[first:last], self.words[begin:end], write
            first, begin = last, end


def make_group(writes: Sequence[Write], num_words: int) -> Group:
    """Check writes and put them together.

    Raises:
        RangeError: a block of one of them is outside the memory.
        DataError: the starts, words or offsets of one do not fit together.
    """
    starts = [as_integers(write.start, "start") for write in writes]
    lengths = [np.diff(write.blocks.offsets) for write in writes]
    words = [as_words(write.blocks.words) for write in writes]
    for start, length, held in zip(starts, lengths, words, strict=True):
        if start.shape != length.shape:
            raise DataError(f"{len(start)} starts but {len(length)} blocks: one start a block is needed")
        if held.shape != (length.sum(),):
            raise DataError(f"words of shape {held.shape} for offsets that end at {length.sum()}: they must agree")
    start, length = check_ranges(_joined(starts), _joined(lengths), num_words)
    return Group(tuple(writes), start, length, _joined(words), pages_of(start, length))


def join(records: Sequence[Record]) -> Group:
    """What records wrote, one after another."""
    if not records:
        none = np.zeros(0, np.int64)
        return Group((), none, none, np.zeros(0, np.uint32), none)
    start, length = _joined([r.start for r in records]), _joined([r.length for r in records])
    return Group((), start, length, _joined([r.words for r in records]), pages_of(start, length))


def _joined(parts: Sequence[NDArray]) -> NDArray:
    return parts[0] if len(parts) == 1 else np.concatenate(parts)
