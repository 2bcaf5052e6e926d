"""The three ways to keep a memory, who takes part in each, and what is done to them."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from actors.memory.coordinator import FileCoordinator

from .clients import Beside, Lazy, Seen, Work, read_all, shard_client
from .records import Keys
from .servers import LEASE_S, client, serve_memory, serve_replica, write_mapped
from .stage import Stage

Disturbance = Callable[[], None]
COPIES = ("a", "b", "c")
LONGEST_WAIT_S = 0.2
READ_ONLY = 0.0
READS_AND_WRITES = 0.4


@dataclass
class Mode(ABC):
    """What is played on a stage.

    Attributes:
        clients: how many read and write.
        rate: operations a second of all of them.
        shared: see ``Work``.
        calm_s: mean time between two disturbances.
    """

    stage: Stage
    keys: Keys
    clients: int
    rate: float
    seed: int
    shared: NDArray[np.int64]
    calm_s = 0.3
    _number: int = 0

    @abstractmethod
    def begin(self) -> None:
        """Add everyone to the stage."""

    @abstractmethod
    def disturbances(self) -> Sequence[tuple[float, Disturbance]]:
        """What may be done, with weights."""

    @abstractmethod
    def last_reader(self) -> Any:
        """A memory that is read when all is over."""

    def disturb(self) -> None:
        """Do one thing, half of the time in the middle of a write."""
        if self.stage.random.random() < 0.5:
            self._wait_until_busy()
        weights, acts = zip(*self.disturbances(), strict=True)
        chosen = self.stage.random.choice(len(acts), p=np.array(weights) / sum(weights))
        acts[int(chosen)]()

    def _wait_until_busy(self) -> None:
        """Return when a write is just being made, or in a while."""
        end = time.monotonic() + LONGEST_WAIT_S
        while time.monotonic() < end and not self.shared[1]:
            time.sleep(0.0001)

    def work(self, slot: int, writes: float, share: float = 1.0) -> Work:
        """What the next client does; ``share`` of what each of them does on average."""
        self._number += 1
        rate = share * self.rate / self.clients
        directory = self.stage.root / "histories"
        return Work(directory, self.keys, self._number, slot, self.shared, rate, writes, self.seed)

    def read_all(self, seconds: float) -> bool:
        """Read every key at the end."""
        return read_all(self.work(0, READ_ONLY), self.last_reader(), seconds)

    def names(self, begin: str) -> list[str]:
        """Those on the stage whose names begin so."""
        return [name for name in self.stage.actors if name.startswith(begin)]

    def some(self, begin: str) -> str:
        """One of them."""
        names = self.names(begin)
        return names[int(self.stage.random.integers(0, len(names)))]

    def between(self, low: float, high: float) -> float:
        """A time between two; all orders of magnitude are as likely."""
        return float(np.exp(self.stage.random.uniform(np.log(low), np.log(high))))

    def add_client(self, slot: int, connect: Callable[[np.random.Generator], Any], writes: float) -> None:
        """Add one in a process of its own."""
        self.stage.add(f"client{slot}", client, lambda: (self.work(slot, writes), connect))

    def cut_some(self, links: Sequence[str], low: float, high: float) -> None:
        """Cut links in one way or another."""
        ways = ("hold to", "hold from", "hold to", "hold from", "drop", "clip", "refuse")
        what = ways[int(self.stage.random.integers(0, len(ways)))]
        self.stage.cut(links, what, self.between(low, high))

    def clients_disturbed(self) -> list[tuple[float, Disturbance]]:
        """What may be done to clients."""
        return [
            (1, lambda: self.stage.pause(self.some("client"), self.between(0.001, 1.0))),
            (0.5, lambda: self.stage.kill(self.some("client"))),
        ]


class Mapped(Mode):
    """One process writes, by two threads that read, too; others read beside it."""

    def begin(self) -> None:
        """See ``Mode``."""
        root = self.stage.root / "memory"
        self.stage.add("writer", write_mapped, lambda: (root, [self.work(slot, 0.6, 2.0) for slot in (0, 1)]))
        for slot in range(2, self.clients):
            self.add_client(slot, lambda random: Beside([root], random), READ_ONLY)

    def disturbances(self) -> Sequence[tuple[float, Disturbance]]:
        """See ``Mode``."""
        stage = self.stage
        return [
            (5, lambda: stage.kill("writer", stage.random.choice([0, self.between(0.01, 0.5)]))),
            (6, lambda: stage.pause("writer", self.between(0.0005, 0.05))),
            (1, lambda: stage.pause("writer", self.between(0.05, 1.5))),
            *self.clients_disturbed(),
        ]

    def last_reader(self) -> Any:
        """See ``Mode``."""
        return Beside([self.stage.root / "memory"], np.random.default_rng(0))


class Server(Mode):
    """A server, whose clients each have a link of their own; one reads beside it."""

    def begin(self) -> None:
        """See ``Mode``."""
        stage, root = self.stage, self.stage.root / "memory"
        stage.link([f"server/{slot}" for slot in range(self.clients - 1)] + ["server/last"])
        stage.add("server", serve_memory, lambda: (root, stage.target("server"), self.shared))
        for slot in range(self.clients - 1):
            timeout_s, address = (0.3, 1.0)[slot % 2], stage.address(f"server/{slot}")
            self.add_client(slot, lambda random, a=address, t=timeout_s: Lazy([a], t, random), READS_AND_WRITES)
        self.add_client(self.clients - 1, lambda random: Beside([root], random), READ_ONLY)

    def disturbances(self) -> Sequence[tuple[float, Disturbance]]:
        """See ``Mode``."""
        stage = self.stage
        return [
            (4, lambda: stage.kill("server", stage.random.choice([0, self.between(0.01, 0.5)]))),
            (2, lambda: stage.pause("server", self.between(0.0005, 1.5))),
            (4, lambda: self.cut_some([self._some_link()], 0.02, 1.2)),
            *self.clients_disturbed(),
        ]

    def last_reader(self) -> Any:
        """See ``Mode``."""
        return Lazy([self.stage.address("server/last")], 1.0, np.random.default_rng(0))

    def _some_link(self) -> str:
        return f"server/{self.stage.random.integers(0, self.clients - 1)}"


class Replicas(Mode):
    """Three copies. They reach each other and are reached by clients over links; most clients look for the leader.

    One client asks any copy, whether it leads or not; another one reads the files of any copy beside it. These must be
    refused by whoever may be out of date.
    """

    calm_s = 0.7

    def begin(self) -> None:
        """See ``Mode``."""
        stage, root = self.stage, self.stage.root
        whose = ["copies", *(f"from-{name}" for name in COPIES), *range(self.clients), "last"]
        stage.link([f"{name}/{who}" for name in COPIES for who in whose])
        self._cut = {name: root / f"{name}.cut" for name in COPIES}
        for name in COPIES:
            # Whoever is first leads.
            after_s = 0.0 if name == COPIES[0] else 1.0
            stage.add(name, serve_replica, lambda name=name: self._copy(name), after_s)
        for slot in range(self.clients):
            writes = READS_AND_WRITES
            if slot == 1:
                ways = [stage.address(f"{name}/{slot}") for name in COPIES]
                connect, writes = (lambda random, ways=ways: Lazy(ways, 0.3, random)), READS_AND_WRITES / 2
            elif slot == 2:
                connect, writes = (lambda random: Beside([root / name for name in COPIES], random)), READ_ONLY
            else:
                connect = lambda random, slot=slot: self._find(slot, (0.3, 0.7)[slot % 2])  # noqa: E731
            self.add_client(slot, connect, writes)

    def _copy(self, name: str) -> tuple[Any, ...]:
        stage, ways = self.stage, self._ways(f"from-{name}")
        advertised = stage.address(f"{name}/copies")
        return stage.root, name, stage.target(name), advertised, ways, self._cut[name], self.shared

    def _ways(self, who: int | str) -> dict[str, str]:
        return {self.stage.address(f"{name}/copies"): self.stage.address(f"{name}/{who}") for name in COPIES}

    def _around(self, name: str) -> list[str]:
        """The links between a copy and the others; records go by those of the addresses that are advertised."""
        others = [other for other in COPIES if other != name]
        asked = [f"{name}/from-{other}" for other in others] + [f"{other}/from-{name}" for other in others]
        return [*asked, *(f"{other}/copies" for other in others)]

    def _find(self, who: int | str, message_timeout_s: float) -> Any:
        return shard_client(Seen(self._directory, self._ways(who)), 4.0, message_timeout_s)

    @property
    def _directory(self) -> FileCoordinator:
        return FileCoordinator(self.stage.root / "directory")

    @property
    def leader(self) -> str:
        """Whom the directory says to lead."""
        return self._directory.get("s").leader or COPIES[0]

    def disturbances(self) -> Sequence[tuple[float, Disturbance]]:
        """See ``Mode``."""
        stage, leader = self.stage, self.leader
        others = [name for name in COPIES if name != leader]
        other = others[int(stage.random.integers(0, 2))]
        ways = [f"{leader}/{slot}" for slot in range(self.clients)]
        one = ways[int(stage.random.integers(0, len(ways)))]
        return [
            (3, lambda: stage.kill(leader, stage.random.choice([0, self.between(0.01, 3.0)]))),
            (1, lambda: stage.kill(other, stage.random.choice([0, self.between(0.01, 2.0)]))),
            (3, lambda: stage.pause(leader, self.between(0.3 * LEASE_S, 6 * LEASE_S))),
            (1, lambda: stage.pause(leader, self.between(0.001, 0.1))),
            (1, lambda: stage.pause(other, self.between(0.05, 4 * LEASE_S))),
            (1, lambda: self.cut_some([*self._around(leader), *self._around(other)], 0.05, 5 * LEASE_S)),
            (3, lambda: self.cut_some(self._around(leader), 0.2, 6 * LEASE_S)),
            (2, lambda: self.cut_some([f"{other}/copies"], 0.05, 4 * LEASE_S)),
            (1, lambda: self.cut_some(self._around(other), 0.05, 4 * LEASE_S)),
            (4, lambda: self.cut_some([one], 0.05, 1.5)),
            (1, lambda: self.cut_some(ways, 0.05, 1.5)),
            (3, lambda: self._leave_unaware(leader)),
            (5, lambda: self._kill_alone(leader, [f"{name}/copies" for name in others])),
            (2, lambda: stage.touch(self._cut[leader], self.between(0.2, 6 * LEASE_S), f"no directory for {leader}")),
            (1, lambda: stage.touch(self._cut[other], self.between(0.2, 4 * LEASE_S), f"no directory for {other}")),
            *self.clients_disturbed(),
        ]

    def _leave_unaware(self, leader: str) -> None:
        """Have others take a leader for lost, and it learn neither from them nor the directory that it is replaced."""
        stage, end = self.stage, time.monotonic() + 8 * LEASE_S
        others = [name for name in COPIES if name != leader]
        stage.cut([f"{leader}/from-{name}" for name in others], "hold to", 8 * LEASE_S)

        def look() -> None:
            if self.leader != leader:
                seconds = self.between(LEASE_S, 4 * LEASE_S)
                stage.touch(self._cut[leader], seconds, f"no directory for {leader}")
                stage.cut([f"{name}/copies" for name in others], "hold to", seconds)
            elif time.monotonic() < end:
                stage.later(0.002, look)

        look()

    def _kill_alone(self, leader: str, links: Sequence[str]) -> None:
        """Kill a leader while one of the others, or both, hear nothing of it; it may be too soon for it to know."""
        stage = self.stage
        cut = links if stage.random.random() < 0.5 else links[:1]
        seconds = self.between(0.1, 3 * LEASE_S)
        stage.cut(cut, "hold to", seconds)

        def kill() -> None:
            stage.kill(leader, self.between(0.3, 4.0))
            if stage.random.random() < 0.7:
                stage.heal(cut, lost=True)

        stage.later(seconds * stage.random.uniform(0.3, 0.99), kill)

    def last_reader(self) -> Any:
        """See ``Mode``."""
        return self._find("last", 0.7)


MODES: dict[str, type[Mode]] = {"mapped": Mapped, "server": Server, "replicas": Replicas}
