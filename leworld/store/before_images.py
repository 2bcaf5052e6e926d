"""BeforeImages: what pages held before the last segment of the journal, for the first record that changes them.

Shapes:
    P: pages.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from leworld.errors import DamageError
from leworld.memory.ranges import Ints
from leworld.store.forks.backfill import Backfill
from leworld.store.journal.journal import Journal
from leworld.store.journal.record import Record
from leworld.store.journal.write_batch import WriteBatch
from leworld.store.mapped_memory import MappedMemory, damage
from leworld.store.versions.versions import Version, changed_pages


class BeforeImages:
    """Takes images of pages, and refuses to take damaged words for what was there."""

    def __init__(self, mapped: MappedMemory, journal: Journal, backfill: Backfill, versions: Iterable[Version]) -> None:
        """Begin with what the journal tells.

        Args:
            mapped: the words.
            journal: of the memory.
            backfill: of a fork, takes over pages from the parent before they are written.
            versions: those that are kept, as they are whenever it is iterated over.
        """
        self._mapped, self._journal, self._backfill, self._versions = mapped, journal, backfill, versions
        self._noted = np.zeros(len(mapped.pages), np.int64)
        self._noted[list(journal.last.before)] = journal.last.first

    def of(self, batch: WriteBatch) -> tuple[Ints, NDArray[np.uint32]]:
        """Pages (P,) of a batch of which the last segment does not tell yet, and their words (P, 256).

        Raises:
            DamageError: a page is not what was written, and is not written whole, or a version holds it.
            StoreError: the parent of a fork cannot be read.
        """
        self._backfill.take(batch.pages)
        pages = self._untold(batch.pages)
        try:
            return pages, self._mapped.whole(pages)
        except DamageError as error:
            damaged = np.array(error.pages, np.int64)
            self.check_whole(np.setdiff1d(damaged, batch.whole_pages))
            self.check_replaceable(damaged)
            return pages, self._mapped.pages[pages]

    def note(self, records: Sequence[Record]) -> None:
        """Remember of which pages the last segment tells."""
        for record in records:
            if len(record.pages):
                self._noted[record.pages] = self._journal.last.first

    def check_whole(self, pages: Ints) -> None:
        """Raise DamageError where a page is not what was written."""
        damaged = self._mapped.damaged(pages)
        if len(damaged):
            raise damage(self._mapped.layout.root, damaged)

    def check_replaceable(self, pages: Ints) -> None:
        """Raise DamageError where a page, which is written whole, is not what was written, and a version holds it."""
        damaged = self._mapped.damaged(self._untold(pages))
        if not len(damaged):
            return
        for version in self._versions:
            held = np.setdiff1d(damaged, changed_pages(self._journal.since(version.sequence)))
            if len(held):
                raise DamageError(
                    f"{self._mapped.layout.root}: page {held[0]}: not what was written, and version {version.name!r}"
                    " holds it, too: drop that version first, or import a snapshot into a new directory",
                    tuple(held.tolist()),
                )

    def _untold(self, pages: Ints) -> Ints:
        return pages[self._noted[pages] != self._journal.last.first]
