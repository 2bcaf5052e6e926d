"""Files written whole or not at all, and what is on the disk."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from pathlib import Path


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


def sync(path: Path) -> None:
    """Return once a file, or the names in a directory, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
