"""Pages as sets of ways: a record takes a free way of its page, or that of the least fit, then the oldest.

Shapes:
    N: records.  V: ways of a page, ``256 // record_words``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from leworld.errors import ConfigError, DataError, RangeError
from leworld.memory.protocol import PAGE_WORDS
from leworld.memory.ranges import Ints

FREE = -1


@dataclass(frozen=True)
class Placed:
    """Where records went: ``address`` (N,) int64, and ``evicted`` (N,) bool, True where another one had to go."""

    address: Ints
    evicted: NDArray[np.bool_]


@dataclass(frozen=True)
class _Page:
    """``fitness`` (V,) and ``age_rank`` (V,): the number of the placement, ``FREE`` where there is no record."""

    fitness: NDArray[np.float64]
    age_rank: Ints


class WaySet:
    """Which ways of which pages are taken; pages that were never used cost nothing.

    Attributes:
        record_words: words a record has, 1..256; the words of a page that no whole record fits in stay unused.
        num_ways: V.
        num_pages: pages of the memory, where given; then a page past the end is an error.
    """

    def __init__(self, record_words: int, num_pages: int | None = None) -> None:
        if not 1 <= record_words <= PAGE_WORDS:
            raise ConfigError(f"record_words {record_words}: a page has room for records of 1 to {PAGE_WORDS} words")
        self.record_words = record_words
        self.num_ways = PAGE_WORDS // record_words
        self.num_pages = num_pages
        self._pages: dict[int, _Page] = {}
        self._placed = 0

    def place(self, pages: Ints, fitness: NDArray[np.floating]) -> Placed:
        """Give N records their ways, in order: a later one may evict an earlier.

        Args:
            pages: (N,) page each record belongs to.
            fitness: (N,) worth of each; the new record always gets in, whatever its own.

        Raises:
            RangeError: a page is outside the memory; nothing is placed then.
            DataError: the arrays differ in length or a fitness is NaN.
        """
        pages, fitness = np.asarray(pages), np.asarray(fitness, np.float64)
        self._check(pages, fitness)
        way, evicted = np.empty(len(pages), np.int64), np.empty(len(pages), np.bool_)
        for i, (page, worth) in enumerate(zip(pages.tolist(), fitness.tolist(), strict=True)):
            way[i], evicted[i] = self._place_one(page, worth)
        return Placed(pages * PAGE_WORDS + way * self.record_words, evicted)

    def release(self, address: Ints) -> None:
        """Free the ways of records at ``address`` (N,)."""
        for page, offset in zip(*(part.tolist() for part in np.divmod(np.asarray(address), PAGE_WORDS)), strict=True):
            way, rest = divmod(offset, self.record_words)
            if page not in self._pages or rest or way >= self.num_ways or self._pages[page].age_rank[way] == FREE:
                raise RangeError(
                    f"no record is placed at address {page * PAGE_WORDS + offset}: release only what was placed"
                )
            self._pages[page].age_rank[way] = FREE

    def used(self, page: int) -> NDArray[np.bool_]:
        """(V,) True where a way of ``page`` is taken."""
        if page not in self._pages:
            return np.zeros(self.num_ways, np.bool_)
        return self._pages[page].age_rank != FREE

    def _place_one(self, page: int, fitness: float) -> tuple[int, bool]:
        if page not in self._pages:
            self._pages[page] = _Page(np.zeros(self.num_ways), np.full(self.num_ways, FREE, np.int64))
        ways = self._pages[page]
        way = int(choose_way(ways.fitness, ways.age_rank))
        evicted = bool(ways.age_rank[way] != FREE)
        ways.fitness[way], ways.age_rank[way] = fitness, self._placed
        self._placed += 1
        return way, evicted

    def _check(self, pages: Ints, fitness: NDArray[np.float64]) -> None:
        if pages.shape != fitness.shape or pages.ndim != 1 or np.isnan(fitness).any():
            raise DataError(
                f"pages {pages.shape} and fitness {fitness.shape}: one fitness a record is needed, none NaN"
            )
        bad = (pages < 0) | (pages >= (self.num_pages or np.inf))
        if bad.any():
            raise RangeError(
                f"page {pages[bad][0]} is outside the memory of {self.num_pages} pages; hash to fewer bits"
            )


def choose_way(fitness: NDArray[np.float64], age_rank: Ints) -> Ints:
    """(..., V) ways to (...) the one to use: the first free one, else the least fit, of these the oldest."""
    taken = age_rank != FREE
    # The last key sorts first; free ways lose their old fitness so that the first of them wins.
    return np.lexsort((age_rank, np.where(taken, fitness, 0.0), taken), axis=-1)[..., 0]
