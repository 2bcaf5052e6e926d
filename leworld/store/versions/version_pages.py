"""Pages as they were at a kept version of a memory, read many times beside the process that writes it.

As ``VersionReader``, but only what is new in the journal is looked at each time. Records that the writer has begun to
make visible stay where they are; later ones may still be cut off, and do not matter.

Shapes:
    P: pages.
"""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from leworld.errors import StoreError
from leworld.memory.protocol import PAGE_WORDS, Words
from leworld.memory.ranges import Ints
from leworld.store.journal.record import Frame, decode_at
from leworld.store.journal.segment import Segment, check_joined, missing, segment_paths
from leworld.store.layout import Layout, read_identity
from leworld.store.versions.versions import Versions, pages_before


class Pages(Protocol):
    """What is needed of a ``MappedMemory``."""

    @property
    def begun(self) -> int:
        """Number of the last write of which something may be visible."""
        ...

    def read(self, start: Ints, length: Ints) -> Words:
        """Read ranges."""
        ...

    def written_pages(self, first: int = 0, stop: int | None = None) -> Ints:
        """Pages that hold anything."""
        ...


class VersionPages:
    """The content of a memory at a version, which is kept for as long as this is used."""

    def __init__(self, mapped: Pages, root: Path, identity: str, version: str) -> None:
        """Look at a version.

        Args:
            mapped: the memory as it is now.
            root: its directory.
            identity: its id.
            version: name of the version.

        Raises:
            StoreError: there is no such version, or another memory is in the directory.
        """
        self._mapped, self._layout = mapped, Layout(root)
        found = read_identity(root)
        if found.id != identity:
            raise StoreError(f"memory {found.id} is there, not {identity}")
        self._file = _number(self._layout.identity)
        self.sequence = Versions(self._layout).find(version).sequence
        self._segments: list[Segment] = []
        self._changed = np.zeros((1 << found.address_bits) // PAGE_WORDS, np.bool_)
        self._lock = threading.Lock()

    def read(self, pages: Ints) -> NDArray[np.uint32]:
        """(P, 256) what (P,) pages held.

        Raises:
            DamageError: a page or a record is not what was written.
            OSError: the journal is gone, or another memory is there now.
        """
        now = self._mapped.read(pages * PAGE_WORDS, np.full(len(pages), PAGE_WORDS)).words.reshape(-1, PAGE_WORDS)
        segments, changed = self._since(), self._changed[pages]
        now[changed] = pages_before(segments, pages[changed], now[changed])
        return now

    def written(self, first: int, stop: int) -> Ints:
        """Pages in ``[first, stop)`` that may have held anything, ascending."""
        return np.union1d(self._mapped.written_pages(first, stop), self.changed(first, stop))

    def changed(self, first: int, stop: int) -> Ints:
        """Pages in ``[first, stop)`` that changed since, ascending."""
        self._since()
        return first + np.flatnonzero(self._changed[first:stop])

    def _since(self) -> list[Segment]:
        """The segments since the version, with the records that may be visible now."""
        # After the words were read: what was visible in them is in the journal.
        upto = self._mapped.begun
        with self._lock:
            if not self._segments or self._segments[-1].last < upto:
                self._segments = self._follow(upto)
            # Else a memory was put in the place of this one, or it is gone, and this is the journal of neither.
            if _number(self._layout.identity) != self._file:
                raise StoreError("another memory is there now")
            return list(self._segments)

    def _follow(self, upto: int) -> list[Segment]:
        known = {segment.path: segment for segment in self._segments}
        paths = [path for path in segment_paths(self._layout.journal) if int(path.stem) > self.sequence]
        found = [known.get(path) or _empty(path) for path in paths]
        for segment in found:
            self._grow(segment, upto)
        if not found:
            raise missing(self._layout.journal, self.sequence + 1)
        check_joined(self._layout.journal, found, self.sequence + 1)
        if found[-1].last < upto:
            raise missing(self._layout.journal, found[-1].last + 1)
        return found

    def _grow(self, segment: Segment, upto: int) -> None:
        """Take note of records that were appended to a segment, up to one."""
        if segment.last >= upto or segment.path.stat().st_size <= segment.size:
            return
        with segment.path.open("rb") as file:
            file.seek(segment.size)
            data, offset, base = file.read(), 0, segment.size
        while segment.last < upto and (found := decode_at(data, offset)) is not None:
            record, frame = found
            if record.sequence != segment.last + 1:
                return
            segment.add(record, Frame(base + frame.offset, base + frame.body, base + frame.end))
            self._changed[record.pages] = True
            offset = frame.end


def _empty(path: Path) -> Segment:
    first = int(path.stem)
    return Segment(path, first, first - 1, _before={})


def _number(path: Path) -> tuple[int, int]:
    """What tells a file from every other one that is there now."""
    found = os.stat(path)
    return found.st_dev, found.st_ino
