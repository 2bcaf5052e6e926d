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
        super().__init__(root, config, writer=writer, epoch=epoch)
        self._committer.append = self._replicate
        self.versions.on_change = self._send_versions

    @property
    def epoch(self) -> int:
        """Number of the leadership that this replica knows of; in every record."""
        return self._committer.author.epoch

    @property
    def is_stopped(self) -> bool:
        """Whether it refuses all writes until it is opened again."""
        return self._gate.is_shut

    def lead(self, followers: Followers) -> None:
        """Take over from the leader of before."""
        with self._gate.lock:
            self._checkpoints.follows_leader, self.followers = False, followers

    def follow(self, records: Sequence[Record], *, roll: bool) -> None:
        """Take over records of the leader; with ``roll`` they begin a segment.

        Raises:
            StoreError: they do not go on from the last one, or the disk refuses.
        """
        with self._gate.lock:
            if records and records[0].sequence != self.sequence + 1:
                raise StoreError(
                    f"{self.root}: record {records[0].sequence} after record {self.sequence}: copy the memory again"
                )
            self._checkpoints.follows_leader = True
            if roll:
                # Its segments must be the leader's: a page's content of before is told once in each.
                self._journal.roll()
                self._checkpoints.take_beside(self.sequence)
            for record in records:
                self._committer.mapped.reserve(pages_of(record.start, record.length))
                if record.kind == "erased":
                    self.eraser.scrub(int(record.note))
            self._committer.commit(records)

    def follow_versions(self, versions: Sequence[Version]) -> None:
        """Keep the versions that the leader keeps."""
        self.versions.replace_all(versions)

    def records_after(self, sequence: int, max_bytes: int) -> tuple[list[Record], list[int]]:
        """Records after one, up to about so many bytes, and the numbers of those that begin a segment.

        Raises:
            StoreError: they are not in the journal any more.
        """
        with self._gate.lock:
            segments = [segment for segment in self._journal.segments if segment.last > sequence]
            if sequence < self.sequence and (not segments or segments[0].first > sequence + 1):
                raise StoreError(f"{self.root}: records after {sequence} are gone: copy the memory again")
            found, size = [], 0
            for segment in segments:
                for record in self._log.together(segment):
                    if record.last <= sequence or size >= max_bytes:
                        continue
                    # What came together stays so with a copy, unless that has a part of it already.
                    parts = [record] if record.sequence > sequence else record.split()
                    found.extend(part for part in parts if part.sequence > sequence)
                    size += record.words.nbytes + record.before.nbytes + 1024
            return found, [segment.first for segment in self._journal.segments]

    def damaged(self, pages: Ints) -> Ints:
        """Those of (P,) pages that are not what was written."""
        with self._gate.lock:
            return self.mapped.damaged(pages)

    def whole_pages(self, pages: Ints) -> tuple[Ints, NDArray[np.uint32]]:
        """Those of (P,) pages that are not damaged, and their (P, 256) words."""
        with self._gate.lock:
            whole = np.setdiff1d(pages, self.mapped.damaged(pages))
            return whole, self.mapped.pages[whole]

    def mend(self, pages: Ints, words: NDArray[np.uint32]) -> Ints:
        """Repair damaged pages with the words of another replica; see ``MappedWriter.mend``."""
        with self._gate.lock:
            return self._committer.mapped.mend(pages, words)

    def closed_segments(self) -> list[Path]:
        """Files of the journal that only an erasure still changes, oldest first."""
        with self._gate.lock:
            return [segment.path for segment in self._journal.segments[:-1]]

    def pin(self, name: str) -> int:
        """Keep all records from now on until ``unpin``; the number of the last one before."""
        with self._gate.lock:
            self._journal.roll()
            self._checkpoints.retained[name] = self.sequence
            return self.sequence

    def unpin(self, name: str) -> None:
        """End what ``pin`` began."""
        with self._gate.lock:
            self._checkpoints.retained.pop(name, None)

    def promise(self, epoch: int) -> None:
        """Be of an epoch from now on, also after a restart."""
        write_map(self.layout.epoch, {"epoch": epoch})
        self._committer.author.epoch = epoch

    def lease_until(self, moment: float) -> None:
        """Have readers of the mapped words refuse from a moment of ``time.monotonic`` on."""
        self.mapped.state.lease_until(moment)

    def go_by(self, map_version: int) -> None:
        """Tell readers of the mapped words by which map a shard holds them."""
        self.mapped.state.go_by(map_version)

    def _replicate(self, records: Sequence[Record]) -> None:
        """Put records into the journal, and send them to the followers."""
        followers, roll = self.followers, not self._journal.last.size
        if followers is None:
            self._journal.append(records)
            return
        self._journal.append(records, lambda: followers.send(records, roll=roll))
        try:
            followers.wait()
        except Exception as error:
            # The records are in this journal, and no other write may build on them.
            self._gate.shut(str(error))
            raise

    def _send_versions(self) -> None:
        if self.followers is not None:
            self.followers.send_versions(list(self.versions))
