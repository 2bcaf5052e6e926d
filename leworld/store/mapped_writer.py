"""MappedWriter: changes the mapped words of a memory, for the one process that may write it.

Shapes:
    R: ranges.  W: words.  P: pages.
"""

from __future__ import annotations

import os

import numpy as np
from numpy.typing import NDArray

from leworld.memory.protocol import PAGE_WORDS
from leworld.memory.ranges import Ints, pages_of
from leworld.store.layout import refused
from leworld.store.mapped_memory import MappedMemory, page_sums
from leworld.store.shared_state import STRIPE_PAGES

_STRIPE_BYTES = STRIPE_PAGES * PAGE_WORDS * 4


class MappedWriter:
    """The writer's half of a ``MappedMemory`` that was opened with ``writable``.

    Attributes:
        memory: the reader's half.
        state: what readers are told.
    """

    def __init__(self, memory: MappedMemory) -> None:
        self.memory, self.state = memory, memory.state
        self._reserved = np.zeros(len(self.state.touched), np.bool_)

    def reserve(self, pages: Ints) -> None:
        """Allocate disk space for pages that are about to be written.

        Raises:
            StoreError: the disk is full.
        """
        stripes = pages // STRIPE_PAGES
        if self._reserved[stripes].all():
            return
        new, path = np.unique(stripes[~self._reserved[stripes]]), self.memory.layout.words
        file = os.open(path, os.O_RDWR)
        try:
            for stripe in new.tolist():
                # Storing into a mapped page for which the disk has no room would end the process.
                os.posix_fallocate(file, stripe * _STRIPE_BYTES, min(_STRIPE_BYTES, self.memory.num_words * 4))
        except OSError as error:
            raise refused(path, error) from error
        finally:
            os.close(file)
        self._reserved[new] = True

    def apply(
        self, sequence: int, start: Ints, length: Ints, words: NDArray[np.uint32], pages: Ints | None = None
    ) -> None:
        """Make writes up to ``sequence``, which are in the journal, visible at once, checksums too.

        Args:
            sequence: number of the last write.
            start, length: (R,) ranges, in the order of the writes.
            words: (W,) of the ranges.
            pages: (P,) of the ranges, if they are known.
        """
        pages = pages_of(start, length) if pages is None else pages
        self.state.begin(sequence, pages)
        self.memory.arena.scatter(start, length, words)
        self.sum_up(pages)
        self.state.finish(sequence)

    def apply_pages(self, sequence: int, pages: Ints, words: NDArray[np.uint32]) -> None:
        """The same for (P,) whole pages (P, 256), each once."""
        self.state.begin(sequence, pages)
        self.put(pages, words, page_sums(words))
        self.state.finish(sequence)

    def put(self, pages: Ints, words: NDArray[np.uint32], sums: NDArray[np.uint32]) -> None:
        """Store the (P, 256) words of (P,) pages, and their checksums."""
        self.memory.pages[pages] = words
        self.memory.sums[pages] = sums

    def sum_up(self, pages: Ints) -> None:
        """Compute the checksums of (P,) pages from their words."""
        self.memory.sums[pages] = page_sums(self.memory.pages[pages])

    def mend(self, pages: Ints, words: NDArray[np.uint32]) -> Ints:
        """Repair (P,) damaged pages with the (P, 256) words of another replica; return the pages that are right now.

        Words are right if they match the page's checksum, or if they are what is here: then the checksum is damaged.
        """
        sums = page_sums(words)
        is_right = (sums == self.memory.sums[pages]) | (words == self.memory.pages[pages]).all(1)
        self.put(pages[is_right], words[is_right], sums[is_right])
        return pages[is_right]
