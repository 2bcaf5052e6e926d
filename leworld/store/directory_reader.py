"""A memory in a directory, read beside the process that writes it, if there is one.

Shapes:
    R: ranges.  P: pages.  W: words.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from leworld.errors import DamageError, StoreError
from leworld.memory import PAGE_WORDS, Reader, Snapshot, Words, expand
from leworld.memory.ranges import Ints, pages_of
from leworld.store.access_control import Guarded, load_rights
from leworld.store.erasure import Erasure, is_erased
from leworld.store.forks.fork_link import ForkLink, read_link
from leworld.store.forks.fork_registry import forks_of
from leworld.store.journal.record import Record, decode_at
from leworld.store.journal.segment import check_tail, load_segment, scan, segment_paths, set_aside_segments
from leworld.store.journal.write_log import WriteLog
from leworld.store.layout import Layout, read_identity, read_map
from leworld.store.mapped_memory import MappedMemory
from leworld.store.operations import describe, erasure_from_map
from leworld.store.versions.version_reader import VersionReader, difference_beside
from leworld.store.versions.versions import Difference, Versions
from leworld.store.writer_lock import served_address, writer_of

T = TypeVar("T")
_TRIES = 20
_PAUSE_S = 0.01
_LONG = 16 * PAGE_WORDS


class DirectoryReader:
    """A memory in a directory, for whoever ``who`` is.

    Attributes:
        root: the directory.
        address_bits: of the memory.
    """

    def __init__(self, root: Path, who: str, version: str | None = None) -> None:
        """Look at a memory, or with ``version`` at one that is kept.

        Raises:
            StoreError: there is no such version, or what is there is no memory.
        """
        self.root, self.layout = root, Layout(root)
        self._mapped = MappedMemory(root)
        self.address_bits, self.num_words = self._mapped.address_bits, self._mapped.num_words
        self._rights = load_rights(self.layout, self.num_words)
        self._version = None if version is None else VersionReader(root, version)
        reader: Reader = self._mapped if self._version is None else _AtVersion(self._version)
        self._reader, self._who = Guarded(reader, self._rights, who), who

    def close(self) -> None:
        """Nothing is held open."""

    @property
    def sequence(self) -> int:
        """Number of the write after which the content is."""
        return self._mapped.sequence if self._version is None else self._version.sequence

    def read(self, first: int, length: int) -> NDArray[np.uint32]:
        """(W,) words from an address on; those that are kept from the reader are zeros, and only those."""
        if length >= _LONG and self._version is None and not len(self._mapped.written_pages(*_pages(first, length))):
            # Reading what was never written would fill the system's cache with zeros.
            return np.zeros(length, np.uint32)
        start = self._cuts(first, first + length)
        return retried(lambda: self._reader.read(start[:-1], np.diff(start)).words)

    def written(self) -> Ints:
        """Pages that hold anything, ascending."""
        return self._mapped.written_pages() if self._version is None else retried(self._version.written)

    def difference(self, before: str, after: str) -> Difference:
        """The words that differ between two versions, but for those that are kept from the reader."""
        if before == "now":
            found = self.difference(after, before) if after != "now" else _NO_DIFFERENCE
            return found.reversed()
        found = retried(lambda: difference_beside(self.root, before, after))
        seen = self._rights.may_read(self._who, found.address, np.ones(len(found.address), np.int64))
        return Difference(found.address[seen], found.before[seen], found.after[seen])

    def log(self, limit: int, address: int | None) -> list[dict[str, Any]]:
        """The newest records, without their words."""
        return [describe(record) for record in WriteLogReader(self.layout).last(limit, address)]

    def versions(self) -> list[dict[str, Any]]:
        """Those that are kept, oldest first."""
        return [vars(version) for version in Versions(self.layout)]

    def link(self) -> ForkLink | None:
        """Where the memory is a fork, to what it was made from."""
        return read_link(self.layout)

    def stat(self) -> dict[str, Any]:
        """What the memory is and what it takes; bytes are those on the disk."""
        identity, segments = read_identity(self.root), retried(self._segment_sizes)
        checkpoint = read_map(self.layout.checkpoint, {"sequence": int}) or {"sequence": 0}
        newest = self.log(1, None)
        other = (self.layout.sums, self.layout.state)
        return {
            "path": str(self.root),
            "id": identity.id,
            "address_bits": self.address_bits,
            "created_ns": identity.created_ns,
            "sequence": self.sequence,
            "written_ns": newest[0]["time_ns"] if newest else None,
            "checkpoint": checkpoint["sequence"],
            "pages_written": len(self.written()),
            "words_bytes": self.layout.words.stat().st_blocks * 512,
            "sums_bytes": sum(path.stat().st_blocks * 512 for path in other),
            "journal_bytes": sum(segments),
            "journal_segments": len(segments),
            "ledger_bytes": self.layout.ledger.stat().st_size,
            "versions": [version["name"] for version in self.versions()],
            **({} if (link := self.link()) is None else {"fork": vars(link)}),
            "forks": [str(path) for path in forks_of(self.layout).values()],
            "grants": [vars(grant) for grant in self._rights.grants],
            "writer_pid": (pid := writer_of(self.layout)),
            "served_at": served_address(self.root) if pid else None,
        }

    def verify(self) -> dict[str, Any]:
        """The pages that are not what was written, and what is wrong with the journal and the ledger."""
        damaged, sequence, problem, records = self._mapped.verify_all(), self.sequence, None, 0
        try:
            records = sum(1 for record in WriteLogReader(self.layout).newest_first() if record.sequence <= sequence)
            if records < sequence:
                problem = f"{self.root}: {sequence - records} of {sequence} records are missing from journal and ledger"
                problem += "".join(f"; {path} has what is left" for path in set_aside_segments(self.layout.journal))
        except DamageError as error:
            problem = str(error)
        checked = {"pages": len(self.written()), "records": records}
        return {"damaged": damaged.tolist(), "journal": problem, "checked": checked}

    def is_erased(self, content: Any) -> bool:
        """What ``DurableStore.is_erased`` says, beside the process that writes.

        Raises:
            StoreError: the receipt is of another memory.
            ConfigError: it is none.
        """
        erasure = erasure_from_map(content)
        return retried(lambda: self._is_erased(erasure))

    def snapshot(self) -> Snapshot:
        """All of it, as it was at one moment.

        Raises:
            StoreError: it is written to all the time.
        """
        if self._version is not None:
            return retried(self._version.snapshot)
        for _ in range(_TRIES):
            sequence, pages = self.sequence, self.written()
            found = self._mapped.read(pages * PAGE_WORDS, np.full(len(pages), PAGE_WORDS))
            if self.sequence == sequence:
                return Snapshot(self.address_bits, sequence, pages, found.words.reshape(-1, PAGE_WORDS))
        raise StoreError(
            f"{self.root}: is written to all the time; keep a version with leworld memory version, and export that one"
        )

    def _cuts(self, first: int, stop: int) -> Ints:
        """Where ranges of at most 256 words begin and end, so that each is within a grant or outside all."""
        borders = [edge for grant in self._rights.grants for edge in (grant.first, grant.stop) if first < edge < stop]
        return np.unique(np.concatenate([np.arange(first, stop, PAGE_WORDS), [stop], np.array(borders, np.int64)]))

    def _segment_sizes(self) -> list[int]:
        return [path.stat().st_size for path in segment_paths(self.layout.journal)]

    def _is_erased(self, erasure: Erasure) -> bool:
        segments = [load_segment(path) for path in segment_paths(self.layout.journal)]
        return is_erased(erasure, self.layout, self._mapped, WriteLogReader(self.layout), segments)


class WriteLogReader(WriteLog):
    """The records of a memory that another process may be writing."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout

    def newest_first(self) -> Iterator[Record]:
        """Every record, the newest first, without words, each once."""
        below = None
        for attempt in range(_TRIES):
            try:
                for record in self._pass():
                    if below is None or record.sequence < below:
                        below = record.sequence
                        yield record
                return
            except (FileNotFoundError, DamageError):
                # The writer has put a segment's headers into the ledger, or is erasing.
                if attempt == _TRIES - 1:
                    raise
                time.sleep(_PAUSE_S)

    def oldest_first(self) -> Iterator[Record]:
        """Every record, the oldest first, without words."""
        return reversed(list(self.newest_first()))

    def _pass(self) -> Iterator[Record]:
        for path in reversed(segment_paths(self._layout.journal)):
            yield from reversed([write for record, _ in scan(path, words=False) for write in record.split()])
        yield from reversed(list(ledger_records(self._layout.ledger)))


def ledger_records(path: Path) -> Iterator[Record]:
    """The records of a ledger, the oldest first.

    Raises:
        DamageError: it is damaged before its end.
    """
    data, offset = path.read_bytes(), 0
    while (found := decode_at(data, offset)) is not None:
        yield from found[0].split()
        offset = found[1].end
    check_tail(path, data, offset)


def retried(action: Callable[[], T]) -> T:
    """Do what reads the journal; anew where the writer replaces or deletes files of it meanwhile."""
    for _ in range(_TRIES - 1):
        try:
            return action()
        except (FileNotFoundError, DamageError):
            time.sleep(_PAUSE_S)
    return action()


class _AtVersion:
    """A ``Reader`` of a kept version."""

    def __init__(self, version: VersionReader) -> None:
        self.address_bits, self._version = version.address_bits, version

    def read(self, start: ArrayLike, length: ArrayLike) -> Words:
        start, length = np.asarray(start, np.int64), np.asarray(length, np.int64)
        pages = pages_of(start, length)
        words = self._version.pages(pages)
        address, offsets = expand(start, length)
        return Words(words[np.searchsorted(pages, address // PAGE_WORDS), address % PAGE_WORDS], offsets)


_NO_DIFFERENCE = Difference(np.zeros(0, np.int64), np.zeros(0, np.uint32), np.zeros(0, np.uint32))


def _pages(first: int, length: int) -> tuple[int, int]:
    return first // PAGE_WORDS, (first + length - 1) // PAGE_WORDS + 1
