"""Milliseconds of one step's traffic: the learner asks 3 SLM actors, reads what they propose from 2 shards, and has it.

The same actors are asked over the data plane and by Ray calls, and the same words are read from the shards' mapped
files and from the shards; the ways take turns, so that whatever else the machine does falls on all.

    python benchmarks/round_trip.py --rounds 10 --trips 30
"""

from __future__ import annotations

import argparse
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from actors.rpc.calls import PendingAnswers, call_all
from cluster.raylink.session import prepare_environment

NUM_SLMS, NUM_SHARDS = 3, 2
NUM_RANGES, RANGE_WORDS = 256, 64
"""64 KB of words."""
QUERY = np.zeros((64, 85), np.float32)
"""21 KB to each SLM actor."""


class Echo:
    """An SLM actor that does not think."""

    def serve(self, token: str) -> Any:
        from actors.rpc.method_server import MethodServer

        self._server = MethodServer(self, ("propose",), token)
        return self._server.endpoint

    def propose(self, query: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return np.arange(4 * len(query)), query


class ActorPeers:
    """Ray actors as ``Peers``."""

    def __init__(self, handles: Sequence[Any], names: Sequence[str], timeout_s: float) -> None:
        self.handles, self.names, self.timeout_s = tuple(handles), tuple(names), timeout_s

    def start(self, method: str, messages: Mapping[int, tuple[Any, ...]], patience: float = 1.0) -> PendingAnswers:
        """See ``Peers``."""
        from actors.ray.actor_calls import gather

        refs = [getattr(self.handles[target], method).remote(*arguments) for target, arguments in messages.items()]
        names = [self.names[target] for target in messages]
        return lambda: dict(zip(messages, gather(refs, names, patience * self.timeout_s), strict=True))


def timed(act: Callable[[], Any], trips: int) -> list[float]:
    """Milliseconds of each."""
    found = []
    for _ in range(trips):
        begin = time.perf_counter()
        act()
        found.append(1000 * (time.perf_counter() - begin))
    return found


def measure(ways: dict[str, Callable[[], Any]], rounds: int, trips: int) -> dict[str, list[float]]:
    """Milliseconds by way; another one begins each round, and the first round is not counted."""
    found: dict[str, list[float]] = {name: [] for name in ways}
    names = list(ways)
    for number in range(-1, rounds):
        for name in names[number % len(names) :] + names[: number % len(names)]:
            took = timed(ways[name], trips)
            if number >= 0:
                found[name] += took
    return found


def run(rounds: int, trips: int) -> dict[str, list[float]]:
    """Start the actors, measure, and end them."""
    import ray

    from actors.memory_cluster.cluster_memory import ClusterMemory
    from actors.rpc.remote_peers import PeerConfig, RemotePeers
    from actors.training.system_actors import run_memory

    make = ray.remote(num_cpus=0)(Echo)
    actors = [make.remote() for _ in range(NUM_SLMS)]
    names, to_all = [f"SLM {i}" for i in range(NUM_SLMS)], {i: (QUERY,) for i in range(NUM_SLMS)}
    plane = RemotePeers(ray.get([actor.serve.remote("token") for actor in actors]), names, PeerConfig("token", 10.0))
    calls = ActorPeers(actors, names, 10.0)
    memory = ClusterMemory.launch(run_memory(16, NUM_SHARDS, 1))
    near, far = memory.client(mapped=True), memory.client(mapped=False)
    start = np.random.default_rng(0).integers(0, (1 << 16) - RANGE_WORDS, NUM_RANGES)
    length = np.full(NUM_RANGES, RANGE_WORDS)
    near.write(start, np.ones((NUM_RANGES, RANGE_WORDS), np.uint32))
    ways = {
        "plane, mapped shards": lambda: (call_all(plane, "propose", to_all), near.read(start, length)),
        "plane, asked shards": lambda: (call_all(plane, "propose", to_all), far.read(start, length)),
        "Ray calls, asked shards": lambda: (call_all(calls, "propose", to_all), far.read(start, length)),
        "SLMs alone, plane": lambda: call_all(plane, "propose", to_all),
        "SLMs alone, Ray calls": lambda: call_all(calls, "propose", to_all),
        "shards alone, mapped": lambda: near.read(start, length),
        "shards alone, asked": lambda: far.read(start, length),
    }
    try:
        return measure(ways, rounds, trips)
    finally:
        plane.close()
        memory.stop()


def show(found: dict[str, list[float]]) -> None:
    """A line a way."""
    print(f"{'':<26}{'p10':>8}{'p50':>8}{'p90':>8}  ms")
    for name, took in found.items():
        low, middle, high = np.percentile(took, [10, 50, 90])
        print(f"{name:<26}{low:8.2f}{middle:8.2f}{high:8.2f}")


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and show."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--trips", type=int, default=30, help="of each way in a round")
    given = parser.parse_args(arguments)
    prepare_environment(None)
    import ray

    ray.init("local", num_cpus=4, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    try:
        show(run(given.rounds, given.trips))
    finally:
        ray.shutdown()


if __name__ == "__main__":
    main()
