"""Those who read and write, each in a process or thread of its own, until they are told to stop."""

from __future__ import annotations

import json
import re
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from actors.memory.client import MemoryClient
from actors.memory.coordinator import Coordinator, ShardState
from actors.memory.shard_client import ClientConfig, ShardClient
from leworld.errors import LeWorldError
from leworld.memory import Words
from leworld.store.mapped_memory import MappedMemory

from .records import ADDRESS_BITS, Keys, Recorder, blocks_of, value_of

COUNTER_BITS = 20
MOST_BURST = 400


class Memory(Protocol):
    """What a client needs of a memory."""

    def read(self, start: Any, length: Any) -> Words: ...

    def write_ragged(self, start: Any, blocks: Words) -> Any: ...


@dataclass(frozen=True)
class Work:
    """What a client does.

    Attributes:
        directory: for what is noted down.
        keys: that it reads and writes.
        number: of the client, unlike all others'; ``slot``: of its counters, unlike those of all who run.
        shared: (2 + slots,) int64 of all processes: whether to stop, whether a write is just being made, then the
            operations by slot.
        rate: operations a second.
        writes: share of writes.
        seed: of what it does.
    """

    directory: Path
    keys: Keys
    number: int
    slot: int
    shared: NDArray[np.int64]
    rate: float
    writes: float
    seed: int

    @property
    def stopped(self) -> bool:
        """Whether it is to end."""
        return bool(self.shared[0])


def work(work: Work, memory: Memory) -> None:
    """Read and write until told to stop; bursts at full speed, then a rest."""
    random, errors = np.random.default_rng([work.seed, work.number]), Counter[str]()
    recorder = Recorder(work.directory / f"{work.number}.rows", work.number)
    # Whoever comes later goes on from what was done by the one before.
    before = int(work.shared[2 + work.slot])
    begin, counter = time.monotonic(), 0
    try:
        while not work.stopped and recorder.has_room:
            for _ in range(int(random.integers(1, MOST_BURST))):
                if work.stopped or not recorder.has_room:
                    break
                keys = _some_keys(random, len(work.keys.start))
                if random.random() < work.writes:
                    values = [(work.number << COUNTER_BITS) + counter + i for i in range(1, len(keys) + 1)]
                    counter += len(keys)
                    write(work.keys, recorder, memory, keys, values, errors)
                elif not read(work.keys, recorder, memory, keys, errors):
                    time.sleep(0.002)
                work.shared[2 + work.slot] = before + recorder.count
            rest = begin + recorder.count / work.rate - time.monotonic()
            while rest > 0 and not work.stopped:
                time.sleep(min(rest, 0.05))
                rest -= 0.05
    finally:
        (work.directory / f"{work.number}.errors").write_text(json.dumps(errors), encoding="utf-8")


def write(
    keys: Keys, recorder: Recorder, memory: Memory, rows: Sequence[int], values: Sequence[int], errors: Counter[str]
) -> bool:
    """Write values to some of the keys, as one write; whether that was acknowledged."""
    chosen = np.asarray(rows)
    blocks = blocks_of(values, keys.length[chosen].tolist())
    at = recorder.begin(rows, values, write=True)
    try:
        memory.write_ragged(keys.start[chosen], blocks)
    except LeWorldError as error:
        # Whatever is said: another copy may have it, or the journal.
        recorder.unknown(at)
        errors[_kind(error)] += 1
        return False
    recorder.done(at, time.monotonic_ns(), values)
    return True


def read(keys: Keys, recorder: Recorder, memory: Memory, rows: Sequence[int], errors: Counter[str]) -> bool:
    """Read some of the keys; whether there was an answer."""
    chosen = np.asarray(rows)
    at = recorder.begin(rows, [0] * len(rows), write=False)
    try:
        found = memory.read(keys.start[chosen], keys.length[chosen])
    except LeWorldError as error:
        recorder.forget(at)
        errors[_kind(error)] += 1
        return False
    moment, offsets = time.monotonic_ns(), found.offsets.tolist()
    words = [found.words[i:j] for i, j in pairwise(offsets)]
    recorder.done(at, moment, [value_of(each) for each in words])
    return True


def read_all(work: Work, memory: Memory, seconds: float) -> bool:
    """Read every key, if need be again and again; whether there was an answer to each."""
    recorder, errors = Recorder(work.directory / f"{work.number}.rows", work.number), Counter[str]()
    end = time.monotonic() + seconds
    for key in range(len(work.keys.start)):
        while not read(work.keys, recorder, memory, [key], errors):
            if time.monotonic() > end:
                return False
            time.sleep(0.05)
    return True


def _some_keys(random: np.random.Generator, count: int) -> list[int]:
    """One key mostly, a few sometimes; half of the time of the first ones, where many meet."""
    most = count if random.random() < 0.5 else max(1, count // 8)
    if random.random() < 0.8:
        return [int(random.integers(0, most))]
    return random.choice(most, min(most, int(random.integers(2, 5))), replace=False).tolist()


def _kind(error: LeWorldError) -> str:
    return type(error).__name__ + ": " + re.sub(r"\d+", "#", re.sub(r"\S*/\S*", "PATH", str(error)))[:100]


@dataclass
class Beside:
    """Whichever memory of several is read beside its writer, through the disk."""

    roots: Sequence[Path]
    random: np.random.Generator
    _open: dict[Path, MappedMemory] = field(default_factory=dict)

    def read(self, start: Any, length: Any) -> Words:
        """Of any of them: one that may be out of date has to refuse."""
        root = self.roots[int(self.random.integers(0, len(self.roots)))]
        if root not in self._open or self.random.random() < 0.01:
            try:
                verify = ("touch", "always", "never")[int(self.random.integers(0, 3))]
                self._open[root] = MappedMemory(root, verify=verify)
            except OSError as error:
                if isinstance(error, LeWorldError):
                    raise
                # A directory that is just being made or deleted.
                raise LeWorldError(f"{root}: {type(error).__name__}") from None
        try:
            return self._open[root].read(start, length)
        except LeWorldError:
            del self._open[root]
            raise

    def write_ragged(self, start: Any, blocks: Words) -> Any:
        """Not meant."""
        raise NotImplementedError


@dataclass
class Lazy:
    """A memory that is connected to when it is first needed; of several, any one each time."""

    addresses: Sequence[str]
    timeout_s: float
    random: np.random.Generator
    _clients: dict[str, MemoryClient] = field(default_factory=dict)

    def read(self, start: Any, length: Any) -> Words:
        """See ``MemoryClient.read``."""
        return self._some().read(start, length)

    def write_ragged(self, start: Any, blocks: Words) -> Any:
        """See ``MemoryClient.write_ragged``."""
        return self._some().write_ragged(start, blocks)

    def _some(self) -> MemoryClient:
        address = self.addresses[int(self.random.integers(0, len(self.addresses)))]
        if address not in self._clients:
            self._clients[address] = MemoryClient(address, timeout_s=self.timeout_s, address_bits=ADDRESS_BITS)
        return self._clients[address]


class Seen(Coordinator):
    """A directory in which copies have other addresses: the ways that lead to them from here."""

    def __init__(self, directory: Coordinator, ways: Mapping[str, str]) -> None:
        self._directory, self._ways = directory, ways

    def load(self, name: str) -> bytes | None:
        """See ``Coordinator``."""
        return self._directory.load(name)

    def store(self, name: str, version: int, raw: bytes) -> bool:
        """See ``Coordinator``."""
        return self._directory.store(name, version, raw)

    def seed(self, name: str, raw: bytes) -> bool:
        """See ``Coordinator``."""
        return self._directory.seed(name, raw)

    def get(self, shard: str) -> ShardState:
        """See ``Coordinator``."""
        return _with_addresses(super().get(shard), self._ways)

    def replace(self, shard: str, state: ShardState) -> bool:
        """See ``Coordinator``."""
        return super().replace(shard, _with_addresses(state, {way: address for address, way in self._ways.items()}))


def _with_addresses(state: ShardState, other: Mapping[str, str]) -> ShardState:
    return replace(state, addresses={name: other.get(known, known) for name, known in state.addresses.items()})


def shard_client(directory: Coordinator, timeout_s: float, message_timeout_s: float) -> ShardClient:
    """A client of whoever leads."""
    return ShardClient(
        directory, "s", ADDRESS_BITS, ClientConfig(timeout_s=timeout_s, message_timeout_s=message_timeout_s)
    )


def errors_of(directory: Path) -> Counter[str]:
    """What all clients that ended by themselves were told."""
    found = Counter[str]()
    for path in directory.glob("*.errors"):
        with suppress(ValueError):
            found.update(json.loads(path.read_text(encoding="utf-8")))
    return found
