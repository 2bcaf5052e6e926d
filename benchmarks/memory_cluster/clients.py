"""Clients in processes of their own: some whose histories are checked, one that measures, and checks pages by heart.

Shapes:
    P: pages.
"""

from __future__ import annotations

import faulthandler
import json
import logging
import os
import signal
import threading
import time
from collections.abc import Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
from linearizability.checker import Ints
from linearizability.clients import Work, work
from linearizability.records import LENGTHS, Keys, block
from numpy.typing import NDArray

from leworld.errors import LeWorldError

BITS = 24
STRIPE_WORDS = 1 << 14
FILLED = slice(1, 27)
"""Pages of each stripe, of 64, that are filled at first, and never written again."""
MIDDLE = 50 * 256
SLOTS = 16
STOP, FULL_SPEED = 0, 1
"""Places in the numbers that all share; from 2 on, operations of each client."""
PROBE_S = 0.05
TIMEOUT_S = 120.0
READ_PAGES = 8
PROBES = 1 << 21
UNKNOWN = -1


def some_keys(count: int) -> Keys:
    """Ranges all over the memory, each in one stripe, some of them next to each other."""
    length, number = np.resize(np.array(LENGTHS, np.int64), count), np.arange(count)
    # Of two in a stripe the second one begins where the first one ends, behind the pages that are filled.
    middle = number // 2 * 31 % ((1 << BITS) // STRIPE_WORDS) * STRIPE_WORDS + MIDDLE
    return Keys(middle - np.where(number % 2, 0, length), length)


def filled_pages() -> Ints:
    """(P,) those that are filled at first."""
    pages = np.arange((1 << BITS) // 256).reshape(-1, STRIPE_WORDS // 256)
    return pages[:, FILLED].reshape(-1)


def words_of(pages: Ints) -> NDArray[np.uint32]:
    """(P, 256) what is in them."""
    return np.stack([block(int(page) + (1 << 30), 256) for page in pages])


def own_words(value: int) -> NDArray[np.uint32]:
    """(256,) what is in a page of the one that measures."""
    return block(value, 256) if value else np.zeros(256, np.uint32)


def shared_numbers(path: Path) -> Ints:
    """What all clients look at: ``STOP``, ``FULL_SPEED`` and their counts."""
    return np.memmap(path, np.int64, "r+" if path.exists() else "w+", shape=(2 + SLOTS,))


def run(role: str, number: int, root: Path, address: str, name: str, rate: float, seed: int) -> None:
    """A client's process.

    Args:
        role: "history" or "probe".
        number: of the client.
        root: folder of the run.
        address: of the cluster.
        name: of the memory.
        rate: operations a second of a history's client.
        seed: of what it does.
    """
    import ray

    faulthandler.register(signal.SIGUSR1, (root / f"{number}.stacks").open("w"))
    ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    (root / f"{number}.here").touch()
    while not (root / "go").exists():
        time.sleep(0.1)
    from actors.memory_cluster.cluster_memory import ClusterMemory

    shared = shared_numbers(root / "shared")
    memory = ClusterMemory(name).client(TIMEOUT_S)
    begin = _open_things()
    if role == "probe":
        probe(memory, shared, root, seed)
    else:
        work(Work(root / "histories", some_keys(96), number, number, shared, rate, 0.4, seed), memory)
    (root / f"{number}.things").write_text(json.dumps([begin, _open_things()]), encoding="utf-8")
    memory.close()
    ray.shutdown()


def probe(memory: Any, shared: Ints, root: Path, seed: int) -> None:
    """Read filled pages and write and read some of its own, one after another, and note down how long each took."""
    random, pages, wrong = np.random.default_rng([seed, 99]), filled_pages(), list[str]()
    failed = list[str]()
    own = np.setdiff1d(np.arange(0, (1 << BITS) // 256, 64) + 60, pages)
    held = np.zeros(len(own), np.int64)
    rows, count = np.memmap(root / "probe.rows", np.int64, "w+", shape=(PROBES, 3)), 0
    while not shared[STOP] and count < PROBES:
        begin, kind, at = time.monotonic_ns(), count % 2, int(random.integers(len(own)))
        try:
            if kind:
                # Until it is acknowledged nobody knows.
                held[at] = UNKNOWN
                memory.write(own[at : at + 1] * 256, block(count + 1, 256)[None])
                held[at] = count + 1
            else:
                chosen = random.choice(pages, READ_PAGES - 1)
                found = memory.read(np.append(chosen, own[at]) * 256, np.full(READ_PAGES, 256)).words.reshape(-1, 256)
                if not np.array_equal(found[:-1], words_of(chosen)):
                    wrong.append(f"pages {chosen.tolist()}: not what was written")
                if held[at] != UNKNOWN and not np.array_equal(found[-1], own_words(int(held[at]))):
                    wrong.append(f"page {own[at]}: not what was written last")
        except LeWorldError as error:
            failed.append(str(error))
        rows[count] = begin, time.monotonic_ns(), kind
        count += 1
        if not shared[FULL_SPEED]:
            time.sleep(PROBE_S)
    np.save(root / "probe-held.npy", np.stack([own, held]))
    (root / "probe.json").write_text(json.dumps({"count": count, "wrong": wrong, "failed": failed}), encoding="utf-8")


def _open_things() -> dict[str, int]:
    """Threads, sockets and other files of this process."""
    return {"threads": len(os.listdir("/proc/self/task")), "files": len(os.listdir("/proc/self/fd")),
            "python threads": threading.active_count()}  # fmt: skip


def wait_for(processes: Sequence[BaseProcess], root: Path, seconds: float) -> list[str]:
    """Wait for their end; who did not end, and where it is, or ended badly."""
    end, wrong = time.monotonic() + seconds, []
    for number, process in enumerate(processes):
        process.join(max(0.0, end - time.monotonic()))
        if process.exitcode is None and process.pid is not None:
            os.kill(process.pid, signal.SIGUSR1)
            time.sleep(1)
            stacks = (root / f"{number}.stacks").read_text(encoding="utf-8")
            wrong.append(f"{process.name} did not end; it is here:\n{stacks}")
            process.kill()
        elif process.exitcode:
            wrong.append(f"{process.name} ended with {process.exitcode}")
    return wrong
