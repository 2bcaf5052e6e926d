"""How a replica is kept and reached."""

from __future__ import annotations

from dataclasses import dataclass, field

from actors.memory.client import MemoryClient
from actors.memory.server import ServerConfig
from leworld.store.durable_store import StoreConfig


@dataclass(frozen=True)
class ReplicaConfig:
    """How a replica is kept and how it is reached.

    Attributes:
        shard: name of the shard at the coordinator; ``id`` of this replica, unlike all others'.
        address_bits: of the memory.
        store: how it is kept.
        server: how it is served; its tokens must know a "peer", and ``peer_token`` is that one's.
        number: of the shard in the map, where the memory has several.
        begins: leads by itself where nobody ever did; else when ``begin`` is called.
        lease_s: how long a leader may answer since it last saw that it leads.
        timeout_s: of a message to another replica, after which that one is struck off.
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
        """A client of another replica."""
        wait_s = self.timeout_s if timeout_s is None else timeout_s
        return MemoryClient(address, self.peer_token, wait_s, address_bits=self.address_bits)
