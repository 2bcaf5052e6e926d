"""Scrubber: looks for damaged pages of a replica, some at a time, and repairs them from other replicas.

Shapes:
    P: pages.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from leworld.memory import PAGE_WORDS
from leworld.memory.ranges import Ints
from leworld.store.replication.replica_store import ReplicaStore

LOG = logging.getLogger(__name__)
PAGES_AT_ONCE = 1 << 12
"""4 MiB, some milliseconds: writes wait as long."""

Ask = Callable[[Ints], Iterator[tuple[Ints, NDArray[np.uint32]]]]


class Scrubber:
    """The scrubber of one replica."""

    def __init__(self, store: Callable[[], ReplicaStore], ask: Ask) -> None:
        """Prepare to scrub a replica.

        Args:
            store: returns the current store.
            ask: takes (P,) pages; yields, for each other replica, those undamaged there and their (P, 256) words.
        """
        self._store, self._ask, self._next = store, ask, 0

    def step(self) -> Ints:
        """Check the next pages; return those that are damaged and could not be repaired."""
        store = self._store()
        pages = np.arange(self._next, min(self._next + PAGES_AT_ONCE, store.num_words // PAGE_WORDS))
        self._next = int(pages[-1]) + 1 if pages[-1] + 1 < store.num_words // PAGE_WORDS else 0
        damaged = store.damaged(pages)
        if len(damaged):
            return mend(store, damaged, self._ask)
        return damaged


def mend(store: ReplicaStore, damaged: Ints, ask: Ask) -> Ints:
    """Repair damaged pages with words of other replicas; return those that are still damaged."""
    left = damaged
    for pages, words in ask(damaged):
        left = np.setdiff1d(left, store.mend(pages, words))
        if not len(left):
            break
    mended = np.setdiff1d(damaged, left)
    if len(mended):
        LOG.warning("%s: page %s: was damaged, and is mended from another replica", store.root, mended.tolist())
    return left
