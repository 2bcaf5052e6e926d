"""Committer: makes records durable in the journal, then visible in the mapped words.

Shapes:
    R: ranges.  P: pages.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from leworld.errors import StoreError
from leworld.memory.protocol import PAGE_WORDS, Receipt, Words
from leworld.memory.ranges import Ints
from leworld.store.before_images import BeforeImages
from leworld.store.checkpointer import Checkpointer
from leworld.store.journal.journal import Journal
from leworld.store.journal.record import Record
from leworld.store.journal.write_batch import Write, WriteBatch, join, make_batch
from leworld.store.mapped_writer import MappedWriter
from leworld.store.write_gate import WriteGate

CHUNK_PAGES = 1 << 14
"""Pages written at a time: 16 MiB."""


@dataclass
class Author:
    """What a record says of where it comes from, unless its write says more."""

    writer: str = ""
    epoch: int = 0


class Committer:
    """The one way by which records come into a memory.

    Attributes:
        mapped: the words.
        journal: of the memory.
        images: what pages held before.
        gate: its lock is held while records are made and committed.
        author: of the records.
        append: puts records into the journal; a replica that leads sends them to its followers, too.
    """

    def __init__(
        self,
        mapped: MappedWriter,
        journal: Journal,
        images: BeforeImages,
        checkpoints: Checkpointer,
        gate: WriteGate,
        author: Author,
    ) -> None:
        self.mapped, self.journal, self.images, self.gate, self.author = mapped, journal, images, gate, author
        self._root, self._checkpoints = mapped.memory.layout.root, checkpoints
        self.append: Callable[[Sequence[Record]], None] = journal.append

    @property
    def sequence(self) -> int:
        """Number of the last write."""
        return self.journal.sequence

    @property
    def is_settled(self) -> bool:
        """Whether all that is in the journal is visible: an exception may have come between."""
        return self.mapped.memory.sequence == self.sequence and not self.journal.was_interrupted

    def check_running(self) -> None:
        """Raise StoreError where the memory is closed, or no more may be written."""
        if self.journal.is_closed:
            raise StoreError(f"{self._root}: is closed: open the memory again")
        self.gate.check()

    def write_many(self, writes: Sequence[Write]) -> list[Receipt]:
        """Make writes one after another, as one batch for the disk; see ``DurableStore.write_many``."""
        if not writes:
            return []
        batch = make_batch(writes, self.mapped.memory.num_words)
        with self.gate.lock:
            crc32s = batch.checksums()
            record = self.record(batch, crc32s)
            self.mapped.reserve(batch.pages)
            self.commit([record], batch)
        return batch.receipts(record.sequence, crc32s)

    def write_pages(self, pages: Ints, words: NDArray[np.uint32], note: str, kind: str = "write") -> None:
        """Write (P, 256) words to (P,) pages, as records of at most ``CHUNK_PAGES`` pages."""
        for first in range(0, len(pages), CHUNK_PAGES):
            chunk = slice(first, first + CHUNK_PAGES)
            blocks = Words(words[chunk].reshape(-1), np.arange(len(pages[chunk]) + 1) * PAGE_WORDS)
            self.write_many([Write(pages[chunk] * PAGE_WORDS, blocks, self.author.writer, note, kind)])

    def mark(self, kind: str, note: str) -> None:
        """Commit a record that writes nothing: the begin or the end of an operation of several records."""
        author = self.author
        record = Record(
            self.sequence + 1, time.time_ns(), kind=kind, epoch=author.epoch, writer=author.writer, note=note
        )
        self.commit([record])

    def record(self, batch: WriteBatch, crc32s: list[int]) -> Record:
        """The record of a batch, with what its pages held where the last segment does not tell yet."""
        pages, before = self.images.of(batch)
        return batch.record(
            crc32s,
            sequence=self.sequence + 1,
            time_ns=time.time_ns(),
            epoch=self.author.epoch,
            pages=pages,
            before=before,
        )

    def commit(self, records: Sequence[Record], batch: WriteBatch | None = None) -> None:
        """Make records durable, then visible, all at once.

        Args:
            records: numbered on from the last one.
            batch: what they write, if it is known.

        Raises:
            StoreError: the memory is closed or shut, or the disk refuses; nothing is written then.
        """
        self.check_running()
        self._check_settled()
        self.append(records)
        self.images.note(records)
        batch = batch or join(records)
        self.mapped.apply(self.sequence, batch.start, batch.length, batch.words, batch.pages)
        if self._checkpoints.is_due:
            # The records are durable, whether a checkpoint can begin or not.
            with suppress(StoreError):
                self.checkpoint(wait=False)

    def checkpoint(self, *, wait: bool) -> None:
        """Bring the words themselves to the disk; see ``DurableStore.checkpoint``."""
        if self._checkpoints.is_running:
            if not wait:
                return
            self._checkpoints.wait()
        with self.gate.lock:
            self._check_settled()
            self.journal.roll()
            upto = self.sequence
        (self._checkpoints.take if wait else self._checkpoints.take_beside)(upto)

    def _check_settled(self) -> None:
        if not self.is_settled:
            raise StoreError(f"{self._root}: write {self.sequence} was cut off: close the memory and open it again")
