"""Writes that are made together: their ranges and words one after another, so that numpy is called once for all.

Shapes:
    R: ranges of all writes.  W: words of all ranges.  P: pages that they lie in.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from leworld.errors import DataError
from leworld.memory.crc import crc32
from leworld.memory.protocol import PAGE_WORDS, Receipt, Words
from leworld.memory.ranges import Ints, as_integers, check_ranges, pages_of
from leworld.memory.words import as_bytes, as_words
from leworld.store.journal.record import Record


@dataclass(frozen=True)
class Write:
    """What is to be written: R blocks of words, by ``writer``; ``kind`` and ``note`` as of a ``Record``."""

    start: ArrayLike
    blocks: Words
    writer: str = ""
    note: str = ""
    kind: str = "write"


@dataclass(frozen=True)
class WriteBatch:
    """Writes in their order: ``start`` and ``length`` (R,), ``words`` (W,), and ``pages`` (P,) ascending, each once.

    Those of a write begin at its ``first`` range and its ``begin`` word and end where those of the next one begin.
    """

    writes: tuple[Write, ...]
    start: Ints
    length: Ints
    words: NDArray[np.uint32]
    pages: Ints
    first: list[int]
    begin: list[int]

    @property
    def whole_pages(self) -> Ints:
        """Pages of which the first write sets every word."""
        count = self.first[1] if self.writes else 0
        start, length = self.start[:count], self.length[:count]
        return start[(start % PAGE_WORDS == 0) & (length == PAGE_WORDS)] // PAGE_WORDS

    def checksums(self) -> list[int]:
        """CRC-32 of the words of each write."""
        raw = as_bytes(self.words)
        return [crc32(raw[4 * begin : 4 * end]) for begin, end in pairwise(self.begin)]

    def record(self, crc32s: list[int], **known: Any) -> Record:
        """One record of all of it.

        Args:
            crc32s: checksum of each write.
            known: what else a ``Record`` says; ``sequence`` is that of the first write.
        """
        known |= {"start": self.start, "length": self.length, "words": self.words}
        if len(self.writes) == 1:
            (write,), (crc,) = self.writes, crc32s
            return Record(crc32=crc, kind=write.kind, writer=write.writer, note=write.note, **known)
        assert all(write.kind == "write" for write in self.writes)
        writes = tuple(
            (last - first, crc, write.writer, write.note)
            for (first, last), crc, write in zip(pairwise(self.first), crc32s, self.writes, strict=True)
        )
        return Record(kind="writes", writes=writes, **known)

    def receipts(self, sequence: int, crc32s: list[int]) -> list[Receipt]:
        """Of each write, the first one with number ``sequence``."""
        start, length = self.start.copy(), self.length.copy()
        return [
            Receipt(sequence + i, start[first:last], length[first:last], crc)
            for i, (first, last, crc) in enumerate(zip(self.first, self.first[1:], crc32s, strict=False))
        ]


def make_batch(writes: Sequence[Write], num_words: int) -> WriteBatch:
    """Check writes and put them together.

    Raises:
        RangeError: a block of one of them is outside the memory.
        DataError: the starts, words or offsets of one do not fit together.
    """
    starts = [write.start for write in writes]
    offsets = [write.blocks.offsets for write in writes]
    words = [write.blocks.words for write in writes]
    try:
        # Where they are of the right types already, as nearly always, nothing has to look at each.
        start, flat, held = _joined(starts, np.int64), _joined(offsets, np.int64), _joined(words, np.uint32)
    except (TypeError, ValueError):
        starts = [as_integers(start, "start") for start in starts]
        offsets = [as_integers(offset, "offsets") for offset in offsets]
        words = [_one_axis(as_words(held)) for held in words]
        start, flat, held = _joined(starts, np.int64), _joined(offsets, np.int64), _joined(words, np.uint32)
    num_ranges, num_offsets, num_held = _lens(starts), _lens(offsets), _lens(words)
    start, length = check_ranges(start, _lengths(flat, num_ranges, num_offsets, num_held), num_words)
    first, begin = [0, *accumulate(num_ranges)], [0, *accumulate(num_held)]
    return WriteBatch(tuple(writes), start, length, held, pages_of(start, length), first, begin)


def _lengths(flat: Ints, num_ranges: list[int], num_offsets: list[int], num_words: list[int]) -> Ints:
    """(R,) lengths of the blocks of several writes.

    Args:
        flat: offsets of one write after those of another.
        num_ranges, num_offsets, num_words: how many starts, offsets and words each write has.

    Raises:
        DataError: they do not fit together.
    """
    num_blocks = [offsets - 1 for offsets in num_offsets]
    if num_ranges != num_blocks:
        ranges, blocks = _first_other(num_ranges, num_blocks)
        raise DataError(f"{ranges} starts but {blocks} blocks: one start a block is needed")
    last = np.cumsum(np.array(num_offsets, np.int64)) - 1
    ends = (flat[last] - flat[last - np.array(num_ranges, np.int64)]).tolist()
    if num_words != ends:
        words, end = _first_other(num_words, ends)
        raise DataError(f"{words} words for offsets that end at {end}: they must agree")
    inside = np.ones(len(flat) - 1, np.bool_)
    # The step from one write's offsets to those of the next is no block.
    inside[last[:-1]] = False
    return (flat[1:] - flat[:-1])[inside]


def _first_other(one: list[int], two: list[int]) -> tuple[int, int]:
    return next((a, b) for a, b in zip(one, two, strict=True) if a != b)


def _lens(parts: Sequence[Any]) -> list[int]:
    return list(map(len, parts))


def _one_axis(words: NDArray[np.uint32]) -> NDArray[np.uint32]:
    if words.ndim != 1:
        raise DataError(f"words of shape {words.shape}: one axis is needed, with offsets")
    return words


def join(records: Sequence[Record]) -> WriteBatch:
    """What records wrote, one after another."""
    if not records:
        none = np.zeros(0, np.int64)
        return WriteBatch((), none, none, np.zeros(0, np.uint32), none, [0], [0])
    start, length, words = (
        _joined([getattr(record, name) for record in records], kind)
        for name, kind in (("start", np.int64), ("length", np.int64), ("words", np.uint32))
    )
    return WriteBatch((), start, length, words, pages_of(start, length), [0], [0])


def _joined(parts: Sequence[Any], kind: type) -> NDArray[Any]:
    """Arrays of one type, one after another.

    Raises:
        TypeError, ValueError: one has another type, or more axes.
    """
    alone = len(parts) == 1 and isinstance(parts[0], np.ndarray) and parts[0].dtype == kind
    joined = parts[0] if alone else np.concatenate(parts, dtype=kind, casting="equiv")
    if joined.ndim != 1:
        raise ValueError(f"{joined.ndim} axes")
    return joined
