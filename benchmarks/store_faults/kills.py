"""Processes killed at random moments, and at every step of what they do."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from leworld.memory.pages import WordPages
from leworld.store import committer, mapped_memory, mapped_writer
from leworld.store.durable_store import DurableStore, StoreConfig
from leworld.store.journal.journal import POLICIES
from leworld.store.shared_state import SharedState

from .counts import Counts
from .model import ADDRESS_BITS, Model, Operation, operations
from .processes import kill, outcome, start, wait_for_bytes
from .stores import check_opened, copy_of, start_anew

SEGMENTS = (1, 1 << 12, 1 << 15, 1 << 18)
KILLS_A_STORE = 8
LONGEST_S = 0.15
LONGEST_MENDING_S = 0.02
BEGUN = 2
"""Bytes that a writer reports before its first operation: it starts, the memory is open."""
SCRIPT_STEPS = 14
CALLS = ("write", "fdatasync", "fsync", "replace", "unlink", "ftruncate", "posix_fallocate")


def write_for_ever(root: Path, config: StoreConfig, seed: int, report: Path) -> None:
    """Do random operations; a byte more in ``report`` for each that was acknowledged."""
    file = os.open(report, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    os.write(file, b"s")
    store = DurableStore(root, config)
    os.write(file, b"o")
    for operation in operations(seed, [version.name for version in store.versions]):
        operation.do(store)
        os.write(file, b"a")


def open_only(root: Path, report: Path) -> None:
    """Open a memory, and mend it."""
    report.touch()
    report.write_bytes(b"s")
    DurableStore(root)


def kill_writers(directory: Path, count: int, seed: int) -> list[Counts]:
    """Kill writers at random moments, sometimes those who mend what they left, and look at all words and versions."""
    writers, menders = Counts("writer killed"), Counts("writer killed, then those who mend")
    random, root, number = np.random.default_rng(seed), directory / "killed", 0
    while number < count:
        make_anew(root)
        model = Model.empty()
        for _ in range(min(KILLS_A_STORE, count - number)):
            number += 1
            config = StoreConfig(POLICIES[int(random.integers(0, 3))], SEGMENTS[int(random.integers(0, 4))])
            allowed = _killed_writer(root, config, seed * 100_003 + number, model, random.uniform(0, LONGEST_S))
            also = int(random.integers(0, 3)) if random.random() < 0.5 else 0
            if random.random() < 0.3:
                start_anew(root)
            for _ in range(also):
                _killed_mender(root, random.uniform(0, LONGEST_MENDING_S))
            counts = menders if also else writers
            found = check_opened(root, allowed, counts, f"kill {number}, {config.policy}, {config.segment_bytes} bytes")
            if found is None:
                break
            model = found
    return [writers, menders]


def make_anew(root: Path) -> None:
    """An empty memory where another one was."""
    shutil.rmtree(root, ignore_errors=True)
    DurableStore.create(root, ADDRESS_BITS).close()


def _killed_writer(root: Path, config: StoreConfig, seed: int, model: Model, seconds: float) -> list[Model]:
    """What a memory may hold after its writer was killed."""
    report = root.parent / "report"
    report.unlink(missing_ok=True)
    process = start(write_for_ever, root, config, seed, report)
    wait_for_bytes(report, process)
    time.sleep(seconds)
    kill(process)
    return allowed_after(model, operations(seed, list(model.kept)), report)


def _killed_mender(root: Path, seconds: float) -> None:
    report = root.parent / "report"
    report.unlink(missing_ok=True)
    process = start(open_only, root, report)
    wait_for_bytes(report, process)
    time.sleep(seconds)
    kill(process)


def allowed_after(model: Model, script: Any, report: Path) -> list[Model]:
    """What a memory may hold after a writer that had reported so much."""
    done = max(0, report.stat().st_size - BEGUN) if report.exists() else 0
    for operation in islice(script, done):
        model = model.after(operation)
    following = next(iter(script), None)
    return [model] if following is None else model.cut_off_in(following)


def script(seed: int) -> list[Operation]:
    """Operations of every kind, the first ones the same for every seed."""
    found, plain = [], operations(seed)
    writes = (operation for operation in plain if operation.kind == "write")
    for kind, name in [("write", ""), ("create_version", "a"), ("write", ""), ("write", ""), ("rollback_to", "a"),
                       ("write", ""), ("create_version", "b"), ("checkpoint", ""), ("write", ""), ("drop_version", "a"),
                       ("write", ""), ("rollback_to", "b"), ("drop_version", "b"),
                       ("write", "")][:SCRIPT_STEPS]:  # fmt: skip
        found.append(next(writes) if kind == "write" else Operation(kind, name))
    return found


class Bomb:
    """Kills this process before its call of a number among those that change a memory; half of a write is done."""

    def __init__(self, at: int | None) -> None:
        self.calls, self._at = 0, at
        for name in CALLS:
            setattr(os, name, self._armed(getattr(os, name), halve=name == "write"))
        WordPages.scatter = self._armed(WordPages.scatter)
        SharedState.begin = self._armed(SharedState.begin)
        mapped_memory.page_sums = mapped_writer.page_sums = self._armed(mapped_memory.page_sums)

    def _armed(self, call: Callable[..., Any], *, halve: bool = False) -> Callable[..., Any]:
        def armed(*given: Any) -> Any:
            self.calls += 1
            if self.calls == self._at:
                if halve:
                    call(given[0], given[1][: len(given[1]) // 2])
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*given)

        return armed


def run_script(root: Path, seed: int, report: Path, at: int | None) -> int:
    """Do a script, and be killed at a step; the number of steps where that is None."""
    committer.CHUNK_PAGES = 5
    file, write = os.open(report, os.O_CREAT | os.O_WRONLY | os.O_APPEND), os.write
    bomb = Bomb(at)
    store = DurableStore(root, StoreConfig("group", 1 << 13))
    write(file, b"so")
    for operation in script(seed):
        operation.do(store)
        # A checkpoint beside ends here, so that the steps are the same every time.
        if store._checkpoints.thread is not None and store._checkpoints.thread.ident is not None:
            store._checkpoints.thread.join()
        write(file, b"a")
    return bomb.calls


def mend(root: Path, at: int | None) -> int:
    """Open a memory, and be killed at a step; the number of steps where that is None."""
    bomb = Bomb(at)
    DurableStore(root)
    return bomb.calls


def kill_at_every_step(directory: Path, seed: int, every: int = 1) -> list[Counts]:
    """Kill a script before each call that changes a file or words, and some of those who mend it at each of theirs."""
    writing, mending = Counts("killed at each step"), Counts("killed at each step of mending")
    root, left, again = directory / "steps", directory / "left", directory / "again"
    report = directory / "report"
    make_anew(root)
    report.unlink(missing_ok=True)
    steps, line = outcome(run_script, copy_of(root, left), seed, report, None)
    assert not line, line
    # A step takes part in few kills of those who mend, as each step of these is another kill.
    for number, step in enumerate(range(1 + seed % every, steps + 1, every)):
        report.unlink(missing_ok=True)
        outcome(run_script, copy_of(root, left), seed, report, step)
        allowed = allowed_after(Model.empty(), iter(script(seed)), report)
        if number % 7 == 3:
            _kill_menders(left, again, allowed, mending, every, f"step {step} of {steps}")
        if step % 3 == 0:
            start_anew(left)
        check_opened(left, allowed, writing, f"step {step} of {steps}")
    return [writing, mending]


def _kill_menders(left: Path, again: Path, allowed: list[Model], counts: Counts, every: int, what: str) -> None:
    steps, line = outcome(mend, copy_of(left, again), None)
    assert not line, line
    for step in range(1, steps + 1, every):
        outcome(mend, copy_of(left, again), step)
        check_opened(again, allowed, counts, f"{what}, mending {step} of {steps}")
