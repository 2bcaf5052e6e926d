"""WordPages: every word that can be addressed in one stretch of virtual memory, so that an address is an index.

The operating system commits what is touched, 4 KiB at a time; the rest costs nothing and reads as zero. The stretch is
a sparse file, or nameless memory of this process.

Shapes:
    R: ranges or blocks.  W: words.  L: words a block.
"""

from __future__ import annotations

import mmap
import os

import numpy as np
from numpy.typing import NDArray

from leworld.memory.protocol import PAGE_WORDS, WORD_BITS, Words
from leworld.memory.ranges import Ints, expand

WORD_BYTES = WORD_BITS // 8
_MAP_NORESERVE = 0x4000
"""Linux's; what is never touched need not be there."""


class WordPages:
    """``2 ** address_bits`` words.

    Ranges are trusted here: whoever calls has checked them.

    Attributes:
        words: (2 ** address_bits,) uint32, all of them; ``pages`` (2 ** address_bits / 256, 256) are the same words.
    """

    def __init__(self, address_bits: int, fd: int | None = None, *, writable: bool = True) -> None:
        """Map an open file, which grows to its full (sparse) size where it can be written; None: nameless memory."""
        self.num_words = 1 << address_bits
        num_bytes = self.num_words * WORD_BYTES
        self._map = _nameless(num_bytes) if fd is None else map_file(fd, num_bytes, writable)
        # Addresses come in no order; where little of a file is written, reading ahead is a hundred times the work.
        self._map.madvise(mmap.MADV_RANDOM)
        self.words: NDArray[np.uint32] = np.frombuffer(self._map, "<u4")
        self.pages = self.words.reshape(-1, PAGE_WORDS)

    def gather(self, start: Ints, length: Ints) -> Words:
        """Copy (R,) ranges out."""
        offsets = np.zeros(len(length) + 1, np.int64)
        np.cumsum(length, out=offsets[1:])
        start, common = _of_one_length(start, length)
        if common is None:
            return Words(self.words[expand(start, length)[0]], offsets)
        return Words(self._windows(common)[start].reshape(-1), offsets)

    def scatter(self, start: Ints, length: Ints, words: NDArray[np.uint32]) -> None:
        """Copy (W,) words into (R,) ranges; where they overlap the later one wins, as numpy assigns in order."""
        start, common = _of_one_length(start, length)
        if common is None:
            self.words[expand(start, length)[0]] = words
        else:
            self._windows(common)[start] = words.reshape(-1, common)

    def soon(self, first: int, stop: int) -> None:
        """Have the operating system read the file's words ``[first, stop)`` ahead of their use."""
        begin = first * WORD_BYTES // mmap.PAGESIZE * mmap.PAGESIZE
        self._map.madvise(mmap.MADV_WILLNEED, begin, stop * WORD_BYTES - begin)

    def _windows(self, length: int) -> NDArray[np.uint32]:
        """(num_words - L + 1, L) view: row a holds the words from address a on. A row is copied in one go."""
        return np.ndarray(
            (self.num_words - length + 1, length), "<u4", self._map, strides=(WORD_BYTES, WORD_BYTES)
        )  # fmt: skip


def map_file(fd: int, num_bytes: int, writable: bool) -> mmap.mmap:
    """Map the begin of an open file, which grows to that size (sparse) where it can be written."""
    if writable and os.fstat(fd).st_size < num_bytes:
        os.ftruncate(fd, num_bytes)
    access = mmap.PROT_READ | (mmap.PROT_WRITE if writable else 0)
    return mmap.mmap(fd, num_bytes, mmap.MAP_SHARED, access)


def _nameless(num_bytes: int) -> mmap.mmap:
    """Memory that is committed where it is written, in pages of 4 KiB, and only there."""
    memory = mmap.mmap(-1, num_bytes, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_NORESERVE)
    memory.madvise(mmap.MADV_NOHUGEPAGE)
    return memory


def _of_one_length(start: Ints, length: Ints) -> tuple[Ints, int | None]:
    """The starts of ranges that are not empty, and their length if it is common to all of them."""
    longest = int(length.max(initial=0))
    if longest == 0:
        return start, None
    if (length == longest).all():
        return start, longest
    full = length > 0
    return (start[full], longest) if (length[full] == longest).all() else (start, None)
