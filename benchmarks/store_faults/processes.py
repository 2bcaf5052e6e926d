"""Processes that are killed, or that must not die."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["leworld.store.durable_store"])
WAIT_S = 120.0


def start(target: Callable[..., None], *given: Any) -> ForkServerProcess:
    """Start a process."""
    process = FORKS.Process(target=target, args=given)
    process.start()
    return process


def kill(process: ForkServerProcess) -> None:
    """End a process in the middle of what it does."""
    process.kill()
    process.join()


def wait_for_bytes(path: Path, process: ForkServerProcess, count: int = 1) -> None:
    """Return when a process has put so many bytes into a file, or has ended."""
    end = time.monotonic() + WAIT_S
    while process.is_alive() and time.monotonic() < end:
        if path.exists() and path.stat().st_size >= count:
            return
        time.sleep(0.0005)


def outcome(target: Callable[..., Any], *given: Any, seconds: float = WAIT_S) -> tuple[Any, str]:
    """What a function returns in a process of its own, and a line where it died or did not end in time."""
    here, there = FORKS.Pipe(duplex=False)
    process = start(_send, there, target, *given)
    there.close()
    result = None
    if here.poll(seconds):
        try:
            result = here.recv()
        except EOFError:
            process.join()
            return None, f"died with exit code {process.exitcode}"
    else:
        kill(process)
        return None, f"did not end in {seconds:.0f} s"
    process.join()
    return result, ""


def _send(pipe: Connection, target: Callable[..., Any], *given: Any) -> None:
    pipe.send(target(*given))
    pipe.close()
