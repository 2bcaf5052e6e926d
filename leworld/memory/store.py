"""The memory of one process: pages of packed words, held only where something was written.

Shapes:
    R: ranges or blocks.  W: words.  L: words a block.  P: pages written.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from leworld.errors import CheckpointError, DataError, RangeError
from leworld.memory.protocol import PAGE_WORDS, Receipt, Snapshot, Words
from leworld.memory.ranges import Ints, as_integers, check_address_bits, check_ranges, expand, split_at_pages
from leworld.memory.words import as_words, checksum

FIRST_POOL_PAGES = 16


class WordStore:
    """A ``Memory`` of ``2 ** address_bits`` words.

    A table maps each page to a row of a pool that doubles as it fills; row 0 is the zero page, which is never written.
    The table is committed by the operating system only where it is touched, so 32 bits cost nothing until written.

    Attributes:
        address_bits: 8, 16, 24 or 32.
        sequence: number of the last write, 0 before the first.
    """

    def __init__(self, address_bits: int = 16) -> None:
        self.address_bits = check_address_bits(address_bits)
        self.sequence = 0
        self._clear(FIRST_POOL_PAGES)

    @property
    def num_words(self) -> int:
        """Words that can be addressed."""
        return 1 << self.address_bits

    @property
    def allocated_pages(self) -> int:
        """Pages that were ever written and so take memory."""
        return self._rows_used - 1

    def read(self, start: ArrayLike, length: ArrayLike) -> Words:
        """Read R ranges; see ``Memory.read``."""
        start, length = check_ranges(start, length, self.num_words)
        offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(length)])
        return Words(self._pool.reshape(-1)[self._rows(start, length)], offsets)

    def write(self, start: ArrayLike, words: NDArray[np.uint32]) -> Receipt:
        """Write R blocks of one length; see ``Memory.write``."""
        words = as_words(words)
        if words.ndim != 2 or not 1 <= words.shape[1] <= PAGE_WORDS:
            raise RangeError(
                f"words of shape {words.shape}: blocks (R, L) of 1 to {PAGE_WORDS} words are needed; cut longer ones"
            )
        offsets = np.arange(len(words) + 1) * words.shape[1]
        return self.write_ragged(start, Words(words.reshape(-1), offsets))

    def write_ragged(self, start: ArrayLike, blocks: Words) -> Receipt:
        """Write R blocks of any lengths as one write; where blocks overlap the later one wins.

        Args:
            start: (R,).
            blocks: R blocks of 0 to 256 words.

        Raises:
            RangeError: a block is outside the memory; nothing is written then.
            DataError: the words or offsets do not fit together.
        """
        words, length = as_words(blocks.words), np.diff(blocks.offsets)
        start, length = check_ranges(start, length, self.num_words)
        if words.shape != (length.sum(),):
            raise DataError(f"words of shape {words.shape} for offsets that end at {length.sum()}: they must agree")
        self._allocate(start, length)
        # numpy assigns in order, so of words at one address the last stays.
        self._pool.reshape(-1)[self._rows(start, length)] = words
        self.sequence += 1
        return Receipt(self.sequence, start.copy(), length.copy(), checksum(words))

    def snapshot(self) -> Snapshot:
        """Copy every page that was ever written; see ``Memory.snapshot``."""
        pages = self._page_of_row[1 : self._rows_used]
        order = np.argsort(pages)
        return Snapshot(self.address_bits, self.sequence, pages[order], self._pool[1 + order])

    def restore(self, snapshot: Snapshot) -> None:
        """Replace content and sequence by a snapshot's; see ``Memory.restore``."""
        check_width(snapshot, self.address_bits)
        pages, words = check_pages(snapshot)
        self._clear(max(FIRST_POOL_PAGES, len(pages) + 1))
        self._take_rows(pages)
        self._pool[1 : self._rows_used] = words
        self.sequence = snapshot.sequence

    def _clear(self, pool_pages: int) -> None:
        self._table = np.zeros(self.num_words // PAGE_WORDS, np.int32)
        self._pool = np.zeros((pool_pages, PAGE_WORDS), np.uint32)
        self._page_of_row = np.zeros(pool_pages, np.int64)
        self._rows_used = 1

    def _rows(self, start: Ints, length: Ints) -> Ints:
        """(W,) places in the flat pool of the words of ranges that are known to be in the memory."""
        _, start, length = split_at_pages(start, length)
        places = self._table[start // PAGE_WORDS].astype(np.int64) * PAGE_WORDS + start % PAGE_WORDS
        return expand(places, length)[0]

    def _allocate(self, start: Ints, length: Ints) -> None:
        _, start, _ = split_at_pages(start, length)
        pages = start // PAGE_WORDS
        new_pages = np.unique(pages[self._table[pages] == 0])
        needed = self._rows_used + len(new_pages)
        if needed > len(self._pool):
            self._grow(max(needed, 2 * len(self._pool)))
        self._take_rows(new_pages)

    def _grow(self, pool_pages: int) -> None:
        pool, page_of_row = np.zeros((pool_pages, PAGE_WORDS), np.uint32), np.zeros(pool_pages, np.int64)
        pool[: self._rows_used] = self._pool[: self._rows_used]
        page_of_row[: self._rows_used] = self._page_of_row[: self._rows_used]
        self._pool, self._page_of_row = pool, page_of_row

    def _take_rows(self, pages: Ints) -> None:
        rows = slice(self._rows_used, self._rows_used + len(pages))
        self._page_of_row[rows] = pages
        self._table[pages] = np.arange(rows.start, rows.stop, dtype=np.int32)
        self._rows_used = rows.stop


def check_width(snapshot: Snapshot, address_bits: int) -> None:
    """Raise CheckpointError unless the snapshot is of a memory of this width."""
    if snapshot.address_bits != address_bits:
        raise CheckpointError(
            f"snapshot of {snapshot.address_bits} address bits for a memory of {address_bits}:"
            " set address_bits to match"
        )


def check_pages(snapshot: Snapshot) -> tuple[Ints, NDArray[np.uint32]]:
    """Pages and words of a snapshot, if they are one row a page, ascending and inside the memory.

    Raises:
        CheckpointError: they are not.
    """
    num_pages = (1 << check_address_bits(snapshot.address_bits)) // PAGE_WORDS
    pages, words = as_integers(snapshot.pages, "pages"), as_words(snapshot.words)
    if words.shape != (len(pages), PAGE_WORDS):
        raise CheckpointError(
            f"snapshot with words of shape {words.shape} for {len(pages)} pages: it is damaged; use another"
        )
    if len(pages) and (pages[0] < 0 or pages[-1] >= num_pages or (np.diff(pages) <= 0).any()):
        raise CheckpointError(f"snapshot whose pages do not ascend within [0, {num_pages}): it is damaged; use another")
    return pages, words
