"""Rows of kept versions: what keeping one costs, and whether reads wait for it.

Shapes:
    N: reads.  P: pages.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from leworld.memory import PAGE_WORDS
from leworld.store.durable_store import DurableStore, StoreConfig
from leworld.store.mapped_memory import MappedMemory
from store_speed.rounds import Comparison, compare_times
from store_speed.setting import FILL_PAGES, RANGE_WORDS, Setting, say, size_name, starts, write_pages
from store_speed.writes import apart

READ_RANGES = 256
SPARSE = 0.01
DIRTY = (0.001, 0.01, 0.1)
RIVAL = "bare write of all pages"
_LONG_SEGMENT = 1 << 40


@dataclass(frozen=True)
class Watched:
    """Reads beside a keep: ``begin`` (N,) and ``seconds`` (N,), and when it was called and the checkpoint was done."""

    begin: NDArray[np.float64]
    seconds: NDArray[np.float64]
    called: float
    kept: float
    done: float

    def phases(self) -> dict[str, NDArray[np.float64]]:
        """Seconds of the reads before, during and after keep and checkpoint."""
        end = self.begin + self.seconds
        before, after = end < self.called, self.begin > self.done
        return {"before": self.seconds[before], "during": self.seconds[~before & ~after], "after": self.seconds[after]}


def keep_rows(setting: Setting) -> list[Comparison]:
    """Dense and sparse: cost of a version by pages changed, and latency of reads beside it."""
    lines = []
    for name, share in (("dense", 1.0), (f"{SPARSE:.0%} of pages", SPARSE)):
        root = setting.filled(setting.keep_words, share)
        row = f"keep, {size_name(setting.keep_words)}, {name}"
        say(row)
        config = StoreConfig(policy="os", segment_bytes=_LONG_SEGMENT)
        with DurableStore(root, config) as store:
            pages = np.flatnonzero(np.fromfile(root / "sums", np.uint32))
            lines += _cost_lines(row, setting, store, pages)
            watched = [
                _watch(setting, store, root, pages, f"watched-{turn}") for turn in range(max(2, setting.rounds // 2))
            ]
        lines += _latency_lines(row, watched)
    return lines


def _cost_lines(row: str, setting: Setting, store: DurableStore, pages: NDArray[np.int64]) -> list[Comparison]:
    """Seconds of keep, and of the checkpoint behind it, against a bare write of every page."""
    bare = [_bare_write(setting.directory / "bare", len(pages)) for _ in range(2)]
    whole = float(np.median(bare))
    lines = []
    for share in DIRTY:
        changed = max(1, round(len(pages) * share))
        costs = [_keep_and_checkpoint(store, pages, changed, turn) for turn in range(max(2, setting.rounds // 2))]
        for column, name in enumerate(("keep", "checkpoint behind it")):
            own = [cost[column] for cost in costs]
            lines.append(compare_times(row, own, [whole] * len(own), f"{name}, {share:.1%} changed", RIVAL))
    return lines


def _keep_and_checkpoint(store: DurableStore, pages: NDArray[np.int64], changed: int, turn: int) -> tuple[float, float]:
    """Seconds of both, after so many pages were changed since the last version."""
    name = f"cost-{changed}-{turn}"
    generator = np.random.default_rng(turn)
    store.create_version(f"{name}-base")
    chosen = np.sort(generator.permutation(pages)[:changed])
    for first in range(0, changed, FILL_PAGES):
        chunk = chosen[first : first + FILL_PAGES]
        write_pages(store, chunk, generator.integers(0, 1 << 32, (len(chunk), PAGE_WORDS), np.uint32))
    begin = time.perf_counter()
    store.create_version(name)
    kept = time.perf_counter()
    store.checkpoint()
    done = time.perf_counter()
    for version in (f"{name}-base", name):
        store.drop_version(version)
    return kept - begin, done - kept


def _bare_write(path: Path, num_pages: int) -> float:
    """Seconds to write so many pages into a file, and have them on the disk."""
    data = np.random.default_rng(0).integers(0, 1 << 32, (FILL_PAGES, PAGE_WORDS), np.uint32)
    begin = time.perf_counter()
    with path.open("wb") as file:
        for first in range(0, num_pages, FILL_PAGES):
            data[: num_pages - first].tofile(file)
        file.flush()
        os.fsync(file.fileno())
    seconds = time.perf_counter() - begin
    path.unlink()
    return seconds


def _watch(setting: Setting, store: DurableStore, root: Path, pages: NDArray[np.int64], name: str) -> Watched:
    """Keep a version while a process reads and this one writes."""
    context = multiprocessing.get_context("spawn")
    near, far = context.Pipe()
    process = context.Process(target=read_until_told, args=(far, root, setting.keep_words), daemon=True)
    process.start()
    near.recv()
    batches = [apart(row, _some_words()) for row in _starts_in(pages)]
    _write_for(store, batches, 2 * setting.seconds)
    called = time.perf_counter()
    store.create_version(name)
    kept = time.perf_counter()
    thread = threading.Thread(target=store.checkpoint)
    thread.start()
    while thread.is_alive():
        _write_for(store, batches, 0.01)
    done = time.perf_counter()
    _write_for(store, batches, 2 * setting.seconds)
    near.send("stop")
    begin, seconds = near.recv()
    process.join()
    store.drop_version(name)
    return Watched(begin, seconds, called, kept, done)


def read_until_told(pipe: Connection, root: Path, num_words: int) -> None:
    """Read batches of 256 ranges, and say when each began and how long it took."""
    memory = MappedMemory(root)
    memory.verify_all()
    batches, length = starts(num_words, 256, READ_RANGES), np.full(READ_RANGES, RANGE_WORDS)
    memory.read(batches[0], length)
    pipe.send("ready")
    times = [time.perf_counter()]
    while not pipe.poll():
        memory.read(batches[len(times) % len(batches)], length)
        times.append(time.perf_counter())
    taken = np.array(times)
    pipe.send((taken[:-1], np.diff(taken)))


def _write_for(store: DurableStore, batches: list, seconds: float) -> None:
    end, turn = time.perf_counter() + seconds, 0
    while time.perf_counter() < end:
        store.write_many(batches[turn % len(batches)])
        turn += 1


def _starts_in(pages: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.random.default_rng(3).choice(pages, (64, 32)) * PAGE_WORDS


def _some_words() -> NDArray[np.uint32]:
    return np.random.default_rng(4).integers(0, 1 << 32, (32, PAGE_WORDS), np.uint32)


def _latency_lines(row: str, watched: list[Watched]) -> list[Comparison]:
    """Reads during keep and checkpoint against reads before and after."""
    phases = [one.phases() for one in watched]
    lines = [compare_times(row, [one.kept - one.called for one in watched], [one.done - one.kept for one in watched],
                           "keep beside reads and writes", "the checkpoint behind it")]  # fmt: skip
    for name, figure in (("p99", 99), ("longest", 100)):
        during, *others = (
            [float(np.percentile(one[when], figure)) for one in phases] for when in ("during", "before", "after")
        )
        for when, other in zip(("before", "after"), others, strict=True):
            lines.append(compare_times(row, during, other, f"{name} read during keep", f"{name} read {when}"))
    return lines
