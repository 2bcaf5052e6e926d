"""WriteGate: the lock and the stop sign of all who change a memory."""

from __future__ import annotations

import threading
from pathlib import Path

from leworld.errors import StoreError


class WriteGate:
    """Lets one thread at a time change a memory, until it is shut.

    Attributes:
        lock: held by the thread that changes the memory.
    """

    def __init__(self, root: Path) -> None:
        self._root, self.lock, self._reason = root, threading.RLock(), ""

    @property
    def is_shut(self) -> bool:
        """Whether all writes are refused until the memory is opened again."""
        return bool(self._reason)

    def shut(self, reason: str) -> None:
        """Refuse all writes from now on."""
        self._reason = reason

    def check(self) -> None:
        """Raise StoreError where the gate is shut."""
        if self._reason:
            raise StoreError(f"{self._root}: {self._reason}")
