"""The memory of one process.

Shapes:
    R: ranges or blocks.  W: words.  L: words a block.  P: pages written.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from leworld.errors import CheckpointError, DataError, RangeError
from leworld.memory.pages import WordPages
from leworld.memory.protocol import PAGE_WORDS, Receipt, Snapshot, Words
from leworld.memory.ranges import Ints, as_integers, check_address_bits, check_ranges, pages_of
from leworld.memory.words import as_words, checksum


class WordStore:
    """A ``Memory`` of ``2 ** address_bits`` words, of which only what was written takes memory.

    Attributes:
        address_bits: 8, 16, 24 or 32.
        sequence: number of the last write, 0 before the first.
    """

    def __init__(self, address_bits: int = 16) -> None:
        self.address_bits = check_address_bits(address_bits)
        self.sequence = 0
        self._arena = WordPages(address_bits)
        self._written = np.zeros(self.num_words // PAGE_WORDS, np.bool_)

    @property
    def num_words(self) -> int:
        """Words that can be addressed."""
        return 1 << self.address_bits

    @property
    def allocated_pages(self) -> int:
        """Pages that were ever written and so take memory."""
        return int(np.count_nonzero(self._written))

    def read(self, start: ArrayLike, length: ArrayLike) -> Words:
        """Read R ranges; see ``Memory.read``."""
        return self._arena.gather(*check_ranges(start, length, self.num_words))

    def write(self, start: ArrayLike, words: NDArray[np.uint32]) -> Receipt:
        """Write R blocks of one length; see ``Memory.write``."""
        return self.write_ragged(start, as_blocks(words))

    def write_ragged(self, start: ArrayLike, blocks: Words) -> Receipt:
        """Write R blocks of any lengths as one write; where blocks overlap the later one wins.

        Args:
            start: (R,).
            blocks: R blocks of 0 to 256 words.

        Raises:
            RangeError: a block is outside the memory; nothing is written then.
            DataError: the words or offsets do not fit together.
        """
        start, length, words = check_blocks(start, blocks, self.num_words)
        self._arena.scatter(start, length, words)
        self._written[pages_of(start, length)] = True
        self.sequence += 1
        return Receipt(self.sequence, start.copy(), length.copy(), checksum(words))

    def snapshot(self) -> Snapshot:
        """Copy every page that was ever written; see ``Memory.snapshot``."""
        pages = np.flatnonzero(self._written)
        return Snapshot(self.address_bits, self.sequence, pages, self._arena.pages[pages])

    def restore(self, snapshot: Snapshot) -> None:
        """Replace content and sequence by a snapshot's; see ``Memory.restore``."""
        check_width(snapshot, self.address_bits)
        pages, words = check_pages(snapshot)
        # A new arena, not zeros over the old one: what is no longer written gives its memory back.
        self._arena = WordPages(self.address_bits)
        self._arena.pages[pages] = words
        self._written[:] = False
        self._written[pages] = True
        self.sequence = snapshot.sequence


def as_blocks(words: NDArray[np.uint32]) -> Words:
    """(R, L) words as R blocks.

    Raises:
        RangeError: L is not in [1, 256].
        DataError: the words are not uint32.
    """
    words = as_words(words)
    if words.ndim != 2 or not 1 <= words.shape[1] <= PAGE_WORDS:
        raise RangeError(
            f"words of shape {words.shape}: blocks (R, L) of 1 to {PAGE_WORDS} words are needed; cut longer ones"
        )
    return Words(words.reshape(-1), np.arange(len(words) + 1) * words.shape[1])


def check_blocks(start: ArrayLike, blocks: Words, num_words: int) -> tuple[Ints, Ints, NDArray[np.uint32]]:
    """(R,) starts and lengths and the (W,) words of blocks that are to be written, if they lie in the memory.

    Raises:
        RangeError: a block does not.
        DataError: the words or offsets do not fit together.
    """
    words, length = as_words(blocks.words), np.diff(blocks.offsets)
    start, length = check_ranges(start, length, num_words)
    if words.shape != (length.sum(),):
        raise DataError(f"words of shape {words.shape} for offsets that end at {length.sum()}: they must agree")
    return start, length, words


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
