"""Writes that are made together: their ranges and words one after another, so that numpy is called once for all.

Shapes:
    R: ranges of all writes.  W: words of all ranges.  P: pages that they lie in.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from zlib import crc32

import numpy as np
from numpy.typing import ArrayLike, NDArray

from leworld.errors import DataError
from leworld.memory.protocol import Receipt, Words
from leworld.memory.ranges import Ints, as_integers, check_ranges, pages_of
from leworld.memory.words import as_bytes, as_words
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

    def checksums(self) -> list[int]:
        """CRC-32 of the words of each write."""
        raw = as_bytes(self.words)
        return [crc32(raw[4 * begin : 4 * end]) for begin, end in pairwise(self.begin)]

    def record(self, sequence: int, time_ns: int, epoch: int, crc32s: list[int]) -> Record:
        """One record of all of it, with number ``sequence``, which says nothing yet of what pages held.

        Args:
            sequence: of the first write.
            time_ns: since 1970.
            epoch: of the primary.
            crc32s: checksum of each write.
        """
        known = {"time_ns": time_ns, "start": self.start, "length": self.length, "words": self.words, "epoch": epoch}
        if len(self.writes) == 1:
            (write,), (crc,) = self.writes, crc32s
            return Record(sequence, crc32=crc, kind=write.kind, writer=write.writer, note=write.note, **known)
        assert all(write.kind == "write" for write in self.writes)
        writes = tuple(
            (last - first, crc, write.writer, write.note)
            for (first, last), crc, write in zip(pairwise(self.first), crc32s, self.writes, strict=True)
        )
        return Record(sequence, kind="writes", writes=writes, **known)

    def receipts(self, sequence: int, crc32s: list[int]) -> list[Receipt]:
        """Of each write, the first one with number ``sequence``."""
        start, length = self.start.copy(), self.length.copy()
        return [
            Receipt(sequence + i, start[first:last], length[first:last], crc32s[i])
            for i, (first, last) in enumerate(pairwise(self.first))
        ]


def make_group(writes: Sequence[Write], num_words: int) -> Group:
    """Check writes and put them together.

    Raises:
        RangeError: a block of one of them is outside the memory.
        DataError: the starts, words or offsets of one do not fit together.
    """
    starts = [as_integers(write.start, "start") for write in writes]
    words = [as_words(write.blocks.words) for write in writes]
    offsets = [write.blocks.offsets for write in writes]
    first, begin = [0], [0]
    for start, held, offset in zip(starts, words, offsets, strict=True):
        if len(start) != len(offset) - 1:
            raise DataError(f"{len(start)} starts but {len(offset) - 1} blocks: one start a block is needed")
        num = int(offset[-1] - offset[0])
        if held.shape != (num,):
            raise DataError(f"words of shape {held.shape} for offsets that end at {num}: they must agree")
        first.append(first[-1] + len(start))
        begin.append(begin[-1] + num)
    start, length = check_ranges(_joined(starts), _lengths(offsets, first), num_words)
    return Group(tuple(writes), start, length, _joined(words), pages_of(start, length), first, begin)


def _lengths(offsets: Sequence[Ints], first: Sequence[int]) -> Ints:
    """(R,) lengths of the blocks of several writes; ``first`` says where each begins."""
    if len(offsets) == 1:
        return np.diff(offsets[0])
    steps = np.diff(np.concatenate(offsets))
    inside = np.ones(len(steps), np.bool_)
    # The step from one write's offsets to those of the next is no block.
    inside[np.array(first[1:-1]) + np.arange(len(offsets) - 1)] = False
    return steps[inside]


def join(records: Sequence[Record]) -> Group:
    """What records wrote, one after another."""
    if not records:
        none = np.zeros(0, np.int64)
        return Group((), none, none, np.zeros(0, np.uint32), none, [0], [0])
    start, length = _joined([r.start for r in records]), _joined([r.length for r in records])
    return Group((), start, length, _joined([r.words for r in records]), pages_of(start, length), [0], [0])


def _joined(parts: Sequence[NDArray]) -> NDArray:
    return parts[0] if len(parts) == 1 else np.concatenate(parts)
