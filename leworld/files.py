"""Files written whole or not at all, and what is on the disk."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Sequence
from pathlib import Path

_LEFTOVER = re.compile(r"\..+\.(\d+)\.(\d+)\.tmp")
"""What ``replace_file`` writes first: it names the process and the thread."""


def replace_file(path: Path, parts: Sequence[bytes | memoryview]) -> None:
    """Put a file in place by renaming: a crash leaves the old one or the new one, and the new one is on the disk."""
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
    # The rename itself is on the disk only once its directory is.
    sync(path.parent)


def remove_leftovers(directory: Path) -> None:
    """Delete what ``replace_file`` began in a directory and nobody ends any more, as the process was killed."""
    for path in directory.glob(".*.tmp"):
        found = _LEFTOVER.fullmatch(path.name)
        if found and not _is_at_work(*(int(number) for number in found.groups())):
            path.unlink(missing_ok=True)


def is_running(pid: int) -> bool:
    """Whether there is a process of a number."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        pass
    return True


def _is_at_work(pid: int, thread: int) -> bool:
    """Whether a thread of a process may be replacing a file now; this one is not."""
    if pid != os.getpid():
        return is_running(pid)
    # Another process may have had the number of this one, as the first process of a container always has.
    return thread != threading.get_ident() and thread in {each.ident for each in threading.enumerate()}


def sync(path: Path) -> None:
    """Return once a file, or the names in a directory, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
