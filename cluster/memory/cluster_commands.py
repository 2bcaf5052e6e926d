"""What the commands about memories of a Ray cluster do."""

from __future__ import annotations

import re
import sys
from contextlib import closing
from dataclasses import asdict

from cluster.memory.cluster_target import ClusterTarget, connected
from cluster.memory.target import Outcome
from cluster.messages import interrupted
from leworld.errors import ConfigError
from leworld.memory import check_address_bits


def launch(
    name: str,
    bits: int,
    shards: int,
    copies: int,
    folder: str,
    policy: str,
    together: bool,
    accept_loss: bool,
    address: str | None,
) -> Outcome:
    """Start a memory's replicas and wait until all are in sync."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}", name):
        raise ConfigError(f"name {name!r}: give letters, digits, and _ . - between them")
    check_address_bits(bits)
    with connected(address):
        from actors.memory_cluster.cluster_memory import ClusterMemory
        from actors.memory_cluster.replica_actor import MemoryConfig

        config = MemoryConfig(name, folder, bits, shards, copies, policy, together=together)
        with interrupted("what was started is stopped again, and its files stay"):
            ClusterMemory.launch(config, accept_loss=accept_loss)
        return _stat(name)


def reshard(name: str, shards: int, address: str | None) -> Outcome:
    """Move the words to another number of shards."""
    with connected(address):
        from actors.memory_cluster.cluster_memory import ClusterMemory

        with interrupted("the memory stays in use, and the same command goes on"):
            moved = ClusterMemory(name).reshard(shards, _tell if sys.stderr.isatty() else lambda _: None)
        return {"name": name, "shards": shards, **asdict(moved)}


def stop(name: str, address: str | None) -> Outcome:
    """End every replica."""
    with connected(address):
        from actors.memory_cluster.cluster_memory import ClusterMemory

        with interrupted("the same command goes on"):
            ClusterMemory(name).stop()
        return {"stopped": name}


def _stat(name: str) -> Outcome:
    with closing(ClusterTarget(name)) as memory:
        return memory.stat()


def _tell(part: float) -> None:
    print(f"\rmoved: {part:4.0%}", end="" if part < 1 else "\n", file=sys.stderr, flush=True)
