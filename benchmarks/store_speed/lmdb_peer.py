"""LMDB: pages of 1 KiB under their numbers."""

from __future__ import annotations

import threading
from collections.abc import Callable
from itertools import cycle
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from leworld.memory import PAGE_WORDS
from store_speed.rounds import Rate, rate_of
from store_speed.setting import RANGE_BYTES, need

_SYNC_EVERY_S = 1.0


class LmdbPages:
    """An environment of pages; with ``lazy`` it is brought to the disk once a second, and not at each commit."""

    def __init__(self, directory: Path, num_pages: int, *, lazy: bool = False) -> None:
        directory.mkdir(parents=True)
        # Three values of 1 KiB fit on its page of 4 KiB; pages that are replaced need as much again.
        size = max(1 << 26, num_pages * RANGE_BYTES * 4)
        self._env = need("lmdb").open(str(directory), map_size=size, sync=not lazy)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._sync_often, daemon=True)
        if lazy:
            self._thread.start()

    def __enter__(self) -> LmdbPages:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join()
        self._env.close()

    def fill(self, num_pages: int) -> None:
        """Put a value under each number, in order."""
        data = np.random.default_rng(0).bytes(RANGE_BYTES)
        with self._env.begin(write=True) as transaction:
            for number in range(num_pages):
                transaction.put(_key(number), data, append=True)

    def writer(self, starts: NDArray[np.int64]) -> Rate:
        """Puts of a (B, R) batch of pages a transaction."""
        batches = cycle([[_key(page) for page in row] for row in (starts // PAGE_WORDS).tolist()])
        data = np.random.default_rng(1).bytes(RANGE_BYTES)

        def write() -> int:
            keys = next(batches)
            with self._env.begin(write=True) as transaction:
                for key in keys:
                    transaction.put(key, data)
            return len(keys)

        return lambda seconds: rate_of(write, seconds)

    def reader(self, starts: NDArray[np.int64], way: str) -> Rate:
        """Reads of (B, R) batches of pages in one transaction.

        Args:
            starts: of the pages.
            way: "get": each value as bytes; "view": each as a view of the map, without a copy; "many": a batch in one
                call of a cursor, each value as bytes.
        """
        batches = cycle([[_key(page) for page in row] for row in (starts // PAGE_WORDS).tolist()])
        read = _READS[way]

        def rate(seconds: float) -> float:
            with self._env.begin(buffers=way == "view") as transaction:
                return rate_of(lambda: read(transaction, next(batches)), seconds)

        return rate

    def _sync_often(self) -> None:
        while not self._stopped.wait(_SYNC_EVERY_S):
            self._env.sync(True)


def _get(transaction: Any, keys: list[bytes]) -> int:
    return len([transaction.get(key) for key in keys])


def _get_many(transaction: Any, keys: list[bytes]) -> int:
    return len(transaction.cursor().getmulti(keys))


_READS: dict[str, Callable[[Any, list[bytes]], int]] = {"get": _get, "view": _get, "many": _get_many}


def _key(page: int) -> bytes:
    return page.to_bytes(4, "big")
