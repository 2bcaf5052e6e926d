"""What a process says of itself."""

from __future__ import annotations

import os
import resource
import sys
from dataclasses import dataclass


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
