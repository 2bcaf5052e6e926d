"""Erasing: what a write wrote is taken out of the memory, the journal and every version.

Words of a write live on where nobody wrote since: in the memory; in what later records say that pages held before; and
where a going back copied them. All these become zeros. What others wrote at the same addresses stays.

Shapes:
    N: addresses that the write set.  R: ranges.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from leworld.errors import DamageError, StoreError
from leworld.files import replace_file
from leworld.memory.protocol import PAGE_WORDS, Reader, Words
from leworld.memory.ranges import Ints, expand
from leworld.store.committer import Committer
from leworld.store.forks.fork_link import ForkLink, read_link
from leworld.store.journal.record import Record, encode
from leworld.store.journal.segment import Segment, scan
from leworld.store.journal.write_batch import Write, make_batch
from leworld.store.journal.write_log import WriteLog
from leworld.store.layout import Layout, read_identity


@dataclass(frozen=True)
class Erasure:
    """Receipt of an erasure: ``erased`` is the number of the write, ``sequence`` that of the erasure.

    ``start`` and ``length`` (R,) are what the write had set, ``crc32`` the checksum of its words.
    """

    memory: str
    erased: int
    sequence: int
    start: Ints
    length: Ints
    crc32: int


class Traces:
    """Where the words of one write are, as later records pass by.

    Attributes:
        address: (N,) that the write set, ascending.
        alive: (N,) bool, where the memory holds its words.
    """

    def __init__(self, record: Record, copied: frozenset[int]) -> None:
        """Begin with the record of the write.

        Args:
            record: it.
            copied: numbers of the writes whose content was copied by a going back.
        """
        self.address = np.unique(expand(record.start, record.length)[0])
        self.alive = np.ones(len(self.address), np.bool_)
        self._copied = copied
        self._at: dict[int, NDArray[np.bool_]] = {}
        self._remember(record.sequence)

    def scrub(self, record: Record) -> Record:
        """The next record, without words of the write."""
        before = self._scrubbed(record.pages, record.before)
        source = self._at.get(int(record.note), None) if record.kind == "back" else None
        self._overwrite(record)
        words = record.words
        if source is not None:
            addresses = expand(record.start, record.length)[0]
            self.alive |= source & np.isin(self.address, addresses)
            if len(words):
                words = np.where(np.isin(addresses, self.address[source]), np.uint32(0), words)
        self._remember(record.sequence)
        return replace(record, before=before, words=words)

    def ranges(self) -> tuple[Ints, Ints]:
        """The addresses that are alive, as ranges within pages."""
        address = self.address[self.alive]
        first = np.ones(len(address), np.bool_)
        first[1:] = (np.diff(address) != 1) | (address[1:] % PAGE_WORDS == 0)
        begins = np.flatnonzero(first)
        return address[begins], np.diff(np.append(begins, len(address)))

    def clean(self, pages: Ints, words: NDArray[np.uint32]) -> NDArray[np.uint32]:
        """(P, 256) what (P,) pages hold now, without words of the write."""
        return self._scrubbed(pages, words)

    def _remember(self, sequence: int) -> None:
        if sequence in self._copied:
            self._at[sequence] = self.alive.copy()

    def _overwrite(self, record: Record) -> None:
        low = np.searchsorted(self.address, record.start)
        high = np.searchsorted(self.address, record.start + record.length)
        for first, last in zip(low[high > low].tolist(), high[high > low].tolist(), strict=True):
            self.alive[first:last] = False

    def _scrubbed(self, pages: Ints, words: NDArray[np.uint32]) -> NDArray[np.uint32]:
        address = self.address[self.alive]
        if not len(pages) or not len(address):
            return words
        order = np.argsort(pages)
        place = np.searchsorted(pages[order], address // PAGE_WORDS).clip(max=len(pages) - 1)
        row = order[place]
        inside = pages[row] == address // PAGE_WORDS
        out = words.copy()
        out[row[inside], address[inside] % PAGE_WORDS] = 0
        return out


class Eraser:
    """Erases writes of a memory that is open for writing."""

    def __init__(self, layout: Layout, committer: Committer, log: WriteLog) -> None:
        self._layout, self._committer, self._log = layout, committer, log
        self._journal, self._lock = committer.journal, committer.gate.lock

    def erase(self, sequence: int) -> Erasure:
        """Erase what a write wrote from the memory, the journal and every version; what others wrote stays.

        Raises:
            StoreError: there is no such write, or the disk refuses.
        """
        with self._lock:
            record, traces = trace(sequence, self._log.oldest_first(), read_link(self._layout))
            number = self._write_zeros(sequence, traces)
            self.finish(sequence)
            memory = read_identity(self._layout.root).id
            return Erasure(memory, sequence, number, record.start, record.length, record.crc32)

    def finish(self, sequence: int) -> None:
        """Do the second half of an erasure: scrub the journal, and mark the end."""
        self._journal.roll()
        self.scrub(sequence)
        self._committer.mark("erased", str(sequence))

    def scrub(self, sequence: int) -> None:
        """Rewrite the closed segments without the words of a write."""
        with self._log.rewriting:
            segments, records = _segments_of(sequence, self._journal.segments[:-1]), list(self._log.oldest_first())
            scrub_segments(sequence, traces_before(sequence, records, segments), segments)

    def is_erased(self, erasure: Erasure) -> bool:
        """Return whether nothing of what an erasure erased is left anywhere in this memory.

        Raises:
            StoreError: the receipt is of another memory.
        """
        with self._lock:
            memory = self._committer.mapped.memory
            return is_erased(erasure, self._layout, memory, self._log, self._journal.segments[:-1])

    def _write_zeros(self, sequence: int, traces: Traces) -> int:
        """Put zeros where the words of a write are alive, and in the record's images of before; its number."""
        start, length = traces.ranges()
        zeros = Words(np.zeros(length.sum(), np.uint32), np.concatenate([[0], np.cumsum(length)]))
        write = Write(start, zeros, self._committer.author.writer, str(sequence), "erase")
        batch = make_batch([write], self._committer.mapped.memory.num_words)
        record = self._committer.record(batch, batch.checksums())
        self._committer.commit([replace(record, before=traces.clean(record.pages, record.before))], batch)
        return record.sequence


def is_erased(erasure: Erasure, layout: Layout, memory: Reader, log: WriteLog, segments: Sequence[Segment]) -> bool:
    """Return whether nothing of what an erasure erased is left.

    Args:
        erasure: its receipt.
        layout: of the memory.
        memory: its words.
        log: its records.
        segments: of its journal, oldest first.

    Raises:
        StoreError: the receipt is of another memory.
    """
    identity = read_identity(layout.root)
    if identity.id != erasure.memory:
        raise StoreError(f"{layout.root}: the receipt is of memory {erasure.memory}, this one is {identity.id}")
    records = list(log.oldest_first())
    record, traces = trace(erasure.erased, records)
    same = np.array_equal(record.start, erasure.start) and np.array_equal(record.length, erasure.length)
    if not same or record.crc32 != erasure.crc32 or traces.alive.any():
        return False
    zeroed = traces.address[log.last_writers(traces.address) == erasure.sequence]
    if memory.read(zeroed, np.ones(len(zeroed), np.int64)).words.any():
        return False
    held = _segments_of(erasure.erased, segments)
    return is_scrubbed(erasure.erased, traces_before(erasure.erased, records, held), held)


def _segments_of(sequence: int, segments: Sequence[Segment]) -> list[Segment]:
    """Those of segments that may hold words of a write."""
    return [segment for segment in segments if segment.last >= sequence]


def traces_before(sequence: int, records: Sequence[Record], segments: Sequence[Segment]) -> Traces:
    """Where the words of a write are before the first of the segments.

    Args:
        sequence: of the write.
        records: all of a memory's, oldest first.
        segments: those that may hold words of the write, oldest first.
    """
    (record,) = (record for record in records if record.sequence == sequence)
    first = segments[0].first if segments else records[-1].sequence + 1
    traces = Traces(record, copied_by(records))
    for other in records:
        if sequence < other.sequence < first:
            traces.scrub(other)
    return traces


def trace(sequence: int, records: Iterable[Record], link: ForkLink | None = None) -> tuple[Record, Traces]:
    """The record of a write, and where its words are after all later ones.

    Args:
        sequence: of the write.
        records: all of a memory's, oldest first, with or without words.
        link: where the memory is a fork, to its parent.

    Raises:
        StoreError: there is no such write.
        DamageError: a later record is missing, so that its words may be anywhere.
    """
    records = list(records)
    found = [record for record in records if record.sequence == sequence]
    if not found or found[0].kind not in ("write", "back"):
        raise StoreError(
            f"write {sequence} is not known: leworld memory log lists those that are"
            + ("" if link is None else f"; those of {link.parent}, from which this is a fork, are not: write over them")
        )
    later = [record for record in records if record.sequence > sequence]
    for due, record in enumerate(later, sequence + 1):
        if record.sequence != due:
            raise DamageError(
                f"write {sequence}: record {due} after it is missing, so that nobody knows where its words are: export"
                " this memory, import that into a new directory, and delete this one"
            )
    traces = Traces(found[0], copied_by(records))
    for record in later:
        traces.scrub(record)
    return found[0], traces


def copied_by(records: Iterable[Record]) -> frozenset[int]:
    """Numbers of the writes whose content a going back copied."""
    return frozenset(int(record.note) for record in records if record.kind == "back")


def scrub_segments(sequence: int, traces: Traces, segments: Sequence[Segment]) -> None:
    """Rewrite the closed segments without the words of a write, and overwrite what their files held.

    Args:
        sequence: of the write.
        traces: of the write, after all records before the segments that are later than it.
        segments: those that hold the write or later ones, oldest first.
    """
    for segment in segments:
        parts = []
        for record, _ in scan(segment.path):
            parts.extend(encode(_erased(record, sequence, traces)))
        replace_and_zero(segment.path, parts)


def is_scrubbed(sequence: int, traces: Traces, segments: Sequence[Segment]) -> bool:
    """Whether ``scrub_segments`` would find nothing."""
    for segment in segments:
        for record, _ in scan(segment.path):
            clean = _erased(record, sequence, traces)
            if not (np.array_equal(clean.words, record.words) and np.array_equal(clean.before, record.before)):
                return False
    return True


def _erased(record: Record, sequence: int, traces: Traces) -> Record:
    """The next record, as long as it was: whoever reads versions knows where in the file lies what pages held."""
    clean = [_erased_write(write, sequence, traces) for write in record.split()]
    return replace(record, words=np.concatenate([write.words for write in clean]), before=clean[0].before)


def _erased_write(record: Record, sequence: int, traces: Traces) -> Record:
    if record.sequence < sequence:
        return record
    if record.sequence == sequence:
        return replace(record, words=np.zeros_like(record.words))
    return traces.scrub(record)


def replace_and_zero(path: Path, parts: list[bytes | memoryview]) -> None:
    """Replace a file by another content, and overwrite what it held."""
    old = os.open(path, os.O_RDWR)
    try:
        replace_file(path, parts)
        rest = os.fstat(old).st_size
        while rest > 0:
            rest -= os.write(old, bytes(min(rest, 1 << 20)))
        os.fsync(old)
    finally:
        os.close(old)
