"""Where blocks of records go when each hashes to a page.

Blocks that meet in a page lie one behind the other; a full page loses its oldest block.
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
        collisions: blocks that found their page in use.
        evictions: blocks that lost their place.
    """

    start: NDArray[np.int64]
    alive: NDArray[np.bool_]
    collisions: int
    evictions: int


def plan_pages(home: NDArray[np.int64], block_words: int) -> PagePlan:
    """Place blocks in order of writing.

    Args:
        home: (R,) first word of the page each block hashes to.
        block_words: words of a block, at most a page.
    """
    ways = PAGE_WORDS // block_words
    start, alive = home.copy(), np.ones(len(home), dtype=bool)
    in_page: dict[int, list[int]] = {}
    for block, page in enumerate(home.tolist()):
        earlier = in_page.setdefault(page, [])
        start[block] += len(earlier) % ways * block_words
        if len(earlier) >= ways:
            alive[earlier[-ways]] = False
        earlier.append(block)
    return PagePlan(start, alive, len(home) - len(in_page), int((~alive).sum()))
