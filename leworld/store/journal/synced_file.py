"""SyncedFile: the file that the journal appends to, brought to the disk as the policy says."""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

from leworld.errors import StoreError
from leworld.store.layout import refused

SYNC_EVERY_S = 0.25
"""With policy os: less than the promised second, so that a segment that ends has little to wait for."""
MAX_LATE_S = 0.5
"""If the disk takes longer than this for one sync, writers wait for it."""
_CLOSED = -1


class SyncedFile:
    """One file at a time, open for appending.

    Attributes:
        end: bytes that the file may have; the same as before where an ``append`` failed.
    """

    def __init__(self, path: Path, size: int, policy: str) -> None:
        """Open a file, and cut off what is after ``size`` bytes."""
        self._path, self._policy = path, policy
        self._file, self.end = _open(path, size), size
        self._lock = threading.Lock()
        # Held while the disk works beside writers, and taken before the other one.
        self._syncing, self._syncing_since = threading.Lock(), math.inf
        self._unsynced = False
        self._failed: OSError | None = None
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._sync_often, name="journal-sync", daemon=True)
        if policy == "os":
            self._thread.start()

    @property
    def is_closed(self) -> bool:
        """Whether ``close`` was called."""
        return self._file == _CLOSED

    def append(self, data: bytes, meanwhile: Callable[[], None] | None) -> None:
        """Write all of it or nothing, as durable as the policy says; see ``Journal.append``."""
        if time.monotonic() - self._syncing_since > MAX_LATE_S:
            # The disk is slower than the writers: what it lacks must not grow older and older.
            with self._syncing:
                pass
        with self._lock:
            before = self.end
            try:
                self.check_disk()
                self.end = before + len(data)
                self._put(data)
                if meanwhile is not None:
                    meanwhile()
                if self._policy == "os":
                    self._unsynced = True
                else:
                    self._sync()
            except BaseException:
                # Also when interrupted: what is not acknowledged must not stand before what comes next.
                self._cut_off(before)
                raise

    def sync(self) -> None:
        """Return once all that was appended is on the disk."""
        with self._syncing, self._lock:
            self.check_disk()
            if self._unsynced:
                self._sync()

    def go_on_in(self, path: Path) -> None:
        """Append to another file, which is empty."""
        with self._syncing, self._lock:
            file, self._file = self._file, _open(path, 0)
            self._path, self.end = path, 0
            os.close(file)

    def close(self, *, sync: bool) -> None:
        """Close the file, with ``sync`` after all of it is on the disk, unless that failed before."""
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join()
        try:
            if self._failed is None and sync:
                self.sync()
        finally:
            file, self._file = self._file, _CLOSED
            os.close(file)

    def check_disk(self) -> None:
        """Raise StoreError where a sync failed."""
        if self._failed is not None:
            raise StoreError(
                f"{self._path.parent}: the disk failed ({self._failed.strerror}), so nothing more is written:"
                " mend it, and open the memory again"
            )

    def _cut_off(self, size: int) -> None:
        try:
            os.ftruncate(self._file, size)
        except OSError as error:
            self._failed = error
        self.end = size

    def _put(self, data: bytes) -> None:
        try:
            rest = memoryview(data)
            while rest:
                rest = rest[os.write(self._file, rest) :]
        except OSError as error:
            raise refused(self._path, error) from error

    def _sync(self) -> None:
        try:
            os.fdatasync(self._file)
        except OSError as error:
            # The system may have dropped what it could not write: no later success says that it is there.
            self._failed = error
            self.check_disk()
        self._unsynced = False

    def _sync_often(self) -> None:
        """Bring what was appended to the disk soon after, while more is appended."""
        begin = time.monotonic()
        while not self._stopped.wait(max(0.0, begin + SYNC_EVERY_S - time.monotonic())):
            begin = time.monotonic()
            with self._syncing:
                with self._lock:
                    unsynced, self._unsynced = self._unsynced, False
                if unsynced and not self._sync_beside(begin):
                    return

    def _sync_beside(self, begin: float) -> bool:
        """Sync while others append; return whether it succeeded."""
        self._syncing_since = begin
        try:
            os.fdatasync(self._file)
        except OSError as error:
            self._failed = error
            return False
        finally:
            self._syncing_since = math.inf
        return True


def _open(path: Path, size: int) -> int:
    file = os.open(path, os.O_WRONLY | os.O_APPEND)
    os.ftruncate(file, size)
    return file
