"""A copy of a shard as an actor of its own process. Made remote in ``actors.launch_memory``."""

from __future__ import annotations

import secrets
import shutil
from dataclasses import dataclass
from pathlib import Path

from actors.directory import MirroredDirectory, ShardState, version_of
from actors.memory_server import ServerConfig
from actors.processes import ProcessStat, own_stat
from actors.ray_directory import RayDirectory
from actors.replica import Replica, ReplicaConfig
from actors.shard_map import shard_name
from leworld.files import replace_file
from leworld.store.durable import StoreConfig

NODE = "{node}"
"""In a folder's name, the node's id: on a test's cluster all nodes are one machine, and share its disk."""


@dataclass(frozen=True)
class MemoryConfig:
    """A memory of a cluster.

    Attributes:
        name: in the cluster.
        folder: on every node, for its copies' files.
        address_bits: of the memory.
        shards: how many; they are numbered from 0.
        copies: of each shard, each on a node of its own.
        policy: of the journal, see ``StoreConfig``.
        lease_s: see ``ReplicaConfig``.
        together: copies may be on one node, which then takes all of them with it.
        ends_with_run: it ends with the process that launched it, and leaves no files.
    """

    name: str
    folder: str
    address_bits: int = 32
    shards: int = 1
    copies: int = 2
    policy: str = "group"
    lease_s: float = 2.0
    together: bool = False
    ends_with_run: bool = False


class MemoryCopy:
    """One copy of one shard, from when it is made until its process ends; what it holds is on its node's disk."""

    def __init__(self, config: MemoryConfig, shard: int, copy: int, tokens: dict[str, str]) -> None:
        """Open the copy, or begin one, and serve it.

        Args:
            config: of the memory.
            shard: which.
            copy: which of it.
            tokens: token to who brings it.
        """
        import ray

        self.name = f"memory shard {shard}" + (f", copy {copy}" if copy else "")
        self._config = config
        folder = _folder(config)
        root = folder / f"{shard_name(shard)}-copy-{copy}"
        folder.mkdir(parents=True, exist_ok=True)
        self._directory = MirroredDirectory(RayDirectory(config.name), root.with_name(f"{root.name}.directory"))
        (peer_token,) = (token for token, who in tokens.items() if who == "peer")
        self._replica = Replica(
            root,
            self._directory,
            ReplicaConfig(
                shard=shard_name(shard), id=_id_of(root, copy), address_bits=config.address_bits,
                store=StoreConfig(policy=config.policy), peer_token=peer_token, number=shard, lease_s=config.lease_s,
                server=ServerConfig(f"tcp://{ray.util.get_node_ip_address()}:0", tokens),
            ),
        )  # fmt: skip
        self._replica.start()

    def known(self) -> tuple[str, str, dict[str, bytes]]:
        """Its id, its address, and what it saw last of the directory."""
        return self._replica.config.id, self._replica.server.address, self._directory.entries()

    def state(self) -> tuple[str, ShardState]:
        """Its id, and what the directory says of its shard."""
        return self._replica.config.id, self._replica.state

    def wait_until_in_sync(self, timeout_s: float) -> None:
        """See ``Replica.wait_until_in_sync``."""
        self._replica.wait_until_in_sync(timeout_s)

    def stop(self) -> None:
        """Close its files; its process is of no use then."""
        self._replica.stop()
        if self._config.ends_with_run:
            shutil.rmtree(_folder(self._config), ignore_errors=True)

    def node(self) -> str:
        """Id of the node that it is on."""
        import ray

        return ray.get_runtime_context().get_node_id()

    def process(self) -> ProcessStat:
        """Its process and that one's peak memory."""
        return own_stat(self.name)


def files_here(config: MemoryConfig) -> dict[tuple[int, int], int]:
    """(shard, copy) of the copies that have files on this node, to the version of their shard's state that they saw."""
    found = {}
    for path in _folder(config).glob("shard-*-copy-*.id"):
        _, shard, _, copy = path.stem.split("-")
        seen = path.with_name(f"{path.stem}.directory") / shard_name(int(shard))
        found[int(shard), int(copy)] = version_of(seen.read_bytes()) if seen.exists() else 0
    return found


def _folder(config: MemoryConfig) -> Path:
    import ray

    node = ray.get_runtime_context().get_node_id()[:12]
    return Path(config.folder.replace(NODE, node)).expanduser() / config.name


def _id_of(root: Path, copy: int) -> str:
    """Of the files: where they are gone, what is made in their place is another copy."""
    path = root.with_name(f"{root.name}.id")
    if not path.exists():
        replace_file(path, [f"{copy}-{secrets.token_hex(4)}".encode()])
    return path.read_text(encoding="ascii")
