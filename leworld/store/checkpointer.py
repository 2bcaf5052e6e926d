"""Checkpointer: the words themselves are on the disk, so that the journal need not hold what led to them."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from contextlib import suppress
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from leworld.errors import StoreError
from leworld.files import sync
from leworld.store.journal.journal import Journal
from leworld.store.journal.write_log import WriteLog
from leworld.store.layout import Layout, read_map, write_map
from leworld.store.versions.versions import Version
from leworld.store.write_gate import WriteGate


class Marks(Protocol):
    """What says which pages a fork holds, see ``Backfill``."""

    def marks(self) -> NDArray[np.uint8] | None:
        """Those that it holds now; None where it holds all."""
        ...

    def save_marks(self, marks: NDArray[np.uint8]) -> None:
        """Say on the disk that it holds them."""
        ...


class Checkpointer:
    """Takes checkpoints, and lets go of old segments.

    Attributes:
        upto: number of the write up to which the words on the disk hold everything.
        going_on: held while one is taken, and by whoever must not be disturbed by one; before the store's lock.
        retained: numbers of records by name of a replica that is being made; records after them are kept.
        thread: that takes, or took, one beside reads and writes.
        backfill: of a fork, says what it holds, which must be on the disk before the checkpoint is; else None.
        follows_leader: whether the memory is a replica that follows.
    """

    def __init__(
        self,
        layout: Layout,
        journal: Journal,
        log: WriteLog,
        versions: Iterable[Version],
        gate: WriteGate,
        segment_bytes: int,
    ) -> None:
        """Look after a memory.

        Args:
            layout: of the memory.
            journal: its segments.
            log: takes the headers of deleted segments.
            versions: those that are kept, as they are whenever it is iterated over.
            gate: its lock is held while segments come or go; it is shut where the disk fails.
            segment_bytes: length of the last segment from which on a checkpoint is due.
        """
        self._layout, self._journal, self._log, self._versions = layout, journal, log, versions
        self._gate, self._segment_bytes = gate, segment_bytes
        self.upto = checkpoint_of(layout)
        self.going_on = threading.Lock()
        self.retained: dict[str, int] = {}
        self.thread: threading.Thread | None = None
        self.backfill: Marks | None = None
        self.follows_leader = False
        self._refused = ""

    @property
    def is_due(self) -> bool:
        """Whether one is to be taken now; a replica that follows takes them where its leader's segments end."""
        return self._journal.last.size >= self._segment_bytes and not self.follows_leader

    @property
    def is_running(self) -> bool:
        """Whether one is being taken beside."""
        return self.thread is not None and self.thread.is_alive()

    def take(self, upto: int) -> None:
        """Have all writes up to one, which ends a segment, in the words on the disk; writing may go on meanwhile.

        Raises:
            StoreError: the disk refuses.
        """
        with self.going_on:
            if upto <= self.upto or self._journal.is_closed:
                return
            self.sync_words()
            write_map(self._layout.checkpoint, {"sequence": upto})
            self.upto = upto
            self.forget()

    def sync_words(self) -> None:
        """Have the words and what a fork holds on the disk; whoever calls holds ``going_on``.

        Raises:
            StoreError: the disk refuses.
        """
        if self._refused:
            raise StoreError(f"{self._layout.root}: {self._refused}")
        # What comes to be held from here on may not be on the disk.
        held = None if self.backfill is None else self.backfill.marks()
        try:
            for path in (self._layout.words, self._layout.sums):
                sync(path)
        except OSError as error:
            # The system may have dropped what it could not write: no later success says that it is there.
            self._refused = (
                f"the disk failed ({error.strerror}), so nothing more is written: mend it, and open it again"
            )
            self._gate.shut(self._refused)
            raise StoreError(f"{self._layout.root}: {self._refused}") from None
        if self.backfill is not None and held is not None:
            self.backfill.save_marks(held)

    def take_beside(self, upto: int) -> None:
        """The same in a thread of its own; not while the last one goes on."""
        if not self.is_running:
            self.thread = threading.Thread(target=self._try, args=(upto,), name="checkpoint")
            self.thread.start()

    def wait(self) -> None:
        """Return when the one that is being taken beside is."""
        if self.thread is not None and self.thread.ident is not None:
            self.thread.join()

    def forget(self) -> None:
        """Delete the segments that neither a crash nor a version would need; who wrote what is kept.

        Whoever calls holds ``going_on``.
        """
        with self._gate.lock:
            kept = [version.sequence for version in self._versions]
            needed = min([self.upto, self._journal.sequence, *self.retained.values(), *kept])
            gone = [segment for segment in self._journal.segments[:-1] if segment.last <= needed]
        # On a full disk the rest is deleted another time.
        with suppress(OSError):
            # A closed segment does not change, so that nobody has to wait for this.
            whole = [self._log.remember(segment) for segment in gone]
            with self._gate.lock:
                for segment, is_whole in zip(gone, whole, strict=True):
                    self._journal.drop(segment, aside=not is_whole)

    def _try(self, upto: int) -> None:
        # What fails is tried again with the next segment, and at last by close.
        with suppress(StoreError):
            self.take(upto)


def checkpoint_of(layout: Layout) -> int:
    """Number of the write that the last checkpoint holds, 0 before the first."""
    found = read_map(layout.checkpoint, {"sequence": int})
    return 0 if found is None else found["sequence"]
