"""Shards of a memory in this process."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from actors.memory.coordinator import FileCoordinator
from actors.memory.replica import Replica
from actors.memory.replica_config import ReplicaConfig
from actors.memory.resharding import first_map
from actors.memory.shard_map import ENTRY, shard_name
from actors.memory.sharded_store import ShardedStore
from leworld.store.durable_store import StoreConfig

BITS = 16
CONFIG = ReplicaConfig("", "", BITS, StoreConfig(policy="os"), lease_s=0.5, timeout_s=1.0)


class Shards:
    """Shards of a memory, a copy or more each."""

    def __init__(self, root: Path, bits: int = BITS) -> None:
        self.bits, self.root, self.directory = bits, root, FileCoordinator(root / "directory")
        self.running: dict[tuple[int, str], Replica] = {}
        self.clients: list[ShardedStore] = []

    def start(self, *shards: int, copy: str = "a") -> None:
        for shard in shards:
            name = shard_name(shard)
            config = replace(CONFIG, shard=name, id=copy, number=shard, address_bits=self.bits)
            self.running[shard, copy] = Replica(self.root / f"{name}-{copy}", self.directory, config).start()
        for shard in shards:
            self.running[shard, copy].wait_until_in_sync()

    def make(self, *shards: int) -> ShardedStore:
        self.start(*shards)
        made = first_map(self.bits, shards)
        assert self.directory.store(ENTRY, 1, made.to_bytes())
        return self.client()

    def client(self, timeout_s: float = 20.0, *, mapped: bool = False) -> ShardedStore:
        store = ShardedStore(self.directory, timeout_s=timeout_s, message_timeout_s=1.0, mapped=mapped)
        self.clients.append(store)
        return self.clients[-1]

    def stop(self, shard: int, copy: str = "a") -> None:
        self.running.pop((shard, copy)).stop()

    def close(self) -> None:
        for client in self.clients:
            client.close()
        for shard, copy in list(self.running):
            self.stop(shard, copy)
