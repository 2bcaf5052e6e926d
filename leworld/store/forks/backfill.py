"""Filling: a fork takes over from its parent, page by page, beside reads and writes, until it holds everything.

A page that is about to be written is taken over first; the rest is by a thread, in pieces small enough that nobody has
to wait. After a crash those pages count as held that were noted on the disk, and those that the journal tells of: what
the fork itself never wrote may be taken over once more.

Shapes:
    P: pages.
"""

from __future__ import annotations

import threading
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from leworld.errors import DamageError, StoreError
from leworld.memory.ranges import Ints
from leworld.store.checkpointer import Checkpointer
from leworld.store.forks.fork_link import FILLED, ForkLink, read_link, write_link
from leworld.store.forks.fork_registry import let_go, note_fork, place_of
from leworld.store.forks.parent_pages import ParentPages
from leworld.store.journal.journal import Journal
from leworld.store.layout import Layout, read_identity, read_map, write_map
from leworld.store.mapped_memory import page_sums
from leworld.store.mapped_writer import MappedWriter
from leworld.store.versions.versions import changed_pages

SCAN_PAGES = 1 << 14
"""Looked through at a time."""
PIECE_PAGES = 128
"""Taken over at a time: 128 KiB."""
PAUSE_S = 0.001
"""After each piece, for others to go on."""
MARKED_PAGES = 1 << 18
"""Looked at, or said to be held, at a time: nobody else runs meanwhile."""
SAVE_PAGES = 1 << 18
"""After so many it is noted on the disk what is held: 256 MiB."""


class Backfill:
    """Has a fork hold what is its parent's; of a memory that is no fork it does nothing.

    Attributes:
        problem: what keeps it from going on; None where nothing does.
    """

    def __init__(self, writer: MappedWriter, journal: Journal, checkpoints: Checkpointer) -> None:
        """Find out what a fork holds, before its journal is replayed.

        Raises:
            StoreError: what says so is damaged.
        """
        mapped = writer.memory
        self._writer, self._mapped, self._checkpoints, self._layout = writer, mapped, checkpoints, mapped.layout
        self.problem: OSError | None = None
        self._lock, self._stopped, self._hurry = threading.Lock(), threading.Event(), threading.Event()
        self._thread: threading.Thread | None = None
        self._is_new = False
        checkpoints.backfill = self
        if mapped.inherited is not None:
            self._find_held(mapped.inherited, journal)

    def start(self) -> None:
        """Take over the rest beside; or where nothing is left, have the parent let go."""
        link = read_link(self._layout)
        if link is not None:
            # The fork may have been moved.
            with suppress(OSError):
                self._tell_parent(link)
        if self._mapped.inherited is None:
            if link is not None:
                self._let_go(link)
        elif self._thread is None or not self._thread.is_alive():
            self.problem = None
            self._thread = threading.Thread(target=self._try, name="fill", daemon=True)
            self._thread.start()

    def finish(self) -> None:
        """Return when the fork holds everything.

        Raises:
            DamageError: pages of the parent are damaged; all others are held.
            StoreError: the parent cannot be read, or the disk refuses.
        """
        self._hurry.set()
        self.start()
        if self._thread is not None:
            self._thread.join()
        self._hurry.clear()
        if self.problem is not None:
            raise self.problem
        if self._mapped.inherited is not None:
            raise StoreError(f"{self._layout.root}: is closed: open the memory again")

    def close(self) -> None:
        """Take over no more; what is held is noted on the disk if that is possible."""
        self._stopped.set()
        if self._thread is not None:
            self._thread.join()
        if self._is_new:
            with suppress(StoreError):
                self._save()

    def take(self, pages: Ints) -> None:
        """Hold (P,) pages, before they are written.

        Raises:
            DamageError: one of them is damaged in the parent.
            StoreError: the parent cannot be read, or the disk is full.
        """
        inherited = self._mapped.inherited
        missing = pages[:0] if inherited is None else inherited.missing(pages)
        if inherited is None or not len(missing):
            return
        try:
            words = inherited.fetch(missing)
        except StoreError:
            # They may all be held by now, and the parent have let go.
            if len(inherited.missing(missing)):
                raise
            return
        self._put(inherited, missing, words)

    def marks(self) -> NDArray[np.uint8] | None:
        """Bits of the pages that the fork holds now; None where it holds all, or none is new."""
        inherited = self._mapped.inherited
        if inherited is None or not self._is_new:
            return None
        # Before they are looked at, as others come meanwhile.
        self._is_new = False
        parts = range(0, len(inherited.held), MARKED_PAGES)
        return np.concatenate([np.packbits(inherited.held[first : first + MARKED_PAGES]) for first in parts])

    def save_marks(self, marks: NDArray[np.uint8]) -> None:
        """Note on the disk what is held.

        Raises:
            StoreError: the disk refuses.
        """
        try:
            write_map(self._layout.filled, {"bits": marks.tobytes()})
        except StoreError:
            self._is_new = True
            raise

    def stat(self) -> dict[str, Any]:
        """Of a fork, what it was made from and how far it is; else nothing."""
        link = read_link(self._layout)
        problem = None if self.problem is None else str(self.problem)
        return {} if link is None else {"fork": {**vars(link), "problem": problem}}

    def _find_held(self, inherited: ParentPages, journal: Journal) -> None:
        noted = _noted(self._layout, len(inherited.held))
        noted[changed_pages(journal.since(self._checkpoints.upto))] = 1
        if self._mapped.state.is_whole and self._mapped.sequence > journal.sequence:
            # The journal has lost its end, and so cannot tell of all that was written.
            noted |= inherited.held
        inherited.held[:] = noted
        # The next checkpoint must note those that so far only the journal tells of.
        self._is_new = True
        inherited.over[0] = 0

    def _try(self) -> None:
        inherited = self._mapped.inherited
        assert inherited is not None
        try:
            damaged = self._fill(inherited)
            if damaged is not None:
                raise damaged
            if not self._stopped.is_set():
                self._end(inherited)
        except OSError as error:
            self.problem = error

    def _fill(self, inherited: ParentPages) -> DamageError | None:
        """Take over all there is until it is stopped; the last damage that was met."""
        damaged, unsaved = None, 0
        for first in range(0, len(inherited.held), SCAN_PAGES):
            if self._stopped.is_set():
                break
            pages = inherited.candidates(first, min(first + SCAN_PAGES, len(inherited.held)))
            for begin in range(0, len(pages), PIECE_PAGES):
                if self._stopped.wait(0 if self._hurry.is_set() else PAUSE_S):
                    break
                damaged = self._take_whole(inherited, pages[begin : begin + PIECE_PAGES]) or damaged
            unsaved += len(pages)
            if unsaved >= SAVE_PAGES:
                self._save()
                unsaved = 0
        return damaged

    def _take_whole(self, inherited: ParentPages, pages: Ints) -> DamageError | None:
        """Hold those of (P,) pages that are not damaged."""
        damaged = None
        while True:
            try:
                self.take(pages)
                return damaged
            except DamageError as error:
                damaged, before = error, len(pages)
                pages = np.setdiff1d(inherited.missing(pages), error.pages)
                if len(pages) == before:
                    raise

    def _put(self, inherited: ParentPages, pages: Ints, words: NDArray[np.uint32]) -> None:
        with self._lock:
            # Another thread may have been here, and words been written since.
            left = inherited.held[pages] == 0
            pages, words = pages[left], words[left]
            # What is a hole stays one.
            full = words.any(1) | self._mapped.pages[pages].any(1)
            self._writer.reserve(pages[full])
            self._mapped.pages[pages[full]] = words[full]
            self._mapped.sums[pages] = page_sums(words)
            inherited.held[pages] = 1
            # After, see ``marks``.
            self._is_new = True

    def _save(self) -> None:
        with self._checkpoints.going_on:
            self._checkpoints.sync_words()

    def _end(self, inherited: ParentPages) -> None:
        """The fork holds everything: first that is on the disk, then nobody asks the parent any more."""
        with self._checkpoints.going_on:
            self._checkpoints.sync_words()
            link = replace(inherited.link, stage=FILLED)
            write_link(self._layout, link)
        # What was never written holds nothing, here and there.
        for first in range(0, len(inherited.held), MARKED_PAGES):
            inherited.held[first : first + MARKED_PAGES] = 1
        inherited.over[0] = 1
        self._mapped.inherited = None
        self._let_go(link)

    def _let_go(self, link: ForkLink) -> None:
        """Have the parent keep the version no longer; if that cannot be now, it is when either is opened again."""
        for path in (self._layout.filling, self._layout.filled):
            path.unlink(missing_ok=True)
        if link.stage == FILLED:
            with suppress(OSError):
                let_go(self._layout, link)

    def _tell_parent(self, link: ForkLink) -> None:
        parent = Layout(Path(link.parent))
        is_there = read_identity(parent.root).id == link.parent_id
        if is_there and place_of(parent, link.version) != self._layout.root.absolute():
            note_fork(parent, link.version, self._layout.root)


def _noted(layout: Layout, num_pages: int) -> NDArray[np.uint8]:
    """(num_pages,) 1 for each page that is held on the disk."""
    found = read_map(layout.filled, {"bits": bytes})
    if found is None:
        return np.zeros(num_pages, np.uint8)
    if len(found["bits"]) != -(-num_pages // 8):
        raise StoreError(f"{layout.filled}: is damaged or foreign; restore this memory from a replica or a snapshot")
    return np.unpackbits(np.frombuffer(found["bits"], np.uint8), count=num_pages)
