"""Rows of acknowledged writes of blocks of 1 KiB, 32 at a time.

Shapes:
    B: batches.  R: blocks a batch.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from itertools import cycle

import numpy as np
from numpy.typing import NDArray

from leworld.memory import PAGE_WORDS, Words
from leworld.store.durable_store import DurableStore, StoreConfig, Write
from store_speed.lmdb_peer import LmdbPages
from store_speed.redis_peer import PIPELINE, RedisBenchmark, RedisServer, range_writer, set_memory
from store_speed.rounds import Comparison, Rate, compare_rates, interleave, rate_of, settle_disk
from store_speed.setting import RANGE_BYTES, MissingRivalError, Setting, bits_for, say, starts

BATCHES = 1024
"""As many other pages as a second of writing touches, so that most are new to the journal's segment."""
NUM_WORDS = 1 << 24
MakeBatch = Callable[[NDArray[np.int64], NDArray[np.uint32]], list[Write]]
"""Of (R,) starts and (R, 256) words."""
APART, TOGETHER = "DurableStore, 32 writes", "DurableStore, 1 write of 32 blocks"


def write_rows(setting: Setting) -> list[Comparison]:
    """Both promises: within a second on the disk, and before the acknowledgement."""
    return [*_write_lines(setting, "os", "everysec"), *_write_lines(setting, "group", "always")]


def _write_lines(setting: Setting, policy: str, redis_sync: str) -> list[Comparison]:
    row, lines = f"writes, {policy}", []
    first = starts(NUM_WORDS, BATCHES, PIPELINE, aligned=True)
    with ExitStack() as stack:
        rivals = _enter_own(stack, setting, policy, first)
        for enter in (_enter_redis, _enter_redis_benchmark, _enter_lmdb):
            try:
                rivals |= enter(stack, setting, redis_sync, first)
            except MissingRivalError as error:
                lines.append(Comparison(row, APART, enter.__name__.removeprefix("_enter_"), note=str(error)))
        say(row)
        rates = interleave(rivals, setting.rounds, 2 * setting.seconds, settle_disk)
    own = (APART, TOGETHER)
    return [
        compare_rates(row, "blocks/s", rates, ours, rival, goal=1.0 if ours == APART else None)
        for ours in own for rival in rivals if rival not in own
    ] + lines  # fmt: skip


def _enter_own(stack: ExitStack, setting: Setting, policy: str, first: NDArray[np.int64]) -> dict[str, Rate]:
    rivals = {}
    for name, batch_of in ((APART, apart), (TOGETHER, together)):
        root = setting.directory / f"writes-{policy}-{len(rivals)}"
        store = DurableStore.create(root, bits_for(NUM_WORDS), StoreConfig(policy=policy))
        rivals[name] = writer(stack.enter_context(store), first, batch_of)
    return rivals


def writer(store: DurableStore, first: NDArray[np.int64], batch_of: MakeBatch) -> Rate:
    """Writes of (B, R) batches of blocks of 1 KiB."""
    words = np.random.default_rng(2).integers(0, 1 << 32, (first.shape[1], PAGE_WORDS), np.uint32)
    batches = cycle([batch_of(row, words) for row in first])

    def write() -> int:
        store.write_many(next(batches))
        return first.shape[1]

    return lambda seconds: rate_of(write, seconds)


def apart(first: NDArray[np.int64], words: NDArray[np.uint32]) -> list[Write]:
    """A write of its own for each block: each has its record in the journal and its receipt."""
    offsets = np.array([0, PAGE_WORDS])
    return [Write(first[row : row + 1], Words(words[row], offsets)) for row in range(len(first))]


def together(first: NDArray[np.int64], words: NDArray[np.uint32]) -> list[Write]:
    """One write of all blocks."""
    return [Write(first, Words(words.reshape(-1), np.arange(len(first) + 1) * PAGE_WORDS))]


def _enter_redis(stack: ExitStack, setting: Setting, sync: str, _: NDArray[np.int64]) -> dict[str, Rate]:
    """Blocks to random pages of one string, from this process with hiredis' parser."""
    server = stack.enter_context(RedisServer(setting.directory / f"redis-{sync}", sync=sync))
    set_memory(server.socket, NUM_WORDS * 4)
    return {"Redis, hiredis, socket": range_writer(server.socket, NUM_WORDS * 4)}


def _enter_redis_benchmark(stack: ExitStack, setting: Setting, sync: str, _: NDArray[np.int64]) -> dict[str, Rate]:
    """Blocks to strings of 1 KiB, from Redis' own client with one connection."""
    server = stack.enter_context(RedisServer(setting.directory / f"redis-pages-{sync}", sync=sync))
    command = ["SETRANGE", "key:__rand_int__", "0", "x" * RANGE_BYTES]
    keys = NUM_WORDS // PAGE_WORDS
    client = RedisBenchmark(setting.redis_benchmark, ["-s", server.socket], command, keys=keys)
    return {"Redis, its own client, socket": client.rate}


def _enter_lmdb(stack: ExitStack, setting: Setting, sync: str, first: NDArray[np.int64]) -> dict[str, Rate]:
    """Pages put in transactions of 32."""
    num_pages = NUM_WORDS // PAGE_WORDS
    directory = setting.directory / f"lmdb-{sync}"
    pages = stack.enter_context(LmdbPages(directory, num_pages, lazy=sync == "everysec"))
    pages.fill(num_pages)
    return {"LMDB, transactions of 32": pages.writer(first)}
