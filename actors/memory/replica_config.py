"""The configuration of a replica."""

from __future__ import annotations

from dataclasses import dataclass, field

from actors.memory.client import MemoryClient
from actors.memory.server import ServerConfig
from leworld.store.durable_store import StoreConfig


@dataclass(frozen=True)
class ReplicaConfig:
    """How a replica is stored and reached.

    Attributes:
        shard: name of the shard at the coordinator; ``id`` of this replica, which is unique.
        address_bits: of the memory.
        store: how it is stored.
        server: how it is served; its tokens must include one of "peer", which is ``peer_token``.
        number: of the shard in the map, if the memory has several.
        begins: whether it leads by itself a shard that never had a leader; otherwise ``begin`` must be called.
        lease_s: how long a leader may answer after the coordinator last confirmed it.
        timeout_s: of a call to another replica, which is then removed from those in sync.
    """

    shard: str
    id: str
    address_bits: int = 16
    store: StoreConfig = field(default_factory=StoreConfig)
    server: ServerConfig = field(default_factory=ServerConfig)
    peer_token: str = ""
    number: int = 0
    begins: bool = True
    lease_s: float = 2.0
    timeout_s: float = 3.0

    def __str__(self) -> str:
        return f"replica {self.id} of {self.shard}"

    def link(self, address: str, timeout_s: float | None = None) -> MemoryClient:
        """Return a client of another replica."""
        wait_s = self.timeout_s if timeout_s is None else timeout_s
        return MemoryClient(address, self.peer_token, wait_s, address_bits=self.address_bits)
