"""A Ray cluster of several nodes on this machine, a memory on it, and all that can happen to them."""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from leworld.errors import LeWorldError

HEALTH = {
    "RAY_health_check_initial_delay_ms": "0",
    "RAY_health_check_period_ms": "300",
    "RAY_health_check_timeout_ms": "1000",
    "RAY_health_check_failure_threshold": "3",
    "RAY_worker_niceness": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_IGNORE_UNHANDLED_ERRORS": "1",
    "RAY_AUTH_MODE": "disabled",
}
"""A lost node is noticed after some seconds, not after 15 as by default."""
STORE_BYTES = 80 << 20
STEADY_S = 1.0
SYNC_S = 180.0
SUPERVISOR = "keeper"


@dataclass
class Nodes:
    """A head without copies' files worth mentioning, and nodes that can be lost.

    Attributes:
        name: of the memory; ``copies`` of each shard.
        random: decides who is hit.
        log: what was done when, in nanoseconds of the monotonic clock.
    """

    name: str
    copies: int
    random: np.random.Generator
    log: list[tuple[int, str]] = field(default_factory=list)
    _cluster: Any = None
    _nodes: list[Any] = field(default_factory=list)

    def begin(self) -> str:
        """Start the head and connect to it; its address."""
        os.environ.update(HEALTH)
        import ray
        from ray.cluster_utils import Cluster

        head = {"num_cpus": 0, "include_dashboard": False, "object_store_memory": STORE_BYTES}
        self._cluster = Cluster(initialize_head=True, head_node_args=head)
        ray.init(address=self._cluster.address, log_to_driver=False, logging_level=logging.ERROR)
        return self._cluster.address

    def end(self) -> None:
        """Take everything down."""
        import ray

        ray.shutdown()
        self._cluster.shutdown()

    def add(self) -> None:
        """One node more."""
        self._nodes.append(self._cluster.add_node(num_cpus=1, object_store_memory=STORE_BYTES))
        self._note("a node is added")

    def lose(self, id: str) -> None:
        """Have a node and all its processes killed."""
        (node,) = (node for node in self._nodes if node.node_id == id)
        self._nodes.remove(node)
        self._note(f"node {id[:8]} is lost")
        self._cluster.remove_node(node, allow_graceful=False)

    def kill(self, name: str) -> bool:
        """``kill -9`` of an actor's process; whether there was one."""
        pid = self._pid(name)
        if pid:
            self._note(f"{name} is killed")
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return bool(pid)

    @property
    def lost_ones(self) -> list[str]:
        """Ids of the nodes that can be lost: all but the head."""
        return [node.node_id for node in self._nodes]

    def raylets(self) -> list[int]:
        """Process of each node's raylet, whose children are its workers."""
        nodes = [self._cluster.head_node, *self._nodes]
        return [each.process.pid for node in nodes for each in node.all_processes.get("raylet", [])]

    def leader(self) -> tuple[str, str, str]:
        """Of some shard: the names of its leading copy's actor and of another copy's, and the first one's node."""
        while True:
            # A busy head may not answer in time.
            with suppress(LeWorldError):
                return self._leader()

    def _leader(self) -> tuple[str, str, str]:
        from actors.memory.shard_map import load_map, shard_name
        from actors.memory_cluster.ray_coordinator import RayCoordinator

        directory = RayCoordinator(self.name)
        shard = int(self.random.choice(load_map(directory).shards))
        copy = int(directory.get(shard_name(shard)).leader.split("-")[0])
        names = [f"{self.name}/{shard_name(shard)}/copy-{(copy + i) % self.copies}" for i in range(2)]
        return names[0], names[1], self._node(names[0])

    def wait_until_in_sync(self) -> float:
        """Seconds until every copy of every shard runs, and leads or is in sync; for a while without a break."""
        begin, since = time.monotonic(), None
        while since is None or time.monotonic() - since < STEADY_S:
            if time.monotonic() - begin > SYNC_S:
                raise TimeoutError(f"copies are not in sync after {SYNC_S:g} s")
            if not self._all_in_sync():
                since = None
            elif since is None:
                since = time.monotonic()
            time.sleep(0.1)
        return since - begin

    def _all_in_sync(self) -> bool:
        from actors.memory.shard_map import load_map, shard_name
        from actors.memory_cluster.actor_registry import call_actors, replica_name
        from actors.memory_cluster.ray_coordinator import RayCoordinator

        directory = RayCoordinator(self.name)
        try:
            shards = load_map(directory).all_shards
            if any(len(directory.get(shard_name(shard)).in_sync) < self.copies for shard in shards):
                return False
            names = {(s, c): replica_name(self.name, (s, c)) for s in shards for c in range(self.copies)}
            call_actors(names, "wait_until_in_sync", 2.0, 1.0)
            return all(len(directory.get(shard_name(shard)).in_sync) == self.copies for shard in shards)
        except LeWorldError:
            return False

    def _actor(self, name: str) -> dict[str, Any]:
        from ray._private.state import actors

        found = [actor for actor in actors().values() if actor["Name"] == name and actor["State"] == "ALIVE"]
        return found[0] if found else {}

    def _pid(self, name: str) -> int:
        return int(self._actor(name).get("Pid", 0))

    def _node(self, name: str) -> str:
        return self._actor(name).get("Address", {}).get("NodeID", "")

    def _note(self, what: str) -> None:
        self.log.append((time.monotonic_ns(), what))


Fault = Callable[[Nodes], None]


def lose_leader_node(nodes: Nodes) -> None:
    """A node with a leader is lost; another one comes."""
    _, _, node = nodes.leader()
    nodes.lose(node if node in nodes.lost_ones else str(nodes.random.choice(nodes.lost_ones)))
    time.sleep(float(nodes.random.uniform(0, 4)))
    nodes.add()


def kill_leader(nodes: Nodes) -> None:
    """A leader's process is killed."""
    nodes.kill(nodes.leader()[0])


def kill_follower(nodes: Nodes) -> None:
    """The process of a copy that follows is killed."""
    nodes.kill(nodes.leader()[1])


def kill_both(nodes: Nodes) -> None:
    """The processes of two copies of a shard are killed, all there are of it."""
    leader, follower, _ = nodes.leader()
    nodes.kill(leader)
    nodes.kill(follower)


def kill_keeper(nodes: Nodes) -> None:
    """The keeper's process is killed, and while it is not there, a leader's node is lost."""
    nodes.kill(f"{nodes.name}/{SUPERVISOR}")
    time.sleep(float(nodes.random.uniform(0, 1)))
    lose_leader_node(nodes)


FAULTS: dict[str, Fault] = {
    "node lost": lose_leader_node, "leader killed": kill_leader, "follower killed": kill_follower,
    "both copies killed": kill_both, "keeper killed, node lost": kill_keeper,
}  # fmt: skip


def root_of(directory: Path) -> str:
    """A folder for each node, as the nodes of a test share this machine's disk."""
    return str(directory / "{node}")
