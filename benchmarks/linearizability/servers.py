"""Those who keep the memory: each the main function of a process that is killed, paused and started again."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from actors.memory.coordinator import Coordinator, FileCoordinator
from actors.memory.replica import Replica
from actors.memory.replica_config import ReplicaConfig
from actors.memory.server import MemoryServer
from leworld.errors import StoreError
from leworld.memory.pages import WordPages
from leworld.memory.ranges import Ints, expand
from leworld.store.durable_store import DurableStore, StoreConfig
from leworld.store.shared_state import SharedState

from .clients import Seen, Work, work
from .records import ADDRESS_BITS
from .stage import TRY_AGAIN

STORE = StoreConfig(policy="os", segment_bytes=1 << 18)
"""Checkpointer are frequent. A process that is killed loses nothing with this policy, either."""
DAWDLES = 0.03
"""Share of writes that last long; ``LONGEST_S`` is the most they do."""
LONGEST_S = 0.005
LEASE_S = 0.5
PEER_TIMEOUT_S = 0.6


def dawdle(shared: NDArray[np.int64]) -> None:
    """Have some writes of this process last long: it waits between half of the words and the others.

    Else this happens only where a process is interrupted just there. ``shared[1]`` is 1 meanwhile.
    """
    random, scatter, begin = np.random.default_rng(), WordPages.scatter, SharedState.begin
    shared[1] = 0

    def wait() -> None:
        shared[1] = 1
        time.sleep(random.uniform(0, LONGEST_S))
        shared[1] = 0

    def scatter_slowly(arena: WordPages, start: Ints, length: Ints, words: NDArray[np.uint32]) -> None:
        if random.random() >= DAWDLES:
            scatter(arena, start, length, words)
            return
        addresses, half = expand(start, length)[0], int(random.integers(0, len(words) + 1))
        arena.words[addresses[:half]] = words[:half]
        wait()
        arena.words[addresses[half:]] = words[half:]

    def begin_slowly(state: SharedState, sequence: int, pages: Ints) -> None:
        begin(state, sequence, pages)
        if random.random() < DAWDLES / 4:
            wait()

    WordPages.scatter, SharedState.begin = scatter_slowly, begin_slowly  # type: ignore[method-assign]


def write_mapped(root: Path, tasks: Sequence[Work]) -> None:
    """Open a memory, and have threads write it, and read it, in this process."""
    dawdle(tasks[0].shared)
    store = DurableStore.open_or_create(root, ADDRESS_BITS, STORE)
    threads = [threading.Thread(target=work, args=(task, store)) for task in tasks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    store.close()


def serve_memory(root: Path, port: Path, shared: NDArray[np.int64]) -> None:
    """Serve a memory."""
    dawdle(shared)
    server = MemoryServer(DurableStore.open_or_create(root, ADDRESS_BITS, STORE)).start()
    put(port, port_of(server.address))
    _for_ever()


def serve_replica(
    root: Path, name: str, port: Path, advertised: str, ways: Mapping[str, str], cut: Path, shared: NDArray[np.int64]
) -> None:
    """Serve a copy, which is ``advertised`` at an address that leads here; it sees no directory while ``cut`` exists.

    Args:
        root: of all copies.
        name: of this one.
        port: the file for its port.
        advertised: its address.
        ways: by the address of a copy, that of a link by which only this copy asks that one.
        cut: see above.
        shared: see ``dawdle``.
    """
    dawdle(shared)
    directory = CutDirectory(FileCoordinator(root / "directory"), ways, cut)
    config = ReplicaConfig("s", name, ADDRESS_BITS, STORE, lease_s=LEASE_S, timeout_s=PEER_TIMEOUT_S)
    replica = Replica(root / name, directory, config)
    put(port, port_of(replica.server.address))
    replica.server.address = advertised
    try:
        replica.start()
    except OSError:
        # Without a directory it cannot start: it is tried again.
        os._exit(TRY_AGAIN)
    _for_ever()


class CutDirectory(Seen):
    """A directory with other addresses that cannot be reached while a file exists."""

    def __init__(self, directory: Coordinator, ways: Mapping[str, str], cut: Path) -> None:
        super().__init__(directory, ways)
        self._cut = cut

    def load(self, name: str) -> bytes | None:
        """See ``Coordinator``."""
        self._check()
        return super().load(name)

    def store(self, name: str, version: int, raw: bytes) -> bool:
        """See ``Coordinator``."""
        self._check()
        return super().store(name, version, raw)

    def seed(self, name: str, raw: bytes) -> bool:
        """See ``Coordinator``."""
        self._check()
        return super().seed(name, raw)

    def _check(self) -> None:
        if self._cut.exists():
            raise StoreError("the directory cannot be reached")


def put(path: Path, text: str) -> None:
    """Replace a small file; whoever reads it sees the old text or the new one."""
    new = path.with_name(f"{path.name}.{os.getpid()}.new")
    new.write_text(text, encoding="utf-8")
    os.replace(new, path)


def port_of(address: str) -> str:
    """The port of an address."""
    return address.rsplit(":", 1)[1]


def client(task: Work, connect: Callable[[np.random.Generator], object]) -> None:
    """Connect, and work."""
    work(task, connect(np.random.default_rng([task.seed, task.number, 1])))  # type: ignore[arg-type]


def _for_ever() -> None:
    while True:
        signal.pause()
