"""Finding words: where one, or some in a row, occur in what was ever written.

Shapes:
    P: pages.  N: addresses found.  K: words in a row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from leworld.memory import PAGE_WORDS
from leworld.memory.ranges import Ints

CHUNK_WORDS = 1 << 20

Read = Callable[[int, int], NDArray[np.uint32]]


def find(read: Read, pages: Ints, num_words: int, pattern: NDArray[np.uint32], mask: int, limit: int) -> list[int]:
    """The first addresses at which words occur; at least one of the words there was written.

    Args:
        read: words from an address on.
        pages: (P,) that hold anything, ascending.
        num_words: of the memory.
        pattern: (K,) words in a row.
        mask: of the bits that count.
        limit: how many are enough.
    """
    found: list[int] = []
    for first, stop in _begins(pages, num_words, len(pattern)):
        words = read(first, stop - first + len(pattern) - 1)
        found.extend((first + _matches(words, pattern, np.uint32(mask))).tolist())
        if len(found) >= limit:
            break
    return found[:limit]


def _matches(words: NDArray[np.uint32], pattern: NDArray[np.uint32], mask: np.uint32) -> Ints:
    """(N,) places in ``words`` at which the pattern begins."""
    count = len(words) - len(pattern) + 1
    same = np.ones(count, np.bool_)
    for offset, value in enumerate(pattern):
        same &= (words[offset : offset + count] & mask) == (value & mask)
    return np.flatnonzero(same)


def _begins(pages: Ints, num_words: int, length: int) -> Iterator[tuple[int, int]]:
    """Stretches ``[first, stop)`` of addresses at which a match that touches the pages may begin, cut into chunks."""
    for low, high in _runs(pages, length):
        stop = min(high * PAGE_WORDS, num_words - length + 1)
        for first in range(max(0, low * PAGE_WORDS - length + 1), stop, CHUNK_WORDS):
            yield first, min(first + CHUNK_WORDS, stop)


def _runs(pages: Ints, length: int) -> Iterator[tuple[int, int]]:
    """Pages ``[low, high)`` that are in a row, or so near that a match can touch two of them."""
    if not len(pages):
        return
    # Where as many words lie between two pages as are looked for, nothing can touch both.
    ends = np.append(np.flatnonzero((np.diff(pages) - 1) * PAGE_WORDS >= length), len(pages) - 1)
    low = 0
    for end in ends.tolist():
        yield int(pages[low]), int(pages[end]) + 1
        low = end + 1
