"""Facts about the own process and machine."""

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
    """A process and its peak memory in bytes."""

    name: str
    pid: int
    peak_rss_bytes: int


def own_stat(name: str) -> ProcessStat:
    """Describe this process."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Linux counts in KiB, macOS in bytes.
    return ProcessStat(name, os.getpid(), peak if sys.platform == "darwin" else peak * 1024)


@cache
def machine_id() -> str:
    """Return an id of the machine since its start and of the file system that this process sees."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    seen = os.stat(tempfile.gettempdir())
    return f"{boot}:{seen.st_dev}:{seen.st_ino}"
