"""Reading a kept version beside the process that writes the memory.

What a page held at a version is in the journal if it changed since, and in the words if it did not. The writer puts it
into the journal before it changes the words: so the words are read first, and the journal is looked into after.

Shapes:
    P: pages.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from leworld.errors import StoreError
from leworld.memory.protocol import PAGE_WORDS, Snapshot
from leworld.memory.ranges import Ints
from leworld.store.journal.segment import Segment, check_joined, load_segment, missing, segment_paths
from leworld.store.layout import Layout
from leworld.store.mapped_memory import MappedMemory
from leworld.store.versions.versions import Difference, Versions, changed_pages, difference, pages_before


class VersionReader:
    """The content of a memory as it was after a write that ended a segment.

    Attributes:
        sequence: of that write.
    """

    def __init__(self, root: str | Path, name: str) -> None:
        """Look at a version of a memory, which must be kept for as long as this is used.

        Raises:
            StoreError: there is no such memory or version.
        """
        self._mapped, layout = MappedMemory(root), Layout(Path(root))
        self._journal = layout.journal
        self.sequence = Versions(layout).find(name).sequence
        self._segments: list[Segment] = []

    @property
    def address_bits(self) -> int:
        """Of the memory."""
        return self._mapped.address_bits

    def pages(self, pages: Ints) -> NDArray[np.uint32]:
        """(P, 256) what (P,) pages held.

        Raises:
            DamageError: one of them is not what was written.
        """
        length = np.full(len(pages), PAGE_WORDS)
        now = self._mapped.read(pages * PAGE_WORDS, length).words.reshape(-1, PAGE_WORDS)
        return pages_before(self.segments(), pages, now)

    def changed(self) -> Ints:
        """Pages that changed since, ascending."""
        return changed_pages(self.segments())

    def written(self) -> Ints:
        """Pages that may have held anything, ascending."""
        return np.union1d(self._mapped.written_pages(), self.changed())

    def snapshot(self) -> Snapshot:
        """All of it."""
        pages = self.written()
        words = self.pages(pages)
        full = words.any(1)
        return Snapshot(self.address_bits, self.sequence, pages[full], words[full])

    def segments(self) -> list[Segment]:
        """The segments since, as they are on the disk now."""
        paths = [path for path in segment_paths(self._journal) if int(path.stem) > self.sequence]
        # All but the last of those known are closed, and do not change any more.
        known = {segment.path: segment for segment in self._segments[:-1]}
        self._segments = [known.get(path) or load_segment(path) for path in paths]
        if not self._segments:
            # The directory is gone, as a version is followed by a segment at least, which may be empty.
            raise missing(self._journal, self.sequence + 1)
        check_joined(self._journal, self._segments, self.sequence + 1)
        return self._segments


def difference_beside(root: Path, before: str, after: str = "now") -> Difference:
    """What ``DurableStore.diff`` finds, beside the process that writes the memory.

    Raises:
        StoreError: there is no such version, or "now" is asked for as the first of the two.
    """
    if before == "now":
        raise StoreError("now is no version that is kept: name it second")
    first = VersionReader(root, before)
    if after == "now":
        pages = first.changed()
        length = np.full(len(pages), PAGE_WORDS)
        words = MappedMemory(root).read(pages * PAGE_WORDS, length).words.reshape(-1, PAGE_WORDS)
        return difference(pages, first.pages(pages), words)
    last = VersionReader(root, after)
    if last.sequence < first.sequence:
        return difference_beside(root, after, before).reversed()
    pages = first.changed()
    return difference(pages, first.pages(pages), last.pages(pages))
