"""Atomic file replacement and syncing to disk."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Sequence
from pathlib import Path

_LEFTOVER = re.compile(r"\..+\.(\d+)\.(\d+)\.tmp")
"""Name of the temporary file of ``replace_file``, with the process and the thread."""


def replace_file(path: Path, parts: Sequence[bytes | memoryview]) -> None:
    """Replace a file by renaming. A crash leaves the old or the new file; on return the new one is on disk."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.tmp")
    try:
        with temporary.open("wb") as file:
            for part in parts:
                file.write(part)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    # The rename is on disk only once its directory is.
    sync(path.parent)


def remove_leftovers(directory: Path) -> None:
    """Delete temporary files of ``replace_file`` whose process was killed."""
    for path in directory.glob(".*.tmp"):
        found = _LEFTOVER.fullmatch(path.name)
        if found and not _is_at_work(*(int(number) for number in found.groups())):
            path.unlink(missing_ok=True)


def is_running(pid: int) -> bool:
    """Whether a process with this number runs."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        pass
    return True


def _is_at_work(pid: int, thread: int) -> bool:
    """Whether another thread or process may be replacing a file now."""
    if pid != os.getpid():
        return is_running(pid)
    # An earlier process may have had this number, as the first process of a container always does.
    return thread != threading.get_ident() and thread in {each.ident for each in threading.enumerate()}


def sync(path: Path) -> None:
    """Return once a file, or the names in a directory, are on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
