"""What ``leworld memory bench`` lets take turns: reads, writes, and the same without a memory.

Shapes:
    B: batches.  R: ranges a batch.  P: pages.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from itertools import count, cycle
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cluster.memory.speed.turns import Turn, timed_turn
from leworld.memory import PAGE_WORDS, Reader, Words
from leworld.store.durable_store import DurableStore, Write

BLOCKS = 32
"""Written together."""
BATCHES = 16
FILL_PAGES = 1 << 14
FLOOR_BYTES = 64 << 20
"""Where a bare file begins anew, as a journal does."""


@dataclass(frozen=True)
class Plan:
    """Which ranges are read: ``num_ranges`` of ``length`` words at a time, at random places of some pages.

    Attributes:
        num_words: of the memory.
        pages: a file of the numbers of the pages; empty where all up to ``num_words`` are meant.
        seed: of the places.
    """

    num_words: int
    length: int
    num_ranges: int
    pages: str = ""
    seed: int = 0

    @staticmethod
    def of_text(text: str) -> Plan:
        """Inverse of ``text``."""
        return Plan(**json.loads(text))

    def text(self) -> str:
        """As one argument of a process."""
        return json.dumps(asdict(self))

    def starts(self) -> NDArray[np.int64]:
        """(B, R) where the ranges begin."""
        rng, shape = np.random.default_rng(self.seed), (BATCHES, self.num_ranges)
        if not self.pages:
            return rng.integers(0, self.num_words - self.length + 1, shape)
        chosen = rng.choice(np.load(self.pages), shape) * PAGE_WORDS + rng.integers(0, PAGE_WORDS, shape)
        return np.minimum(chosen, self.num_words - self.length)


def fill(store: DurableStore, num_words: int) -> None:
    """Write random words to the first pages of a memory."""
    content = np.random.default_rng(0).integers(1, 1 << 32, (FILL_PAGES, PAGE_WORDS), np.uint32)
    for first in range(0, num_words // PAGE_WORDS, FILL_PAGES):
        pages = np.arange(first, min(first + FILL_PAGES, num_words // PAGE_WORDS))
        words = content[: len(pages)] ^ np.uint32(first)
        blocks = Words(words.reshape(-1), np.arange(len(pages) + 1) * PAGE_WORDS)
        store.write_many([Write(pages * PAGE_WORDS, blocks)])


def reads(memory: Reader, plan: Plan, *, warm: bool = False) -> Callable[[], int]:
    """Reads of a batch; with ``warm`` each was read, and so verified, before."""
    starts, length = plan.starts(), np.full(plan.num_ranges, plan.length)
    for row in starts if warm else ():
        memory.read(row, length)
    batches = cycle(starts)
    return lambda: len(memory.read(next(batches), length).offsets) - 1


def gathers(words: Path, plan: Plan) -> Callable[[], int]:
    """The same ranges taken by numpy out of the mapped file, which nobody looks at."""
    mapped = np.memmap(words, "<u4", "r", shape=(plan.num_words,))
    windows = np.lib.stride_tricks.sliding_window_view(mapped, plan.length)
    batches = cycle(plan.starts())
    return lambda: len(windows[next(batches)])


@dataclass(frozen=True)
class Blocks:
    """What is written: (B, 32) ``starts`` of blocks, and the words of (32, L) of them."""

    starts: NDArray[np.int64]
    words: NDArray[np.uint32]

    @staticmethod
    def within(first: int, num_words: int, length: int) -> Blocks:
        """Blocks of ``length`` words in the stretch from ``first`` on, none over another if there is room."""
        rng, places = np.random.default_rng(1), num_words // length
        rows = [np.sort(rng.choice(places, BLOCKS, replace=places < BLOCKS)) for _ in range(BATCHES)]
        return Blocks(first + np.array(rows) * length, rng.integers(0, 1 << 32, (BLOCKS, length), np.uint32))

    def together(self) -> Iterator[list[Write]]:
        """One write of all blocks of a batch, for ever."""
        length = self.words.shape[1]
        blocks = Words(self.words.reshape(-1), np.arange(BLOCKS + 1) * length)
        return cycle([[Write(row, blocks)] for row in self.starts])

    def apart(self) -> Iterator[list[Write]]:
        """A write of each block of a batch, for ever."""
        offsets = np.array([0, self.words.shape[1]])
        rows = ([Write(row[i : i + 1], Words(self.words[i], offsets)) for i in range(BLOCKS)] for row in self.starts)
        return cycle(list(rows))


def writes(store: DurableStore, batches: Iterator[list[Write]], *, one_by_one: bool) -> Callable[[], int]:
    """Writes of a batch, acknowledged together or each before the next one."""

    def write() -> int:
        batch = next(batches)
        for part in [[each] for each in batch] if one_by_one else [batch]:
            store.write_many(part)
        return BLOCKS

    return write


def floor(file: int, block_bytes: int, *, parts: int, synced: bool) -> Callable[[], int]:
    """Bare appends of as many bytes to an open file as 32 blocks have, in parts, each synced or none."""
    data = np.random.default_rng(2).bytes(block_bytes * BLOCKS // parts)
    written = 0

    def write() -> int:
        nonlocal written
        for _ in range(parts):
            os.write(file, data)
            if synced:
                os.fdatasync(file)
        written += parts * len(data)
        if written > FLOOR_BYTES:
            os.ftruncate(file, 0)
            written = 0
        return BLOCKS

    return write


def keeps(store: DurableStore, blocks: Blocks) -> Turn:
    """Keeping a version, each time after a write, and dropping it after, which do not count."""
    batches, names = blocks.together(), count()

    def keep() -> float:
        store.write_many(next(batches))
        name = str(next(names))
        begin = time.perf_counter()
        store.create_version(name)
        seconds = time.perf_counter() - begin
        store.drop_version(name)
        return seconds

    return timed_turn(keep)
