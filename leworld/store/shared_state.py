"""SharedState: what the writer of a memory tells every process that reads it, in the mapped file ``state``.

64-bit little-endian integers::

    0    number of the last write that was begun
    8    number of the last write that was finished
    16   16 bytes: the machine's boot
    32   era: odd while a crash is being mended, and another number after it
    40   1 where the memory was closed and all of it is on the disk
    48   of a replica: the moment, in nanoseconds of the monotonic clock, until which it may be read; else 0
    56   of a shard: the version of the map by which it holds words
    4096 for each stripe, the number of the last write that touched it

Shapes:
    P: pages.  S: stripes.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np

from leworld.errors import NotPrimaryError
from leworld.files import sync
from leworld.memory.ranges import Ints
from leworld.store.mapped_files import map_array

STRIPE_PAGES = 16
_HEAD_BYTES = 4096
_TRUE = (1).to_bytes(8, "little")
_BEGUN, _FINISHED, _BOOT, _ERA, _CLOSED, _LEASE, _MAP = 0, 1, slice(2, 4), 4, 5, 6, 7


class SharedState:
    """The state of one memory.

    Attributes:
        touched: (S,) number of the last write that touched each stripe.
    """

    def __init__(self, path: Path, num_pages: int, writable: bool) -> None:
        state = map_array(path, _state_bytes(num_pages), "<u8", writable)
        self._path, self._head, self.touched = path, state[: _HEAD_BYTES // 8], state[_HEAD_BYTES // 8 :]

    @property
    def begun(self) -> int:
        """Number of the last write of which something may be visible."""
        return int(self._head[_BEGUN])

    @property
    def finished(self) -> int:
        """Number of the last write that is wholly visible."""
        return int(self._head[_FINISHED])

    @property
    def era(self) -> int:
        """Changes when a crash is mended; it is odd meanwhile."""
        return int(self._head[_ERA])

    @property
    def map_version(self) -> int:
        """Version of the map by which a shard holds words; data read before it changes was still here."""
        return int(self._head[_MAP])

    @property
    def is_readable(self) -> bool:
        """Whether the words can be trusted: the memory was closed, or the machine still runs."""
        return bool(self._head[_CLOSED]) or self._is_of_this_boot

    @property
    def is_whole(self) -> bool:
        """Whether no write and no mending was cut off, and the machine still runs."""
        return self._is_of_this_boot and self.begun == self.finished and not self.era % 2

    @property
    def shown(self) -> int:
        """Number of the last write that was wholly visible, as far as the disk tells; 0 where it does not."""
        return self.finished if self.finished <= self.begun and not self.era % 2 else 0

    @property
    def _is_of_this_boot(self) -> bool:
        return self._head[_BOOT].tobytes() == boot_id()

    def check_lease(self) -> None:
        """Raise NotPrimaryError where a replica's lease is over."""
        lease = int(self._head[_LEASE])
        if lease and time.monotonic_ns() >= lease:
            root = self._path.parent
            raise NotPrimaryError(f"{root}: does not lead, so that it may be out of date: ask the replica that leads")

    def begin(self, sequence: int, pages: Ints) -> None:
        """Tell readers that a write of (P,) pages is going on."""
        self.touched[pages // STRIPE_PAGES] = sequence
        self._head[_BEGUN] = sequence

    def finish(self, sequence: int) -> None:
        """Tell readers that a write is wholly visible."""
        self._head[_FINISHED] = sequence

    def begin_mending(self) -> None:
        """Keep readers waiting until ``settle_at``."""
        self._head[_ERA] += 1 - self._head[_ERA] % 2

    def settle_at(self, sequence: int) -> None:
        """Say that all writes up to one are visible, and no other."""
        self._head[_BOOT] = np.frombuffer(boot_id(), "<u8")
        self._head[_BEGUN] = self._head[_FINISHED] = sequence
        self._head[_ERA] += self._head[_ERA] % 2

    def lease_until(self, moment: float) -> None:
        """Have every reader refuse from a moment of ``time.monotonic`` on, which all processes of a machine share."""
        self._head[_LEASE] = max(1, int(moment * 1e9))

    def end_lease(self) -> None:
        """Let readers read without a lease."""
        self._head[_LEASE] = 0

    def go_by(self, map_version: int) -> None:
        """Tell readers by which map a shard holds words."""
        self._head[_MAP] = map_version

    def set_closed(self, closed: bool) -> None:
        """Say, on the disk too, whether all of the memory is on the disk and nobody writes."""
        self._head[_CLOSED] = closed
        sync(self._path)


def make_state(path: Path, num_pages: int) -> None:
    """Give the file of a new memory its size (sparse), as if the memory had been closed."""
    os.truncate(path, _state_bytes(num_pages))
    with path.open("r+b") as file:
        file.seek(_CLOSED * 8)
        file.write(_TRUE)


def was_closed(path: Path) -> bool:
    """Whether a state file says that its memory was closed."""
    with path.open("rb") as file:
        return file.read(_CLOSED * 8 + 8)[_CLOSED * 8 :] == _TRUE


def _state_bytes(num_pages: int) -> int:
    return _HEAD_BYTES + -(-num_pages // STRIPE_PAGES) * 8


def boot_id() -> bytes:
    """16 bytes that differ each time that the machine is started."""
    text = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii")
    return bytes.fromhex(text.strip().replace("-", ""))
