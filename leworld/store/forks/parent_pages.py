"""What a fork does not hold yet: pages of its parent's version, read through to whoever reads the fork.

``filling`` says of each page whether the fork holds it. The process that writes the fork sets this after it has put the
parent's words there, and before it writes others; so where it is unset after reading, nobody has written meanwhile.

Shapes:
    R: ranges.  P: pages.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from leworld.errors import DamageError, StoreError
from leworld.memory.protocol import PAGE_WORDS, Words
from leworld.memory.ranges import Ints, expand, pages_of
from leworld.store.forks.fork_link import FILLING, ForkLink, read_link, unreadable
from leworld.store.layout import Layout
from leworld.store.versions.version_pages import Pages, VersionPages

_TRIES = 5
_PAUSE_S = 0.01
_CHUNK_PAGES = 1 << 12

OpenPages = Callable[[Path], Pages]
MapFile = Callable[[Path, int], NDArray[np.uint8]]


class ParentPages:
    """The pages of a fork that are still its parent's.

    Attributes:
        held: (num_pages,) uint8, 1 where the fork holds a page itself; shared by all processes.
        over: (1,) uint8, 1 where it holds all.
        link: to the parent.
    """

    def __init__(self, layout: Layout, link: ForkLink, flags: NDArray[np.uint8], open_pages: OpenPages) -> None:
        self.held, self.over, self.link = flags[:-1], flags[-1:], link
        self._layout, self._open_pages = layout, open_pages
        self._lock = threading.Lock()
        self._parent: VersionPages | None = None

    @property
    def is_over(self) -> bool:
        """Whether the fork holds everything."""
        return bool(self.over[0])

    def missing(self, pages: Ints) -> Ints:
        """Those of (P,) pages that the fork does not hold."""
        return pages[self.held[pages] == 0]

    def fetch(self, pages: Ints) -> NDArray[np.uint32]:
        """(P, 256) what the parent's version has in (P,) pages.

        Raises:
            DamageError: one of them is not what was written.
            StoreError: the parent cannot be read.
        """
        return self._ask(lambda parent: parent.read(pages))

    def read(self, own: Callable[[Ints, Ints], Words], start: Ints, length: Ints) -> Words:
        """Read R ranges, with ``own`` those words that the fork holds; see ``MappedMemory.read``."""
        pages = pages_of(start, length)
        while True:
            missing = self.missing(pages)
            found = own(start, length)
            if not len(missing):
                return found
            try:
                words = self.fetch(missing)
            except StoreError:
                # The parent need not keep what the fork holds meanwhile.
                if len(self.missing(missing)) == len(missing):
                    raise
                continue
            if len(self.missing(missing)) == len(missing):
                _lay_over(found, start, length, missing, words)
                return found

    def candidates(self, first: int, stop: int) -> Ints:
        """Pages in ``[first, stop)`` that the fork does not hold and that may hold anything, ascending."""
        return self.missing(self._ask(lambda parent: parent.written(first, stop)))

    def written(self, own: Callable[[], Ints], first: int, stop: int) -> Ints:
        """Pages in ``[first, stop)`` that hold anything, ascending; ``own`` tells those whose checksum says so."""
        # Looked at before the checksums, which come before it.
        held = self.held[first:stop] != 0
        mine = own()
        pages = self._ask(lambda parent: parent.written(first, stop))
        pages = pages[~held[pages - first]]
        changed = np.intersect1d(pages, self._ask(lambda parent: parent.changed(first, stop)))
        return np.union1d(mine[held[mine - first]], np.setdiff1d(pages, self._empty(changed)))

    def damaged(self, first: int, stop: int) -> list[int]:
        """Pages in ``[first, stop)`` that the fork does not hold and that are damaged in its parent, ascending.

        Raises:
            StoreError: the parent cannot be read.
        """
        found, pages = [], self.candidates(first, stop)
        while len(pages):
            try:
                self.fetch(pages)
                return found
            except DamageError as error:
                wrong = np.array(error.pages, np.int64)
                pages = np.setdiff1d(self.missing(pages), wrong)
                found.extend(wrong.tolist())
                if not len(wrong):
                    raise
        return sorted(found)

    def _empty(self, pages: Ints) -> Ints:
        """Those of (P,) pages that hold nothing in the parent's version."""
        chunks = [pages[first : first + _CHUNK_PAGES] for first in range(0, len(pages), _CHUNK_PAGES)]
        return np.concatenate([pages[:0], *(chunk[~self.fetch(chunk).any(1)] for chunk in chunks)])

    def _ask(self, question: Callable[[VersionPages], NDArray]) -> NDArray:
        attempt = 0
        while True:
            attempt += 1
            try:
                return question(self._opened())
            except DamageError as error:
                # Damage of records may be of a moment: the parent's writer replaces and deletes segments.
                if error.pages or attempt == _TRIES:
                    raise DamageError(unreadable(self._layout.root, self.link, error), error.pages) from None
            except OSError as error:
                if attempt == _TRIES:
                    reason = error.strerror or error
                    raise StoreError(unreadable(self._layout.root, self.link, reason)) from None
            self._parent = None
            time.sleep(_PAUSE_S)

    def _opened(self) -> VersionPages:
        with self._lock:
            if self._parent is None:
                root = Path(self.link.parent)
                self._parent = VersionPages(self._open_pages(root), root, self.link.parent_id, self.link.version)
            return self._parent


def inherited_by(layout: Layout, open_pages: OpenPages, map_file: MapFile, num_pages: int) -> ParentPages | None:
    """What a memory does not hold yet; None where it is no fork, or holds everything.

    Args:
        layout: of the memory.
        open_pages: maps another memory for reading.
        map_file: maps a file of so many bytes.
        num_pages: of the memory.

    Raises:
        StoreError: what says so is damaged.
    """
    for attempt in range(_TRIES):
        link = read_link(layout)
        if link is None or link.stage != FILLING:
            return None
        try:
            return ParentPages(layout, link, map_file(layout.filling, num_pages + 1), open_pages)
        except StoreError:
            # Deleted as soon as the fork holds everything.
            if attempt == _TRIES - 1:
                raise
    return None


def _lay_over(found: Words, start: Ints, length: Ints, pages: Ints, words: NDArray[np.uint32]) -> None:
    """Put words of (P,) ascending pages, (P, 256), where the ranges lie in these."""
    address = expand(start, length)[0]
    row = np.searchsorted(pages, address // PAGE_WORDS).clip(max=len(pages) - 1)
    inside = pages[row] == address // PAGE_WORDS
    found.words[inside] = words[row[inside], address[inside] % PAGE_WORDS]
