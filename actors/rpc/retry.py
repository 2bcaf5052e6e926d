"""The retry loop, with a time limit and a pause between attempts."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Pause:
    """Seconds between two attempts: ``first_s``, then ``growth`` times as many each, up to ``longest_s``."""

    first_s: float
    growth: float = 1.0
    longest_s: float = 60.0


def attempts(timeout_s: float, pause: Pause, ended: threading.Event | None = None) -> Iterator[None]:
    """Yield once for each attempt, at least once, until the time is over or ``ended`` is set.

    The caller leaves the loop when it succeeds. Code after the loop handles failure.
    """
    ended, end, wait_s = ended or threading.Event(), time.monotonic() + timeout_s, pause.first_s
    while True:
        yield
        if time.monotonic() >= end or ended.wait(wait_s):
            return
        wait_s = min(pause.growth * wait_s, pause.longest_s)
