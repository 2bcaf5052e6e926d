"""Versions of a memory: moments whose content is kept, as pages of before in the journal.

Shapes:
    P: pages.  N: words that differ.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from leworld.errors import StoreError
from leworld.memory.protocol import PAGE_WORDS
from leworld.memory.ranges import Ints
from leworld.store.journal.segment import Segment
from leworld.store.layout import NEW_MEMORY, Layout, read_map, write_map


@dataclass(frozen=True)
class Version:
    """A moment that is kept: the content after write ``sequence``."""

    name: str
    sequence: int
    time_ns: int


@dataclass(frozen=True)
class Difference:
    """Words that differ between two versions: ``address`` (N,) ascending, and what they were and became (N,)."""

    address: Ints
    before: NDArray[np.uint32]
    after: NDArray[np.uint32]

    def reversed(self) -> Difference:
        """The same with the two versions exchanged."""
        return Difference(self.address, self.after, self.before)


class Versions:
    """The kept versions of a memory, oldest first, in a file of their own."""

    def __init__(self, layout: Layout) -> None:
        """Read them.

        Raises:
            StoreError: the file is damaged or foreign.
        """
        self._path = layout.versions
        found = read_map(self._path, {"versions": list}) or {"versions": []}
        if not all(_is_version(row) for row in found["versions"]):
            raise StoreError(f"{self._path}: is damaged or foreign; {NEW_MEMORY}")
        self._list = [Version(*row) for row in found["versions"]]

    def __iter__(self) -> Iterator[Version]:
        return iter(self._list)

    def find(self, name: str) -> Version:
        """The version of a name.

        Raises:
            StoreError: there is none.
        """
        for version in self._list:
            if version.name == name:
                return version
        known = ", ".join(version.name for version in self._list) or "none"
        raise StoreError(f"version {name!r} is not kept; those that are: {known}")

    def add(self, version: Version) -> None:
        """Keep one more.

        Raises:
            StoreError: the name is taken, or empty.
        """
        if not isinstance(version.name, str) or version.name in ("", "now"):
            raise StoreError(f"a version cannot be called {version.name!r}: give another name")
        if any(known.name == version.name for known in self._list):
            raise StoreError(f"version {version.name!r} is kept already: give another name, or drop that one")
        self._save([*self._list, version])

    def drop(self, name: str) -> None:
        """Keep one less.

        Raises:
            StoreError: there is none of this name.
        """
        gone = self.find(name)
        self._save([version for version in self._list if version is not gone])

    def set(self, versions: Sequence[Version]) -> None:
        """Keep these and no others."""
        self._save(list(versions))

    def _save(self, versions: list[Version]) -> None:
        rows = [[version.name, version.sequence, version.time_ns] for version in versions]
        write_map(self._path, {"versions": rows})
        self._list = versions


def _is_version(row: object) -> bool:
    return isinstance(row, list) and [type(value) for value in row] == [str, int, int]


def changed_pages(segments: Sequence[Segment]) -> Ints:
    """Pages that the records of segments changed, ascending."""
    return np.array(sorted(set().union(*(segment.before for segment in segments))), np.int64)


def pages_before(segments: Sequence[Segment], pages: Ints, now: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """What (P,) pages held before the first of the segments.

    Args:
        segments: all up to now, oldest first.
        pages: which.
        now: (P, 256) what they hold now.
    """
    out = now.copy()
    for segment in reversed(segments):
        rows = np.flatnonzero(np.fromiter((page in segment.before for page in pages.tolist()), np.bool_, len(pages)))
        if len(rows):
            out[rows] = segment.read_before(pages[rows])
    return out


def difference(pages: Ints, before: NDArray[np.uint32], after: NDArray[np.uint32]) -> Difference:
    """The words that differ in (P,) pages of (P, 256) words."""
    row, word = np.nonzero(before != after)
    return Difference(pages[row] * PAGE_WORDS + word, before[row, word], after[row, word])
