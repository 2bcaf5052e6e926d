"""Rows of reads: a process alone, processes at once, and single pages by key.

Shapes:
    B: batches.  R: ranges a batch.
"""

from __future__ import annotations

import subprocess
import time
import zlib
from collections.abc import Callable
from contextlib import ExitStack
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from leworld.memory import PAGE_WORDS, Reader, Words, WordStore
from leworld.store.durable_store import DurableStore
from leworld.store.layout import Layout
from leworld.store.mapped_memory import STRIPE_WORDS, MappedMemory
from store_speed import lmdb_peer, redis_peer
from store_speed.ray_peer import RayShards, ray_session
from store_speed.rounds import Comparison, Rate, against_goal, compare_rates, compare_times, interleave, rate_of
from store_speed.setting import (
    RANGE_BYTES,
    RANGE_WORDS,
    SMALL_WORDS,
    MissingRivalError,
    Setting,
    bits_for,
    python_module,
    say,
    size_name,
    starts,
    warm,
)  # fmt: skip
from store_speed.team import Team

BATCH = 8192
BATCHES = 32
READERS = 2
REVERB_ITEMS = 1 << 14
RAY = "Ray, 2 actors"
ELEMENTWISE, ROWS, MAPPED_ROWS = "numpy, elementwise", "numpy, rows of windows", "numpy, rows of windows of the file"
OWN = ("WordStore", "MappedMemory, all verified", "MappedMemory, verified at touch", "DurableStore")


def gather_rows(setting: Setting) -> list[Comparison]:
    """One process: memories against bare gathers."""
    return [line for num_words in (SMALL_WORDS, setting.large_words) for line in _gather_lines(setting, num_words)]


def _gather_lines(setting: Setting, num_words: int) -> list[Comparison]:
    root, row = setting.filled(num_words), f"gather, {size_name(num_words)}"
    say(row)
    first = starts(num_words, BATCHES, BATCH)
    flat = np.fromfile(Layout(root).words, np.uint32, num_words)
    verified, touched = MappedMemory(root), MappedMemory(root)
    verified.verify_all()
    with DurableStore(root) as durable:
        owned = (word_store(flat), verified, touched, durable)
        checked = _time(lambda: touch_all(touched, num_words)), _time(lambda: touch_all(durable, num_words))
        rivals = {name: reader(memory.read, first) for name, memory in zip(OWN, owned, strict=True)}
        rivals[ELEMENTWISE] = bare(lambda start: flat[start[:, None] + np.arange(RANGE_WORDS)], first)
        for name, words in ((ROWS, flat), (MAPPED_ROWS, verified.arena.words)):
            windows = windows_of(words)
            rivals[name] = bare(windows.__getitem__, first)
        rates = interleave(rivals, 3 * setting.rounds, setting.seconds / 6)
    lines = [
        compare_rates(row, "ranges/s", rates, ours, rival, goal=0.8) for rival in (ELEMENTWISE, ROWS) for ours in OWN
    ]
    lines += [compare_rates(row, "ranges/s", rates, ours, MAPPED_ROWS) for ours in OWN[1:]]
    summed = [_time(lambda: sum_all(flat)) for _ in checked]
    return [*lines, compare_times(row, checked, summed, "first touch of every stripe", "zlib.crc32 of each page")]


def touch_all(memory: Reader, num_words: int) -> None:
    """Read a word of every stripe, so that its checksums are looked at and the system has mapped it."""
    first = np.arange(0, num_words, STRIPE_WORDS)
    memory.read(first, np.ones_like(first))


def sum_all(flat: NDArray[np.uint32]) -> int:
    """The checksums of all pages, without a memory around them."""
    return sum(zlib.crc32(page.data) for page in flat.reshape(-1, PAGE_WORDS))


def _time(call: Callable[[], object]) -> float:
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


def word_store(flat: NDArray[np.uint32]) -> WordStore:
    """A memory of one process with these words."""
    store = WordStore(bits_for(len(flat)))
    pages = flat.reshape(-1, PAGE_WORDS)
    for first in range(0, len(pages), BATCH):
        chunk = pages[first : first + BATCH]
        store.write(np.arange(first, first + len(chunk)) * PAGE_WORDS, chunk)
    return store


def windows_of(words: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """A view whose row a is the range from word a on: what fancy indexing copies a row at a time."""
    return np.lib.stride_tricks.sliding_window_view(words, RANGE_WORDS)


def reader(read: Callable[..., Words], first: NDArray[np.int64]) -> Rate:
    """Reads of (B, R) batches of ranges of 1 KiB."""
    batches, length = cycle(first), np.full(first.shape[1], RANGE_WORDS)
    return lambda seconds: rate_of(lambda: len(read(next(batches), length).words) // RANGE_WORDS, seconds)


def bare(take: Callable[[NDArray[np.int64]], NDArray[Any]], first: NDArray[np.int64]) -> Rate:
    """The same without a memory around it."""
    batches = cycle(first)
    return lambda seconds: rate_of(lambda: len(take(next(batches))), seconds)


def mapped_reader(number: int, root: Path, num_words: int) -> Rate:
    """Reads of a process of a team, of a memory that it has verified."""
    memory = MappedMemory(root)
    memory.verify_all()
    return reader(memory.read, starts(num_words, BATCHES, BATCH, seed=number))


def reader_rows(setting: Setting) -> list[Comparison]:
    """Processes at once: mapped pages against Redis and Ray."""
    rivals: dict[str, Rate] = {}
    lines, row = [], f"{READERS} readers"
    with ExitStack() as stack:
        for num_words in (SMALL_WORDS, setting.large_words):
            team = Team(mapped_reader, setting.filled(num_words), num_words, members=READERS)
            rivals[f"MappedMemory, {size_name(num_words)}"] = stack.enter_context(team).rate
        ours = list(rivals)
        for enter in (_enter_redis, _enter_redis_benchmark, _enter_ray):
            try:
                rivals |= enter(stack, setting)
            except MissingRivalError as error:
                lines.append(Comparison(row, ours[0], enter.__name__.removeprefix("_enter_"), note=str(error)))
        say(row)
        rates = interleave(rivals, setting.rounds, setting.seconds)
    for name in ours:
        lines.append(against_goal(row, "ranges/s", rates, name, 2e6))
        lines += [compare_rates(row, "ranges/s", rates, name, rival, goal=5) for rival in rivals if "Redis" in rival]
    for name, rival in zip(ours, (rival for rival in rivals if RAY in rival), strict=False):
        lines.append(compare_rates(row, "ranges/s", rates, name, rival, goal=3))
    return lines


def _enter_redis(stack: ExitStack, setting: Setting) -> dict[str, Rate]:
    """Ranges at random bytes of one string, from processes of Python with hiredis' parser."""
    server = stack.enter_context(redis_peer.RedisServer(setting.directory / "redis-ranges"))
    redis_peer.set_memory(server.socket, SMALL_WORDS * 4)
    team = stack.enter_context(Team(redis_peer.range_reader, server.socket, SMALL_WORDS * 4, members=READERS))
    return {"Redis, hiredis, socket": team.rate}


def _enter_redis_benchmark(stack: ExitStack, setting: Setting) -> dict[str, Rate]:
    """Whole strings of 1 KiB, from processes of Redis' own client."""
    keys = SMALL_WORDS * 4 // RANGE_BYTES
    server = stack.enter_context(redis_peer.RedisServer(setting.directory / "redis-pages"))
    redis_peer.set_pages(server.socket, keys)
    command = ["GETRANGE", "key:__rand_int__", "0", str(RANGE_BYTES - 1)]
    load = {"keys": keys, "processes": READERS, "connections": redis_peer.CONNECTIONS}
    places = {"socket": ["-s", server.socket], "TCP": ["-p", str(server.port)]}
    return {
        f"Redis, its own client, {name}": redis_peer.RedisBenchmark(
            setting.redis_benchmark, place, command, **load
        ).rate
        for name, place in places.items()
    }  # fmt: skip


def _enter_ray(stack: ExitStack, setting: Setting) -> dict[str, Rate]:
    """Batches of ranges from two actors that hold half of a memory each, in a WordStore."""
    ray = stack.enter_context(ray_session())
    sizes = (SMALL_WORDS, setting.large_words)
    return {f"{RAY}, {size_name(num_words)}": RayShards(ray, num_words, BATCH).rate for num_words in sizes}


def point_rows(setting: Setting) -> list[Comparison]:
    """One process: pages by number, against LMDB and Reverb."""
    num_words, row = setting.large_words, f"pages by key, {size_name(setting.large_words)}"
    first = starts(num_words, BATCHES, BATCH, aligned=True)
    memory = MappedMemory(setting.filled(num_words))
    memory.verify_all()
    ours = "MappedMemory"
    rivals: dict[str, Rate] = {ours: reader(memory.read, first)}
    lines = []
    with ExitStack() as stack:
        for enter in (_enter_lmdb, _enter_reverb):
            try:
                rivals |= enter(stack, setting, first)
            except MissingRivalError as error:
                lines.append(Comparison(row, ours, enter.__name__.removeprefix("_enter_"), note=str(error)))
        say(row)
        rates = interleave(rivals, setting.rounds, setting.seconds / 2)
    return [compare_rates(row, "pages/s", rates, ours, rival) for rival in rivals if rival != ours] + lines


def _enter_lmdb(stack: ExitStack, setting: Setting, first: NDArray[np.int64]) -> dict[str, Rate]:
    num_pages = setting.large_words // PAGE_WORDS
    pages = stack.enter_context(lmdb_peer.LmdbPages(setting.directory / "lmdb-reads", num_pages, lazy=True))
    say("filling LMDB")
    pages.fill(num_pages)
    warm(setting.directory / "lmdb-reads")
    ways = {"get": "LMDB, get", "view": "LMDB, get without a copy", "many": "LMDB, getmulti"}
    return {name: pages.reader(first, way) for way, name in ways.items()}


def _enter_reverb(stack: ExitStack, setting: Setting, _: NDArray[np.int64]) -> dict[str, Rate]:
    """Uniform samples of items of 1 KiB by its data set, server and client in one process of its own."""
    if setting.reverb is None:
        raise MissingRivalError(
            "dm-reverb 0.14 needs TensorFlow 2.15, which needs numpy 1: install dm-reverb[tensorflow] into an"
            " environment of its own and give its Python: --reverb PYTHON"
        )
    line = python_module("reverb_peer", REVERB_ITEMS, python=setting.reverb)
    process = stack.enter_context(
        subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    )
    asked, said = process.stdin, process.stdout
    assert asked is not None
    assert said is not None
    if said.readline().strip() != "ready":
        raise MissingRivalError(f"{setting.reverb} cannot run dm-reverb: install dm-reverb[tensorflow] for it")

    def rate(seconds: float) -> float:
        print(seconds, file=asked, flush=True)
        return float(said.readline())

    return {"Reverb, its data set": rate}
