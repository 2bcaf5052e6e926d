"""DurableStore: a memory on disk. What it acknowledges is kept, and nobody sees what is not.

A write goes into the journal, then, when that is on the disk, into the mapped words, and then it is acknowledged. After
a crash the journal is read from the last checkpoint on: every page that changed since is put back as it was, and the
writes are made again.

Shapes:
    R: ranges or blocks.  W: words.  L: words a block.  P: pages.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from leworld.errors import StoreError
from leworld.files import remove_leftovers
from leworld.memory.protocol import PAGE_WORDS, Receipt, Snapshot, Words
from leworld.memory.ranges import Ints
from leworld.memory.word_store import as_blocks, check_width
from leworld.store import restore_intent
from leworld.store.before_images import BeforeImages
from leworld.store.checkpointer import Checkpointer, checkpoint_of
from leworld.store.committer import Author, Committer
from leworld.store.erasure import Eraser
from leworld.store.forks.backfill import Backfill
from leworld.store.forks.fork_registry import drop_ended
from leworld.store.journal.journal import Journal
from leworld.store.journal.record import Record
from leworld.store.journal.write_batch import Write as Write
from leworld.store.journal.write_log import WriteLog
from leworld.store.layout import Layout, make, read_identity, read_map
from leworld.store.mapped_memory import MappedMemory
from leworld.store.mapped_writer import MappedWriter
from leworld.store.recovery import recover
from leworld.store.versions.version_manager import VersionManager
from leworld.store.versions.versions import Version, Versions
from leworld.store.write_gate import WriteGate
from leworld.store.writer_lock import WriterLock


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
        root: the directory.
        address_bits: 8, 16, 24 or 32.
        mapped: the words.
        versions: keeps, compares and forks versions.
        eraser: erases writes, and proves it.
        backfill: of a fork, takes over what is still the parent's.
    """

    def __init__(
        self, root: str | Path, config: StoreConfig | None = None, *, writer: str = "", epoch: int = 0
    ) -> None:
        """Open a memory that exists, and mend what a crash left.

        Args:
            root: its directory.
            config: how it is kept.
            writer: name in the records of writes that give none.
            epoch: number in every record; 0 for a memory that is not a replica.

        Raises:
            StoreError: there is no memory, or another process writes it.
            DamageError: its journal is damaged before its end.
        """
        self.root, self.config, self.layout = Path(root), config or StoreConfig(), Layout(Path(root))
        self.address_bits = read_identity(self.root).address_bits
        self._writer_lock = WriterLock(self.layout)
        with ExitStack() as opened:
            opened.callback(self._writer_lock.release)
            for directory in (self.root, self.layout.journal):
                remove_leftovers(directory)
            self._open(opened, Author(writer, epoch))
            self._recover()
            self.backfill.start()
            self._opened = opened.pop_all()

    def _open(self, opened: ExitStack, author: Author) -> None:
        """Open the parts, each with those that it needs."""
        layout, self._gate = self.layout, WriteGate(self.root)
        self.mapped = MappedMemory(self.root, writable=True, verify=self.config.verify)
        self._journal = journal = Journal(layout.journal, self.config.policy, checkpoint_of(layout))
        opened.callback(journal.close)
        self._kept = kept = Versions(layout)
        drop_ended(layout, kept)
        author.epoch = max(author.epoch, _epoch_of(layout))
        self._log, writer = WriteLog(layout, journal), MappedWriter(self.mapped)
        self._checkpoints = Checkpointer(layout, journal, self._log, kept, self._gate, self.config.segment_bytes)
        self.backfill = Backfill(writer, journal, self._checkpoints)
        images = BeforeImages(self.mapped, journal, self.backfill, kept)
        self._committer = Committer(writer, journal, images, self._checkpoints, self._gate, author)
        self.versions = VersionManager(layout, kept, self._committer, self._checkpoints)
        self.eraser = Eraser(layout, self._committer, self._log)

    def _recover(self) -> None:
        """Mend the words, then go on with what a crash cut off, as the last mark in the journal tells."""
        committer, epoch = self._committer, self._committer.author.epoch
        last = recover(committer.mapped, self._journal, self._log, self._checkpoints, is_replica=epoch > 0)
        if last is not None and last.kind == "restore":
            self.versions.finish_rollback(last.note)
        if last is not None and last.kind == "erase":
            self.eraser.finish(int(last.note))
        # The leader says what a replica becomes.
        snapshot = restore_intent.begun(self.layout, self._log) if not epoch else None
        if snapshot is not None:
            self.restore(snapshot)
        restore_intent.end(self.layout)

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
    def num_words(self) -> int:
        """Words that can be addressed."""
        return self.mapped.num_words

    def read(self, start: ArrayLike, length: ArrayLike) -> Words:
        """Read R ranges; see ``MappedMemory.read``."""
        return self.mapped.read(start, length)

    def write(self, start: ArrayLike, words: NDArray[np.uint32]) -> Receipt:
        """Write R blocks of one length; see ``Memory.write``. It is kept when this returns.

        Raises:
            RangeError: a block is outside the memory; nothing is written then.
            StoreError: the disk refuses; nothing is written then.
        """
        return self.write_ragged(start, as_blocks(words))

    def write_ragged(self, start: ArrayLike, blocks: Words) -> Receipt:
        """Write R blocks of any lengths as one write; see ``WordStore.write_ragged``."""
        return self.write_many([Write(start, blocks, self._committer.author.writer)])[0]

    def write_many(self, writes: Sequence[Write]) -> list[Receipt]:
        """Make writes one after another, as one batch for the disk; a receipt each.

        Raises:
            RangeError, DataError: one of them cannot be; none is made then.
            StoreError: the disk refuses; none is made then.
        """
        return self._committer.write_many(writes)

    def create_version(self, name: str, of: str = "now") -> Version:
        """Keep the present content under a name; see ``VersionManager.create_version``."""
        return self.versions.create_version(name, of)

    def rollback_to(self, name: str) -> None:
        """Write the content of a version again; see ``VersionManager.rollback_to``."""
        self.versions.rollback_to(name)

    def drop_version(self, name: str) -> None:
        """Stop keeping a version; see ``VersionManager.drop_version``."""
        self.versions.drop_version(name)

    def snapshot(self) -> Snapshot:
        """Copy every page that holds anything; see ``Memory.snapshot``."""
        with self._gate.lock:
            pages = self.mapped.written_pages()
            self._committer.images.check_whole(pages)
            words = self.mapped.read(pages * PAGE_WORDS, np.full(len(pages), PAGE_WORDS)).words
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
        restore_intent.restore(self._committer, self.layout, snapshot)

    def log(self, limit: int = 20, *, address: int | None = None) -> list[Record]:
        """The last writes, newest first, without their words; with ``address`` those that touched it."""
        with self._gate.lock:
            return self._log.last(limit, address)

    def why(self, address: int) -> Record | None:
        """The write that set a word last, without its words; None where none ever did."""
        found = self.log(1, address=address)
        return found[0] if found else None

    def stat(self) -> dict[str, Any]:
        """What the memory is and what it takes; bytes are those on the disk."""
        with self._gate.lock:
            segments = self._journal.segments
            return {
                "id": read_identity(self.root).id,
                "address_bits": self.address_bits,
                "sequence": self.sequence,
                "checkpoint": self._checkpoints.upto,
                "policy": self.config.policy,
                "pages_written": len(self.mapped.written_pages()),
                "words_bytes": self.layout.words.stat().st_blocks * 512,
                "journal_bytes": sum(segment.size for segment in segments),
                "journal_segments": len(segments),
                "ledger_bytes": self.layout.ledger.stat().st_size,
                "versions": [version.name for version in self._kept],
                **self.backfill.stat(),
            }

    def verify(self) -> Ints:
        """Look at every page; those that are not what was written, ascending."""
        return self.mapped.verify_all()

    def checkpoint(self, *, wait: bool = True) -> None:
        """Have the words themselves on the disk, so that the journal is not needed for them.

        Args:
            wait: return when it is done; else it is done beside reads and writes.
        """
        self._committer.checkpoint(wait=wait)

    def close(self) -> None:
        """Take a checkpoint and let another process write; it can write even where the checkpoint fails.

        Raises:
            StoreError: the disk refuses the checkpoint; nothing is lost then.
        """
        self.backfill.close()
        try:
            # Else it is for the next opening to mend it.
            if not self._journal.is_closed and not self._gate.is_shut and self._committer.is_settled:
                drop_ended(self.layout, self._kept)
                self.checkpoint()
                self.mapped.state.set_closed(True)
        finally:
            # A checkpoint that is being taken beside ends before.
            with self._checkpoints.going_on:
                self._opened.close()

    def written_pages(self) -> Ints:
        """Pages that hold anything, ascending."""
        return self.mapped.written_pages()

    def abandon(self) -> None:
        """Let go of the directory as it is, to be deleted or opened anew; nothing happens the second time."""
        self.backfill.close()
        # A checkpoint that is being taken beside needs the lock to end.
        with self._checkpoints.going_on, self._gate.lock, suppress(StoreError):
            self._gate.shut("is copied anew")
            self.mapped.state.lease_until(0.0)
            self._opened.close()


def _epoch_of(layout: Layout) -> int:
    found = read_map(layout.epoch, {"epoch": int})
    return 0 if found is None else found["epoch"]
