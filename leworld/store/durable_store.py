"""DurableStore: a memory on disk. What it acknowledges is kept, and nobody sees what is not.

A write goes into the journal, then, when that is on the disk, into the mapped words, and then it is acknowledged. After
a crash the journal is read from the last checkpoint on: every page that changed since is put back as it was, and the
writes are made again.

Shapes:
    R: ranges or blocks.  W: words.  L: words a block.  P: pages.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from leworld.errors import DamageError, StoreError
from leworld.files import remove_leftovers
from leworld.memory.protocol import PAGE_WORDS, Receipt, Snapshot, Words
from leworld.memory.ranges import Ints
from leworld.memory.word_store import as_blocks, check_pages, check_width
from leworld.store import restore_intent as restoring
from leworld.store.checkpointer import Checkpointer, checkpoint_of
from leworld.store.erasure import Erasure, Traces, copied_by, is_scrubbed, scrub_segments, trace
from leworld.store.forks.backfill import Backfill
from leworld.store.forks.fork import fork
from leworld.store.forks.fork_link import read_link
from leworld.store.forks.fork_registry import check_unneeded, drop_ended
from leworld.store.journal.journal import Journal
from leworld.store.journal.record import Record
from leworld.store.journal.segment import Segment
from leworld.store.journal.write_batch import Write as Write
from leworld.store.journal.write_batch import WriteBatch, join, make_batch
from leworld.store.journal.write_log import WriteLog
from leworld.store.layout import Identity, Layout, make, read_identity, read_map
from leworld.store.mapped_memory import MappedMemory, damage
from leworld.store.recovery import recover
from leworld.store.versions.versions import Difference, Version, Versions, changed_pages, difference, pages_before
from leworld.store.writer_lock import WriterLock

CHUNK_PAGES = 1 << 14
"""Pages put back at a time: 16 MiB."""


@dataclass(frozen=True)
class StoreConfig:
    """How a memory is kept.

    Attributes:
        policy: when a write is on the disk: "always" and "group" before it is acknowledged, by itself or with others
            that came together; "os" within a second, so that only a machine that fails can lose it.
        segment_bytes: length of the journal at which a checkpoint is taken.
        verify: of pages as they are read, see ``MappedMemory``.
    """

    policy: str = "group"
    segment_bytes: int = 256 << 20
    verify: str = "touch"


class DurableStore:
    """A ``Memory`` on disk, for one writer; any number of processes read beside it with ``MappedMemory``.

    Attributes:
        address_bits: 8, 16, 24 or 32.
        root: the directory.
        epoch: written into every record; 0 for a memory that is not one of several copies.
    """

    def __init__(
        self, root: str | Path, config: StoreConfig | None = None, *, writer: str = "", epoch: int = 0
    ) -> None:
        """Open a memory that exists, and mend what a crash left.

        Raises:
            StoreError: there is none, or another process writes it.
            DamageError: its journal is damaged before its end.
        """
        self.root, self.config, self.writer, self.epoch = Path(root), config or StoreConfig(), writer, epoch
        self.layout = Layout(self.root)
        self.address_bits = read_identity(self.root).address_bits
        self._lock = threading.RLock()
        self._stopped = ""
        self._held = WriterLock(self.layout)
        with ExitStack() as opened:
            opened.callback(self._held.release)
            for directory in (self.root, self.layout.journal):
                remove_leftovers(directory)
            self._mapped = MappedMemory(self.root, writable=True, verify=self.config.verify)
            self._journal = Journal(self.layout.journal, self.config.policy, checkpoint_of(self.layout))
            opened.callback(self._journal.close)
            self._versions = Versions(self.layout)
            drop_ended(self.layout, self._versions)
            self.epoch = max(self.epoch, _epoch_of(self.layout))
            self._history = WriteLog(self.layout, self._journal)
            self._noted = np.zeros(self.num_words // PAGE_WORDS, np.int64)
            self._noted[list(self._journal.last.before)] = self._journal.last.first
            self._checkpoints = Checkpointer(
                self.layout, self._journal, self._history, self._versions, self._lock, self.stop
            )
            self._filler = Backfill(self._mapped, self._journal, self._checkpoints)
            is_copy = self.epoch > 0
            last = recover(self._mapped, self._journal, self._history, self._checkpoints, is_copy=is_copy)
            self._finish(last)
            self._filler.start()
            self._opened = opened.pop_all()

    @classmethod
    def create(cls, root: str | Path, address_bits: int, config: StoreConfig | None = None, **known) -> Self:
        """Make an empty memory and open it.

        Raises:
            StoreError: there is something in the directory.
        """
        make(Path(root), address_bits)
        return cls(root, config, **known)

    @classmethod
    def open_or_create(cls, root: str | Path, address_bits: int, config: StoreConfig | None = None, **known) -> Self:
        """Open a memory, or make it where there is none.

        Raises:
            StoreError: it is of another width, or another process writes it.
        """
        if not Layout(Path(root)).identity.exists():
            return cls.create(root, address_bits, config, **known)
        store = cls(root, config, **known)
        if store.address_bits != address_bits:
            found = store.address_bits
            store.close()
            raise StoreError(f"{root}: has {found} address bits, not {address_bits}: set address_bits to match")
        return store

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.close()

    @property
    def sequence(self) -> int:
        """Number of the last write."""
        return self._journal.sequence

    @property
    def identity(self) -> Identity:
        """What this memory is."""
        return read_identity(self.root)

    @property
    def num_words(self) -> int:
        """Words that can be addressed."""
        return self._mapped.num_words

    @property
    def versions(self) -> list[Version]:
        """Those that are kept, oldest first."""
        return list(self._versions)

    def read(self, start: ArrayLike, length: ArrayLike) -> Words:
        """Read R ranges; see ``MappedMemory.read``."""
        return self._mapped.read(start, length)

    def write(self, start: ArrayLike, words: NDArray[np.uint32]) -> Receipt:
        """Write R blocks of one length; see ``Memory.write``. It is kept when this returns.

        Raises:
            RangeError: a block is outside the memory; nothing is written then.
            StoreError: the disk refuses; nothing is written then.
        """
        return self.write_ragged(start, as_blocks(words))

    def write_ragged(self, start: ArrayLike, blocks: Words) -> Receipt:
        """Write R blocks of any lengths as one write; see ``WordStore.write_ragged``."""
        return self.write_many([Write(start, blocks, self.writer)])[0]

    def write_many(self, writes: Sequence[Write]) -> list[Receipt]:
        """Make writes one after another, as one batch for the disk; a receipt each.

        Raises:
            RangeError, DataError: one of them cannot be; none is made then.
            StoreError: the disk refuses; none is made then.
        """
        if not writes:
            return []
        batch = make_batch(writes, self.num_words)
        with self._lock:
            self._filler.take(batch.pages)
            self._mapped.reserve(batch.pages)
            crc32s = batch.checksums()
            record = self._record(batch, crc32s)
            self._commit([record], batch)
        return batch.receipts(record.sequence, crc32s)

    def create_version(self, name: str, of: str = "now") -> Version:
        """Keep the content of now as a version: at once, whatever the size of the memory, and nobody waits.

        Args:
            name: of the version.
            of: another version that is kept, to keep that one under a second name.

        Raises:
            StoreError: the name is taken, or there is no such other version.
        """
        with self._lock:
            self._check_running()
            self._journal.roll()
            version = Version(name, self._sequence_of(of), time.time_ns())
            self._versions.add(version)
            self._versions_changed()
            return version

    def drop_version(self, name: str) -> None:
        """Keep a version no longer.

        Raises:
            StoreError: there is none of this name, or a fork needs it.
        """
        with self._lock:
            self._check_running()
            check_unneeded(self.layout, name)
            self._versions.drop(name)
            self._versions_changed()
        with self._checkpoints.going_on:
            self._checkpoints.forget()

    def fork(self, root: str | Path, version: str = "now") -> Identity:
        """Make another memory with the content of now or of a version: at once, whatever the size, see ``fork.fork``.

        Raises:
            StoreError: there is something in the directory, no such version, or this is one of several copies.
        """
        return fork(self.root, Path(root), self, version)

    def fill(self) -> None:
        """Of a fork, return when it holds everything itself, so that it does not need its parent any more.

        Raises:
            DamageError: pages of the parent are damaged; all others are held then.
            StoreError: the parent cannot be read, or the disk refuses.
        """
        self._filler.finish()

    def diff(self, before: str, after: str = "now") -> Difference:
        """The words that differ between two versions; "now" is the content of now.

        Raises:
            StoreError: there is no such version.
        """
        with self._lock:
            first, last = (self._sequence_of(name) for name in (before, after))
            if first > last:
                swapped = self.diff(after, before)
                return Difference(swapped.address, swapped.after, swapped.before)
            between = [segment for segment in self._journal.since(first) if segment.first <= last]
            pages = changed_pages(between)
            return difference(pages, self._pages_at(first, pages), self._pages_at(last, pages))

    def rollback_to(self, name: str) -> None:
        """Make the content that of a version again, as a write of its own: it can be undone by a version of now.

        Raises:
            StoreError: there is no such version. Or the disk refuses: then a part may be done, and the rest is when the
                memory is opened again, unless something is written before.
        """
        with self._lock:
            version = self._versions.find(name)
            # What cannot be done is not begun.
            self._check_replaceable(changed_pages(self._journal.since(version.sequence)))
            # A crash in the middle is finished when the memory is opened again.
            self._mark("restore", name)
            self._put_back(version)
            self._mark("restored", name)

    def erase(self, sequence: int) -> Erasure:
        """Take out what a write wrote: of the memory, the journal and every version; what others wrote stays.

        Raises:
            StoreError: there is no such write, or the disk refuses.
        """
        with self._lock:
            record, traces = trace(sequence, self._history.oldest_first(), read_link(self.layout))
            erasing = self._append_erasure(sequence, traces)
            self._finish_erasure(sequence)
            return Erasure(
                read_identity(self.root).id, sequence, erasing.sequence, record.start, record.length, record.crc32
            )

    def is_erased(self, erasure: Erasure) -> bool:
        """Whether nothing of what an erasure took out is left anywhere in this memory.

        Raises:
            StoreError: the receipt is of another memory.
        """
        if read_identity(self.root).id != erasure.memory:
            raise StoreError(f"{self.root}: the receipt is of memory {erasure.memory}, which is another")
        with self._lock:
            record, traces = trace(erasure.erased, self._history.oldest_first())
            same = np.array_equal(record.start, erasure.start) and np.array_equal(record.length, erasure.length)
            if not same or record.crc32 != erasure.crc32 or traces.alive.any():
                return False
            last = self._history.last_writers(traces.address)
            zeroed = traces.address[last == erasure.sequence]
            words = self.read(zeroed, np.ones(len(zeroed), np.int64)).words
            return not words.any() and is_scrubbed(erasure.erased, *self._traces_before(erasure.erased))

    def snapshot(self) -> Snapshot:
        """Copy every page that holds anything; see ``Memory.snapshot``."""
        with self._lock:
            pages = self._mapped.written_pages()
            self._check_whole(pages)
            words = self._mapped.read(pages * PAGE_WORDS, np.full(len(pages), PAGE_WORDS)).words
            return Snapshot(self.address_bits, self.sequence, pages, words.reshape(-1, PAGE_WORDS))

    def restore(self, snapshot: Snapshot) -> None:
        """Replace the whole content by a snapshot's, as writes of their own; see ``Memory.restore``.

        What is damaged is well again then. A crash leaves the content of before, or is finished by the next opening.

        Raises:
            DamageError: a version that is kept holds a damaged page; nothing is written then.
            StoreError: the disk refuses: then a part may be done, and the rest is when the memory is opened again,
                unless something is written before.
        """
        check_width(snapshot, self.address_bits)
        pages, words = check_pages(snapshot)
        with self._lock:
            gone = np.setdiff1d(np.union1d(self._mapped.written_pages(), self.verify()), pages)
            self._check_replaceable(np.union1d(gone, pages))
            zeros = np.broadcast_to(np.uint32(0), (len(gone), PAGE_WORDS))
            if len(gone) + len(pages) <= CHUNK_PAGES:
                # As one record it is there or not.
                self._write_pages(np.concatenate([gone, pages]), np.concatenate([zeros, words]), restoring.NOTE)
                return
            with restoring.finished_later(self.layout, snapshot, lambda: self.sequence):
                self._write_pages(gone, zeros, restoring.NOTE)
                self._write_pages(pages, words, restoring.NOTE)
                self._journal.sync()

    def log(self, limit: int = 20, *, address: int | None = None) -> list[Record]:
        """The last writes, newest first, without their words; with ``address`` those that touched it."""
        with self._lock:
            return self._history.last(limit, address)

    def why(self, address: int) -> Record | None:
        """The write that set a word last, without its words; None where none ever did."""
        found = self.log(1, address=address)
        return found[0] if found else None

    def stat(self) -> dict[str, Any]:
        """What the memory is and what it takes; bytes are those on the disk."""
        with self._lock:
            segments = self._journal.segments
            return {
                "id": read_identity(self.root).id,
                "address_bits": self.address_bits,
                "sequence": self.sequence,
                "checkpoint": self._checkpoints.upto,
                "policy": self.config.policy,
                "pages_written": len(self._mapped.written_pages()),
                "words_bytes": self.layout.words.stat().st_blocks * 512,
                "journal_bytes": sum(segment.size for segment in segments),
                "journal_segments": len(segments),
                "ledger_bytes": self.layout.ledger.stat().st_size,
                "versions": [version.name for version in self._versions],
                **self._filler.stat(),
            }

    def verify(self) -> Ints:
        """Look at every page; those that are not what was written, ascending."""
        return self._mapped.verify_all()

    def checkpoint(self, *, wait: bool = True) -> None:
        """Have the words themselves on the disk, so that the journal is not needed for them.

        Args:
            wait: return when it is done; else it is done beside reads and writes.
        """
        if self._checkpoints.is_running:
            if not wait:
                return
            self._checkpoints.wait()
        with self._lock:
            self._check_settled()
            self._journal.roll()
            upto = self.sequence
        if wait:
            self._checkpoints.take(upto)
        else:
            self._checkpoints.take_beside(upto)

    def close(self) -> None:
        """Take a checkpoint and let another process write; it can write even where the checkpoint fails.

        Raises:
            StoreError: the disk refuses the checkpoint; nothing is lost then.
        """
        self._filler.close()
        try:
            # Else it is for the next opening to mend it.
            if not self._journal.is_closed and not self._stopped and self._is_settled:
                drop_ended(self.layout, self._versions)
                self.checkpoint()
                self._mapped.close()
        finally:
            # A checkpoint that is being taken beside ends before.
            with self._checkpoints.going_on:
                self._opened.close()

    def written_pages(self) -> Ints:
        """Pages that hold anything, ascending."""
        return self._mapped.written_pages()

    def damaged(self, pages: Ints) -> Ints:
        """Those of (P,) pages that are not what was written."""
        with self._lock:
            return self._mapped.damaged(pages)

    def abandon(self) -> None:
        """Let go of the directory as it is, to be deleted or opened anew; nothing happens the second time."""
        self._filler.close()
        # A checkpoint that is being taken beside needs the lock to end.
        with self._checkpoints.going_on, self._lock, suppress(StoreError):
            self.stop("is copied anew")
            self._mapped.lease_until(0.0)
            self._opened.close()

    @property
    def is_stopped(self) -> bool:
        """Whether it refuses all writes until it is opened again."""
        return bool(self._stopped)

    def stop(self, reason: str) -> None:
        """Refuse all writes from now on."""
        self._stopped = reason

    def _check_running(self) -> None:
        if self._journal.is_closed:
            raise StoreError(f"{self.root}: is closed: open the memory again")
        if self._stopped:
            raise StoreError(f"{self.root}: {self._stopped}")

    @property
    def _is_settled(self) -> bool:
        """Whether all that is in the journal is visible: an exception may have come between."""
        return self._mapped.sequence == self.sequence and not self._journal.was_interrupted

    def _check_settled(self) -> None:
        if not self._is_settled:
            raise StoreError(f"{self.root}: write {self.sequence} was cut off: close the memory and open it again")

    def _versions_changed(self) -> None:
        """Do what is to be done when a version is kept or dropped: nothing."""

    def _commit(self, records: Sequence[Record], batch: WriteBatch | None = None) -> None:
        """Have records kept, then make them visible, all at once."""
        self._check_running()
        self._check_settled()
        self._have_kept(records)
        self._took_note_of(records)
        batch = batch or join(records)
        self._mapped.apply(self.sequence, batch.start, batch.length, batch.words, batch.pages)
        if self._is_due_for_checkpoint():
            # The records are kept, whether a checkpoint can be begun or not.
            with suppress(StoreError):
                self.checkpoint(wait=False)

    def _have_kept(self, records: Sequence[Record]) -> None:
        """Put records into the journal; they are as safe as the policy says."""
        self._journal.append(records)

    def _is_due_for_checkpoint(self) -> bool:
        return self._journal.last.size >= self.config.segment_bytes

    def _record(self, batch: WriteBatch, crc32s: list[int]) -> Record:
        """The record of a batch, with what its pages held where the segment does not tell yet."""
        pages = batch.pages[self._noted[batch.pages] != self._journal.last.first]
        before, number = self._before(batch, pages), self.sequence + 1
        return batch.record(
            crc32s, sequence=number, time_ns=time.time_ns(), epoch=self.epoch, pages=pages, before=before
        )

    def _before(self, batch: WriteBatch, pages: Ints) -> NDArray[np.uint32]:
        """(P, 256) what those of a batch's pages hold of which the segment does not tell yet.

        Raises:
            DamageError: one of them is not what was written, and is not written whole, or a version holds it.
        """
        # What is damaged must not be taken for what was there.
        try:
            return self._mapped.whole(pages)
        except DamageError as error:
            damaged = np.array(error.pages, np.int64)
            self._check_whole(np.setdiff1d(damaged, batch.whole_pages))
            self._check_replaceable(damaged)
            return self._mapped.pages[pages]

    def _took_note_of(self, records: Sequence[Record]) -> None:
        """Remember which pages the last segment tells of."""
        for record in records:
            if len(record.pages):
                self._noted[record.pages] = self._journal.last.first

    def _check_whole(self, pages: Ints) -> None:
        """Raise DamageError where a page is not what was written."""
        damaged = self._mapped.damaged(pages)
        if len(damaged):
            raise damage(self.root, damaged)

    def _check_replaceable(self, pages: Ints) -> None:
        """Raise DamageError where a page, which is written whole, is not what was written, and a version holds it."""
        damaged = self._mapped.damaged(pages[self._noted[pages] != self._journal.last.first])
        if not len(damaged):
            return
        for version in self._versions:
            held = np.setdiff1d(damaged, changed_pages(self._journal.since(version.sequence)))
            if len(held):
                raise DamageError(
                    f"{self.root}: page {held[0]}: not what was written, and version {version.name!r} holds it, too:"
                    " drop that version first, or import a snapshot into a new directory",
                    tuple(held.tolist()),
                )

    def _mark(self, kind: str, note: str) -> None:
        record = Record(self.sequence + 1, time.time_ns(), kind=kind, epoch=self.epoch, writer=self.writer, note=note)
        self._commit([record])

    def _put_back(self, version: Version) -> None:
        """Write the pages that changed since a version as they were then."""
        # What is written from here on goes into a segment of its own, which says nothing of the version.
        self._journal.roll()
        pages = changed_pages(self._journal.since(version.sequence)[:-1])
        for chunk in np.array_split(pages, max(1, -(-len(pages) // CHUNK_PAGES))):
            # All of them changed since, so that the journal has what they held.
            then = pages_before(self._journal.since(version.sequence), chunk, self._mapped.pages[chunk])
            self._write_pages(chunk, then, str(version.sequence), "back")

    def _append_erasure(self, sequence: int, traces: Traces) -> Record:
        """Put zeros where the words of a write are alive, and in what the journal says that was there before."""
        start, length = traces.ranges()
        zeros = Words(np.zeros(length.sum(), np.uint32), np.concatenate([[0], np.cumsum(length)]))
        write = Write(start, zeros, self.writer, str(sequence), "erase")
        batch = make_batch([write], self.num_words)
        record = self._record(batch, batch.checksums())
        record = replace(record, before=traces.clean(record.pages, record.before))
        self._commit([record], batch)
        return record

    def _finish_erasure(self, sequence: int) -> None:
        self._journal.roll()
        self._scrub(sequence)
        self._mark("erased", str(sequence))

    def _scrub(self, sequence: int) -> None:
        with self._history.rewriting:
            scrub_segments(sequence, *self._traces_before(sequence))

    def _traces_before(self, sequence: int) -> tuple[Traces, list[Segment]]:
        """The closed segments that may hold words of a write, and where these are before the first of them."""
        segments = [segment for segment in self._journal.segments[:-1] if segment.last >= sequence]
        records = list(self._history.oldest_first())
        first = segments[0].first if segments else self.sequence + 1
        (record,) = (record for record in records if record.sequence == sequence)
        traces = Traces(record, copied_by(records))
        for other in records:
            if sequence < other.sequence < first:
                traces.scrub(other)
        return traces, segments

    def _write_pages(self, pages: Ints, words: NDArray[np.uint32], note: str, kind: str = "write") -> None:
        for first in range(0, len(pages), CHUNK_PAGES):
            chunk = slice(first, first + CHUNK_PAGES)
            offsets = np.arange(len(pages[chunk]) + 1) * words.shape[1]
            blocks = Words(words[chunk].reshape(-1), offsets)
            self.write_many([Write(pages[chunk] * words.shape[1], blocks, self.writer, note, kind)])

    def _sequence_of(self, name: str) -> int:
        return self.sequence if name == "now" else self._versions.find(name).sequence

    def _pages_at(self, sequence: int, pages: Ints) -> NDArray[np.uint32]:
        """(P, 256) what pages held after a write that ends a segment."""
        return pages_before(self._journal.since(sequence), pages, self._mapped.whole(pages))

    def _finish(self, last: Record | None) -> None:
        """Go on with what a crash cut off, as the last mark in the journal tells."""
        kept = {version.name for version in self._versions}
        if last is not None and last.kind == "restore" and last.note in kept:
            self._put_back(self._versions.find(last.note))
            self._mark("restored", last.note)
        if last is not None and last.kind == "erase":
            self._finish_erasure(int(last.note))
        # What a copy becomes is the leader's to say.
        snapshot = restoring.begun(self.layout, self._history) if not self.epoch else None
        if snapshot is not None:
            self.restore(snapshot)
        restoring.end(self.layout)


def _epoch_of(layout: Layout) -> int:
    found = read_map(layout.epoch, {"epoch": int})
    return 0 if found is None else found["epoch"]
