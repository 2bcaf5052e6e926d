"""Where blocks of records go when each hashes to a way of a page.

A block whose way is taken goes to the next free way of the page; in a full page it takes its own way from its holder.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from leworld.memory import PAGE_WORDS


@dataclass(frozen=True)
class PagePlan:
    """Where each of R blocks lies.

    Attributes:
        start: (R,) int64 first word.
        alive: (R,) bool, False where a later block took the place.
        collisions: blocks that found their way in use.
        evictions: blocks that lost their place.
    """

    start: NDArray[np.int64]
    alive: NDArray[np.bool_]
    collisions: int
    evictions: int


def way_words(block_words: int) -> int:
    """Words from one way of a page to the next: a power of two, so that a way is some digits of an address."""
    return 1 << (block_words - 1).bit_length()


def plan_ways(home: NDArray[np.int64], block_words: int) -> PagePlan:
    """Place blocks in order of writing: in their own way, else in the page's next free one, else over their own.

    Args:
        home: (R,) first word of the way each block hashes to.
        block_words: words of a block, at most a page.
    """
    step = way_words(block_words)
    start, alive = home.copy(), np.ones(len(home), dtype=bool)
    holder: dict[int, int] = {}
    collisions = 0
    for block, own in enumerate(home.tolist()):
        page = own - own % PAGE_WORDS
        ways = [page + (own - page + i * step) % PAGE_WORDS for i in range(PAGE_WORDS // step)]
        start[block] = next((way for way in ways if way not in holder), own)
        collisions += own in holder
        if start[block] in holder:
            alive[holder[int(start[block])]] = False
        holder[int(start[block])] = block
    return PagePlan(start, alive, collisions, int((~alive).sum()))
