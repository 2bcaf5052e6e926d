"""VersionManager: keeps, compares and returns to versions of a memory that is open for writing.

Shapes:
    P: pages.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from leworld.memory.ranges import Ints
from leworld.store import committer as committing
from leworld.store.checkpointer import Checkpointer
from leworld.store.committer import Committer
from leworld.store.forks.fork import fork
from leworld.store.forks.fork_registry import check_unneeded
from leworld.store.layout import Identity, Layout
from leworld.store.versions.versions import Difference, Version, Versions, changed_pages, difference, pages_before


class VersionManager:
    """The versions of a memory; iterated over, those that are kept, oldest first.

    Attributes:
        on_change: is called when a version was created or dropped.
    """

    def __init__(self, layout: Layout, kept: Versions, committer: Committer, checkpoints: Checkpointer) -> None:
        self._layout, self._kept, self._committer, self._checkpoints = layout, kept, committer, checkpoints
        self._mapped, self._journal, self._lock = committer.mapped.memory, committer.journal, committer.gate.lock
        self.on_change: Callable[[], None] = lambda: None

    def __iter__(self) -> Iterator[Version]:
        return iter(list(self._kept))

    def create_version(self, name: str, of: str = "now") -> Version:
        """Keep the present content as a version; this takes no longer for a large memory, and blocks nobody.

        Args:
            name: of the version.
            of: another version, to keep that one under a second name.

        Raises:
            StoreError: the name is taken, or there is no such other version.
        """
        with self._lock:
            self._committer.check_running()
            self._journal.roll()
            version = Version(name, self._sequence_of(of), time.time_ns())
            self._kept.add(version)
            self.on_change()
            return version

    def drop_version(self, name: str) -> None:
        """Stop keeping a version.

        Raises:
            StoreError: there is no version of this name, or a fork needs it.
        """
        with self._lock:
            self._committer.check_running()
            check_unneeded(self._layout, name)
            self._kept.drop(name)
            self.on_change()
        self._forget()

    def replace_all(self, versions: Sequence[Version]) -> None:
        """Keep these versions and no others."""
        with self._lock:
            self._kept.set(versions)
        self._forget()

    def rollback_to(self, name: str) -> None:
        """Write the content of a version again; a version created before can undo it.

        Raises:
            StoreError: there is no such version. Or the disk refuses: then a part may be done, and the rest is done
                when the memory is opened again, unless something is written before.
        """
        with self._lock:
            version = self._kept.find(name)
            # What cannot be done is not begun.
            self._committer.images.check_replaceable(changed_pages(self._journal.since(version.sequence)))
            # A crash in the middle is finished when the memory is opened again.
            self._committer.mark("restore", name)
            self._put_back(version)

    def finish_rollback(self, name: str) -> None:
        """Finish a rollback that a crash cut off, if the version is still kept."""
        for version in self._kept:
            if version.name == name:
                self._put_back(version)

    def diff(self, before: str, after: str = "now") -> Difference:
        """The words that differ between two versions; "now" is the present content.

        Raises:
            StoreError: there is no such version.
        """
        with self._lock:
            first, last = (self._sequence_of(name) for name in (before, after))
            if first > last:
                return self.diff(after, before).reversed()
            pages = changed_pages([segment for segment in self._journal.since(first) if segment.first <= last])
            return difference(pages, self._pages_at(first, pages), self._pages_at(last, pages))

    def fork(self, root: str | Path, version: str = "now") -> Identity:
        """Make another memory with the present content or that of a version; see ``leworld.store.forks.fork.fork``."""
        return fork(self._layout.root, Path(root), self, version)

    def _forget(self) -> None:
        with self._checkpoints.going_on:
            self._checkpoints.forget()

    def _put_back(self, version: Version) -> None:
        """Write the pages that changed since a version as they were then, and mark the end."""
        # What is written from here on goes into a segment of its own, which says nothing of the version.
        self._journal.roll()
        pages = changed_pages(self._journal.since(version.sequence)[:-1])
        for chunk in np.array_split(pages, max(1, -(-len(pages) // committing.CHUNK_PAGES))):
            # All of them changed since, so that the journal has what they held.
            then = pages_before(self._journal.since(version.sequence), chunk, self._mapped.pages[chunk])
            self._committer.write_pages(chunk, then, str(version.sequence), "back")
        self._committer.mark("restored", version.name)

    def _sequence_of(self, name: str) -> int:
        return self._journal.sequence if name == "now" else self._kept.find(name).sequence

    def _pages_at(self, sequence: int, pages: Ints) -> NDArray[np.uint32]:
        """(P, 256) what pages held after a write that ends a segment."""
        return pages_before(self._journal.since(sequence), pages, self._mapped.whole(pages))
