"""Ray: memories in actors, read in batches."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import cycle
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cluster.raylink.session import prepare_environment
from leworld.memory import PAGE_WORDS, WordStore
from store_speed.setting import RANGE_WORDS, bits_for, need, starts

_STORE_BYTES = 1 << 29
CHUNK_PAGES = 1 << 13
DEPTH = 2
"""Calls under way for each actor, so that it does not wait for the one who asks."""


@contextmanager
def ray_session() -> Iterator[Any]:
    """Ray, started here and ended after."""
    # Without it Ray gives its workers a lower priority than everybody else has, and leaves a token behind.
    prepare_environment(None)
    ray = need("ray")
    ray.init(
        "local",
        num_cpus=2,
        include_dashboard=False,
        object_store_memory=_STORE_BYTES,
        log_to_driver=False,
        logging_level=logging.ERROR,
    )
    try:
        yield ray
    finally:
        ray.shutdown()


class Shard:
    """A part of a memory in a process of its own."""

    def __init__(self, num_words: int) -> None:
        self._store = WordStore(bits_for(num_words))
        content = np.random.default_rng(0).integers(0, 1 << 32, (CHUNK_PAGES, PAGE_WORDS), np.uint32)
        for first in range(0, num_words // PAGE_WORDS, CHUNK_PAGES):
            pages = np.arange(first, min(first + CHUNK_PAGES, num_words // PAGE_WORDS))
            self._store.write(pages * PAGE_WORDS, content[: len(pages)])

    def read(self, start: NDArray[np.int64]) -> NDArray[np.uint32]:
        """The words of ranges of 1 KiB."""
        return self._store.read(start, np.full(len(start), RANGE_WORDS)).words


class RayShards:
    """Two actors with half of a memory each, asked for batches of ranges."""

    def __init__(self, ray: Any, num_words: int, ranges: int) -> None:
        self._ray = ray
        shard = ray.remote(Shard)
        # No CPUs: those of two memories are up, and only one memory's work.
        self._shards = [shard.options(num_cpus=0).remote(num_words // 2) for _ in range(2)]
        self._batches = cycle(starts(num_words // 2, 16, ranges))

    def rate(self, seconds: float) -> float:
        """Ranges a second of both at once."""
        waiting = {self._ask(shard): shard for shard in self._shards for _ in range(DEPTH)}
        count, begin = 0, time.perf_counter()
        while waiting:
            (done,), _ = self._ray.wait(list(waiting))
            shard = waiting.pop(done)
            count += len(self._ray.get(done)) // RANGE_WORDS
            if time.perf_counter() - begin < seconds:
                waiting[self._ask(shard)] = shard
        return count / (time.perf_counter() - begin)

    def _ask(self, shard: Any) -> Any:
        return shard.read.remote(next(self._batches))
