"""Who has a memory in a directory open for writing, and where it is served."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from leworld.errors import StoreError
from leworld.files import is_running, replace_file
from leworld.store.layout import Layout


class WriterLock:
    """Holds the one right to write a memory, until ``release`` or the end of the process."""

    def __init__(self, layout: Layout) -> None:
        """Take it.

        Raises:
            StoreError: another process holds it.
        """
        self._file: int | None = os.open(layout.lock, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            pid = os.read(self._file, 32).decode(errors="replace").strip() or "unknown"
            os.close(self._file)
            raise StoreError(
                f"{layout.root}: is open for writing in process {pid}; end that one, or only read"
            ) from None
        os.ftruncate(self._file, 0)
        os.pwrite(self._file, f"{os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        """Let another process write; nothing happens where it was released before."""
        if self._file is not None:
            # Its number is another file's from here on.
            file, self._file = self._file, None
            os.close(file)


def writer_of(layout: Layout) -> int | None:
    """Number of the process that has a memory open for writing; None where none has."""
    try:
        with layout.lock.open("rb") as file:
            pid = int(file.read(32) or b"0")
            # The lock itself is asked only where it is likely to be held: who takes it at this moment would not get it.
            return pid if pid > 0 and is_running(pid) and _is_locked(file.fileno()) else None
    except (FileNotFoundError, ValueError):
        return None


def served_file(root: Path) -> Path:
    """The file that names the address at which a directory's memory is served."""
    return root / "served"


def served_address(root: Path) -> str | None:
    """The address that a server left in a directory."""
    try:
        return served_file(root).read_text(encoding="utf-8").strip() or None
    except (FileNotFoundError, UnicodeDecodeError):
        return None


def publish_address(root: Path, address: str) -> None:
    """Say where a directory's memory is served."""
    replace_file(served_file(root), [f"{address}\n".encode()])


def withdraw_address(root: Path) -> None:
    """Say that it is no longer served."""
    served_file(root).unlink(missing_ok=True)


def _is_locked(file: int) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    fcntl.flock(file, fcntl.LOCK_UN)
    return False
