"""Journal: every write is here, on the disk as the policy says, before it is acknowledged or seen.

A journal is a directory of segments. A new one begins where a version is kept and where a checkpoint is taken; within
a segment the first record that changes a page carries what the page held, so that a segment tells what was before it.

Source: write-ahead logging with full page images, as in PostgreSQL,
https://www.postgresql.org/docs/current/runtime-config-wal.html#GUC-FULL-PAGE-WRITES
"""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from leworld.errors import ConfigError, StoreError
from leworld.files import sync
from leworld.store.journal.record import Frame, Record, encode
from leworld.store.journal.segment import Segment, load_segments, segment_path, set_aside
from leworld.store.layout import refused

POLICIES = ("always", "group", "os")
"""On the disk before the acknowledgement of a write; of a group of writes that came together; within a second, so that
only a machine that fails can lose a write."""
SYNC_EVERY_S = 0.25
"""With policy os: less than the second that is promised, so that a segment that ends has not much to wait for."""
MAX_LATE_S = 0.5
"""So long may the disk work at what it was told to sync before those who write wait for it."""
_CLOSED = -1


class Journal:
    """The segments of one memory, and the file to which records are appended.

    Attributes:
        policy: one of ``POLICIES``.
        segments: oldest first; the last one grows.
    """

    def __init__(self, directory: Path, policy: str, checkpoint: int) -> None:
        """Open a journal; what a crash left of a record at its end is cut off.

        Args:
            directory: of the segments, which exists.
            policy: one of ``POLICIES``.
            checkpoint: the record after which an empty journal goes on.

        Raises:
            DamageError: a record in the middle is damaged, or one is missing.
            ConfigError: there is no such policy.
        """
        if policy not in POLICIES:
            raise ConfigError(f"policy {policy!r} is unknown: use one of {', '.join(POLICIES)}")
        self.directory, self.policy = directory, policy
        self.segments = load_segments(directory, checkpoint)
        self._lock = threading.Lock()
        # Held while the disk works beside writers, and taken before the other one.
        self._syncing, self._syncing_since = threading.Lock(), math.inf
        self._unsynced = False
        self._failed: OSError | None = None
        self._in_hand = False
        if not self.segments:
            self.segments.append(self._new_segment(checkpoint + 1))
        self._file = _open(self.last)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._sync_often, name="journal-sync", daemon=True)
        if policy == "os":
            self._thread.start()

    @property
    def last(self) -> Segment:
        """The segment that grows."""
        return self.segments[-1]

    @property
    def sequence(self) -> int:
        """Number of the last record."""
        return self.last.last

    @property
    def is_closed(self) -> bool:
        """Whether ``close`` was called."""
        return self._file == _CLOSED

    @property
    def was_interrupted(self) -> bool:
        """Whether an exception came where it must be opened again."""
        return self._in_hand

    def append(self, records: Sequence[Record], meanwhile: Callable[[], None] | None = None) -> None:
        """Write records, all of them or none, as durable as the policy says.

        Args:
            records: numbered on from the last one.
            meanwhile: is called when they are in the file and before they are on the disk.

        Raises:
            StoreError: the disk refuses; nothing is written then.
            DataError: a record is too long; nothing is written then.
        """
        self._check()
        frames, parts, end = [], [], self.last.size
        for record in records:
            encoded = encode(record)
            begin, end = end, end + sum(len(part) for part in encoded)
            frames.append(Frame(begin, end, end))
            parts.extend(encoded)
        self._in_hand = True
        self._write(b"".join(parts), meanwhile)
        for record, frame in zip(records, frames, strict=True):
            self.last.add(record, frame)
        self._in_hand = False

    def roll(self) -> None:
        """Begin a new segment; nothing happens where the last one is still empty."""
        if not self.last.size:
            return
        self.sync()
        self._grow_from(self.sequence + 1)

    def sync(self) -> None:
        """Return once all that was appended is on the disk."""
        with self._syncing, self._lock:
            self._check()
            if self._unsynced:
                self._sync()

    def since(self, sequence: int) -> list[Segment]:
        """The segments after the one that ends with a record, oldest first."""
        return [segment for segment in self.segments if segment.first > sequence]

    def skip_to(self, sequence: int) -> None:
        """Go on after record ``sequence``: those up to it are lost, but not what they wrote."""
        assert sequence > self.sequence
        short = self.last
        self._grow_from(sequence + 1)
        # What the lost ones changed is not known, so that it cannot tell of versions before them.
        short.last, short._before = sequence, None

    def drop(self, segment: Segment, *, aside: bool = False) -> None:
        """Delete a segment that is not the last, or put a damaged one ``aside``, under another name."""
        assert segment is not self.last
        self.segments.remove(segment)
        if aside:
            segment.path.rename(set_aside(segment.path))
        else:
            segment.path.unlink()
        sync(self.directory)

    def close(self) -> None:
        """Everything is on the disk then."""
        if self.is_closed:
            return
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join()
        try:
            if self._failed is None and not self._in_hand:
                self.sync()
        finally:
            file, self._file = self._file, _CLOSED
            os.close(file)

    def _grow_from(self, first: int) -> None:
        self._in_hand = True
        try:
            segment = self._new_segment(first)
        except StoreError:
            self._in_hand = False
            raise
        with self._syncing, self._lock:
            file, self._file = self._file, _open(segment)
            self.segments.append(segment)
            os.close(file)
        self._in_hand = False

    def _new_segment(self, first: int) -> Segment:
        path = segment_path(self.directory, first)
        try:
            path.touch()
            sync(self.directory)
        except OSError as error:
            path.unlink(missing_ok=True)
            raise refused(path, error) from error
        return Segment(path, first, first - 1)

    def _write(self, data: bytes, meanwhile: Callable[[], None] | None) -> None:
        if time.monotonic() - self._syncing_since > MAX_LATE_S:
            # The disk is slower than those who write: what it lacks must not grow older and older.
            with self._syncing:
                pass
        with self._lock:
            try:
                self._check_disk()
                self._put(data)
                if meanwhile is not None:
                    meanwhile()
                if self.policy == "os":
                    self._unsynced = True
                else:
                    self._sync()
            except BaseException:
                # Interrupted, too: what is not acknowledged must not stand before what comes next.
                self._cut_off()
                raise

    def _cut_off(self) -> None:
        """Have nothing in the file after the last record."""
        try:
            os.ftruncate(self._file, self.last.size)
        except OSError as error:
            self._failed = error
        self._in_hand = False

    def _put(self, data: bytes) -> None:
        try:
            rest = memoryview(data)
            while rest:
                rest = rest[os.write(self._file, rest) :]
        except OSError as error:
            raise refused(self.last.path, error) from error

    def _sync(self) -> None:
        try:
            os.fdatasync(self._file)
        except OSError as error:
            # The system may have dropped what it could not write: no later success says that it is there.
            self._failed = error
            self._check_disk()
        self._unsynced = False

    def _check(self) -> None:
        if self.is_closed:
            raise StoreError(f"{self.directory}: is closed: open the memory again")
        self._check_disk()
        if self._in_hand:
            raise StoreError(f"{self.directory}: was interrupted: close the memory and open it again")

    def _check_disk(self) -> None:
        if self._failed is not None:
            raise StoreError(
                f"{self.directory}: the disk failed ({self._failed.strerror}), so nothing more is written:"
                " mend it, and open the memory again"
            )

    def _sync_often(self) -> None:
        """Have what was appended on the disk soon after, while more is appended."""
        begin = time.monotonic()
        while not self._stopped.wait(max(0.0, begin + SYNC_EVERY_S - time.monotonic())):
            begin = time.monotonic()
            with self._syncing:
                with self._lock:
                    unsynced, self._unsynced = self._unsynced, False
                if unsynced and not self._sync_beside(begin):
                    return

    def _sync_beside(self, begin: float) -> bool:
        """Sync while others append; whether it was done."""
        self._syncing_since = begin
        try:
            os.fdatasync(self._file)
        except OSError as error:
            self._failed = error
            return False
        finally:
            self._syncing_since = math.inf
        return True


def _open(segment: Segment) -> int:
    file = os.open(segment.path, os.O_WRONLY | os.O_APPEND)
    os.ftruncate(file, segment.size)
    return file
