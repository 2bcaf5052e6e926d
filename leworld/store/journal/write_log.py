"""WriteLog: who wrote where and when, as far back as the first write.

Segments that are no longer needed leave their records' headers in the ledger, a file of records without words.
"""

from __future__ import annotations

import mmap
import os
import threading
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import numpy as np

from leworld.memory.ranges import Ints
from leworld.store.journal.journal import Journal
from leworld.store.journal.record import Record, decode_at, to_header_only
from leworld.store.journal.segment import Segment, check_tail, scan
from leworld.store.layout import Layout, refused

_MARKS = ("restore", "restored", "erase", "erased")


class WriteLog:
    """The records of a memory, in its ledger and its journal.

    Attributes:
        rewriting: held by whoever rewrites a closed segment; after the store's lock.
    """

    def __init__(self, layout: Layout, journal: Journal) -> None:
        self.rewriting = threading.Lock()
        self._path, self._journal = layout.ledger, journal
        # As one, as it grows beside those who read.
        self._end = self._find_end()

    def records(self, segment: Segment) -> Iterator[Record]:
        """The records of a segment, with their words."""
        return chain.from_iterable(record.split() for record in self.together(segment))

    def together(self, segment: Segment) -> Iterator[Record]:
        """The same as they are in the journal: writes that came together are one."""
        return (record for record, _ in scan(segment.path)) if segment.records is None else iter(segment.records)

    def newest_first(self) -> Iterator[Record]:
        """Every record, the newest first, without words."""
        size, last = self._end
        for segment in reversed(self._journal.segments):
            records = list(self._headers(segment))
            yield from reversed([record for record in records if record.sequence > last])
        yield from reversed(list(self._remembered(size)))

    def oldest_first(self) -> Iterator[Record]:
        """Every record, the oldest first, without words."""
        size, last = self._end
        yield from self._remembered(size)
        for segment in self._journal.segments:
            yield from (record for record in self._headers(segment) if record.sequence > last)

    def _headers(self, segment: Segment) -> Iterator[Record]:
        if segment.records is not None:
            return self.records(segment)
        return chain.from_iterable(record.split() for record, _ in scan(segment.path, words=False))

    def last(self, limit: int, address: int | None = None) -> list[Record]:
        """The newest records, those that touched an address where one is given."""
        found = []
        for record in self.newest_first():
            if len(found) >= limit:
                break
            if address is None or touches(record, address):
                found.append(record)
        return found

    def last_writers(self, address: Ints) -> Ints:
        """(N,) number of the record that set each of (N,) words last; 0 where none did."""
        found = np.zeros(len(address), np.int64)
        order = np.argsort(address)
        ascending = address[order]
        for record in self.oldest_first():
            low = np.searchsorted(ascending, record.start)
            high = np.searchsorted(ascending, record.start + record.length)
            for first, last in zip(low[high > low].tolist(), high[high > low].tolist(), strict=True):
                found[order[first:last]] = record.sequence
        return found

    def last_mark(self) -> Record | None:
        """The newest record in the journal that begins or ends a going back or an erasure.

        None where somebody wrote after the begin of a going back: it had failed, and must not undo what came then.
        """
        written = False
        for record in self.newest_first():
            if record.sequence <= self._end[1]:
                break
            if record.kind in _MARKS:
                return None if written and record.kind == "restore" else record
            written = written or record.kind == "write"
        return None

    def remember(self, segment: Segment) -> bool:
        """Put the headers of a segment's records into the ledger; those that are there already stay once.

        Returns:
            whether the segment is whole; else only the headers before what is damaged are in the ledger.

        Raises:
            StoreError: the disk refuses; the ledger is as it was then.
        """
        size, last = self._end
        with self.rewriting:
            raw = _mapped(segment.path)
            data, end = to_header_only(raw, segment.first, last)
        try:
            with self._path.open("r+b", buffering=0) as file:
                file.truncate(size)
                file.seek(size)
                rest = memoryview(data)
                while rest:
                    rest = rest[file.write(rest) :]
                os.fsync(file.fileno())
        except OSError as error:
            raise refused(self._path, error) from error
        self._end = size + len(data), max(last, segment.last)
        return end == len(raw)

    def _find_end(self) -> tuple[int, int]:
        """Bytes of whole records in the ledger, and the number of the last one."""
        size, last = 0, 0
        for record, end in self._ledger():
            size, last = end, record.last
        return size, last

    def _remembered(self, size: int) -> Iterator[Record]:
        return chain.from_iterable(record.split() for record, _ in self._ledger(size))

    def _ledger(self, size: int | None = None) -> Iterator[tuple[Record, int]]:
        data, offset = self._path.read_bytes()[:size], 0
        while (found := decode_at(data, offset)) is not None:
            record, frame = found
            yield record, frame.end
            offset = frame.end
        check_tail(self._path, data, offset)


def _mapped(path: Path) -> mmap.mmap | bytes:
    """A file's bytes, without a copy of them."""
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        return mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ) if size else b""


def touches(record: Record, address: int) -> bool:
    """Whether a record set a word."""
    return bool(np.any((record.start <= address) & (address < record.start + record.length)))
