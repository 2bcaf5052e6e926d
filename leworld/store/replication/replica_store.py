"""ReplicaStore: a memory on disk that is one of several copies, and follows the one that leads them, or leads.

The leader sends every record to its followers before it acknowledges it, and they take it over as it is: same numbers,
same segments, same words. What a copy lacks is taken from another copy's journal, or whole, see ``copying``.

Shapes: see ``leworld.store.durable_store``.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from leworld.errors import StoreError
from leworld.memory.ranges import Ints, pages_of
from leworld.store.durable_store import DurableStore, StoreConfig
from leworld.store.journal.record import Record
from leworld.store.layout import write_map
from leworld.store.versions.versions import Version


class Followers(Protocol):
    """Other copies of a memory, to which every record goes before it is acknowledged."""

    def send(self, records: Sequence[Record], *, roll: bool) -> None:
        """Send records; with ``roll`` they begin a segment."""
        ...

    def wait(self) -> None:
        """Return when every copy that counts has them on its disk.

        Raises:
            StoreError: this one does not lead any more.
        """
        ...

    def send_versions(self, versions: Sequence[Version]) -> None:
        """Send the kept versions, and wait."""
        ...


class ReplicaStore(DurableStore):
    """A ``DurableStore`` that is one of several copies.

    Attributes:
        followers: other copies of it, where it leads; a write is acknowledged when it is with them, too.
    """

    def __init__(
        self, root: str | Path, config: StoreConfig | None = None, *, writer: str = "", epoch: int = 1
    ) -> None:
        """Open a copy that exists, see ``DurableStore``; it neither follows nor leads yet."""
        self.followers: Followers | None = None
        self._following = False
        super().__init__(root, config, writer=writer, epoch=epoch)

    def lead(self, followers: Followers) -> None:
        """Take over from the memory that this one was a copy of."""
        with self._lock:
            self._following, self.followers = False, followers

    def follow(self, records: Sequence[Record], *, roll: bool) -> None:
        """Take over records of the memory that this one is a copy of; with ``roll`` they begin a segment.

        Raises:
            StoreError: they do not go on from the last one, or the disk refuses.
        """
        with self._lock:
            if records and records[0].sequence != self.sequence + 1:
                raise StoreError(
                    f"{self.root}: record {records[0].sequence} after record {self.sequence}: copy the memory anew"
                )
            self._following = True
            if roll:
                # Its segments must be the leader's: a page's content of before is told once in each.
                self._journal.roll()
                self._checkpoints.take_beside(self.sequence)
            for record in records:
                self._mapped.reserve(pages_of(record.start, record.length))
                if record.kind == "erased":
                    self._scrub(int(record.note))
            self._commit(records)

    def follow_versions(self, versions: Sequence[Version]) -> None:
        """Keep the versions that the memory keeps that this one is a copy of."""
        with self._lock:
            self._versions.set(versions)
        with self._checkpoints.going_on:
            self._checkpoints.forget()

    def records_after(self, sequence: int, max_bytes: int) -> tuple[list[Record], list[int]]:
        """Records after one, up to about so many bytes, and the numbers of those that begin a segment.

        Raises:
            StoreError: they are not in the journal any more.
        """
        with self._lock:
            segments = [segment for segment in self._journal.segments if segment.last > sequence]
            if sequence < self.sequence and (not segments or segments[0].first > sequence + 1):
                raise StoreError(f"{self.root}: records after {sequence} are gone: copy the memory anew")
            found, size = [], 0
            for segment in segments:
                for record in self._history.together(segment):
                    if record.last <= sequence or size >= max_bytes:
                        continue
                    # What came together stays so with a copy, unless that has a part of it already.
                    parts = [record] if record.sequence > sequence else record.split()
                    found.extend(part for part in parts if part.sequence > sequence)
                    size += record.words.nbytes + record.before.nbytes + 1024
            return found, [segment.first for segment in self._journal.segments]

    def whole_pages(self, pages: Ints) -> tuple[Ints, NDArray[np.uint32]]:
        """Those of pages that are not damaged, and their (P, 256) words."""
        with self._lock:
            whole = np.setdiff1d(pages, self._mapped.damaged(pages))
            return whole, self._mapped.pages[whole]

    def mend(self, pages: Ints, words: NDArray[np.uint32]) -> Ints:
        """Put damaged pages right with what another copy has there, whole; those that are right now."""
        with self._lock:
            return self._mapped.mend(pages, words)

    def closed_segments(self) -> list[Path]:
        """Files of the journal that only an erasure still changes, oldest first."""
        with self._lock:
            return [segment.path for segment in self._journal.segments[:-1]]

    def pin(self, name: str) -> int:
        """Keep all records from now on until ``unpin``; the number of the last one before."""
        with self._lock:
            self._journal.roll()
            self._checkpoints.pins[name] = self.sequence
            return self.sequence

    def unpin(self, name: str) -> None:
        """End what ``pin`` began."""
        with self._lock:
            self._checkpoints.pins.pop(name, None)

    def promise(self, epoch: int) -> None:
        """Be of an epoch from now on, also after a restart."""
        write_map(self.layout.epoch, {"epoch": epoch})
        self.epoch = epoch

    def lease_until(self, moment: float) -> None:
        """Have readers of the mapped words refuse from a moment of ``time.monotonic`` on."""
        self._mapped.lease_until(moment)

    def go_by(self, map_version: int) -> None:
        """Tell readers of the mapped words by which map a shard holds them."""
        self._mapped.go_by(map_version)

    def _have_kept(self, records: Sequence[Record]) -> None:
        """Put records into the journal, and have them with the followers."""
        followers, roll = self.followers, not self._journal.last.size
        if followers is None:
            super()._have_kept(records)
            return
        self._journal.append(records, lambda: followers.send(records, roll=roll))
        try:
            followers.wait()
        except Exception as error:
            # The records are in this journal, and nobody may build on them.
            self.stop(str(error))
            raise

    def _versions_changed(self) -> None:
        if self.followers is not None:
            self.followers.send_versions(self.versions)

    def _is_due_for_checkpoint(self) -> bool:
        # Who follows takes them where its leader's segments end.
        return super()._is_due_for_checkpoint() and not self._following
