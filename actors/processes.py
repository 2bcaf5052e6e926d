"""What a process says of itself."""

from __future__ import annotations

import os
import resource
import sys
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path


@dataclass(frozen=True)
class ProcessStat:
    """A process and the most memory it ever held, in bytes."""

    name: str
    pid: int
    peak_rss_bytes: int


def own_stat(name: str) -> ProcessStat:
    """This process."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Linux counts in KiB, macOS in bytes.
    return ProcessStat(name, os.getpid(), peak if sys.platform == "darwin" else peak * 1024)


@cache
def machine_id() -> str:
    """Of the machine since it was started, and of the file system that this process sees of it."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    seen = os.stat(tempfile.gettempdir())
    return f"{boot}:{seen.st_dev}:{seen.st_ino}"
