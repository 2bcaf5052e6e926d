"""A replica of a shard as an actor in its own process; see ``actors.memory_cluster.cluster_memory``."""

from __future__ import annotations

import logging
import secrets
import shutil
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from actors.errors import ActorError
from actors.memory.coordinator import MirroredCoordinator, version_of
from actors.memory.replica import Replica
from actors.memory.replica_config import ReplicaConfig
from actors.memory.server import ServerConfig
from actors.memory.shard_map import load_map, shard_name
from actors.memory_cluster.ray_coordinator import RayCoordinator
from actors.processes import ProcessStat, own_stat
from actors.ray.metrics import Totals, export_copy
from actors.rpc.retry import Pause, attempts
from leworld.errors import LeWorldError, StoreError
from leworld.files import replace_file
from leworld.store.durable_store import StoreConfig

LOG = logging.getLogger(__name__)
PATIENCE_S = 8.0
"""That a replica is waited for; a process that had it before has ended by then."""
OPENING = Pause(0.25, growth=2.0, longest_s=10.0)
EXPORT_S = 5.0
NODE = "{node}"
"""In a folder's name, the node's id: on a test's cluster all nodes are one machine, and share its disk."""


@dataclass(frozen=True)
class MemoryConfig:
    """A memory of a cluster.

    Attributes:
        name: in the cluster.
        folder: on every node, for its replicas' files.
        address_bits: of the memory.
        shards: their number; they count from 0.
        copies: replicas of each shard, each on its own node.
        policy: of the journal, see ``StoreConfig``.
        lease_s: see ``ReplicaConfig``.
        together: whether replicas may share a node, whose loss then takes all of them.
        ends_with_run: whether it ends with the process that launched it and leaves no files.
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


class ReplicaActor:
    """One replica of one shard, for the life of its process; its files are on its node's disk.

    A separate thread opens it and retries until that works, because the process that had it before may still be ending.
    A caller meanwhile gets the reason.
    """

    def __init__(self, config: MemoryConfig, shard: int, copy: int, tokens: dict[str, str]) -> None:
        """Begin to open or create the replica and to serve it.

        Args:
            config: of the memory.
            shard: number of the shard.
            copy: number of the replica.
            tokens: token to its owner.
        """
        self.name = f"memory shard {shard}" + (f", copy {copy}" if copy else "")
        self._config, self._shard, self._copy, self._tokens = config, shard, copy, tokens
        self._root = _folder(config) / f"{shard_name(shard)}-copy-{copy}"
        self._entries: MirroredCoordinator | None = None
        self._replica: Replica | None = None
        self._problem: LeWorldError | None = None
        self._opened, self._ending = threading.Event(), threading.Event()
        self._opening = threading.Thread(target=self._open_until_it_works, name="copy-opening", daemon=True)
        self._opening.start()
        threading.Thread(target=self._export_until_it_ends, name="copy-metrics", daemon=True).start()

    def known(self) -> tuple[str, str, dict[str, bytes]]:
        """Return its id, its address and the coordinator entries that it saw last.

        Raises:
            LeWorldError: it cannot be opened within ``PATIENCE_S``; the error is the reason.
        """
        replica = self._open_replica()
        assert self._entries is not None
        return replica.config.id, replica.server.address, self._entries.entries()

    def begin(self) -> None:
        """See ``Replica.begin``: a new replica cannot know whether others hold words that it lacks."""
        self._open_replica().begin()

    def wait_until_in_sync(self, timeout_s: float) -> None:
        """See ``Replica.wait_until_in_sync``, and ``known``."""
        self._open_replica().wait_until_in_sync(timeout_s)

    def _export_until_it_ends(self) -> None:
        totals, who = Totals(), {"memory": self._config.name, "shard": str(self._shard), "copy": str(self._copy)}
        while not self._ending.wait(EXPORT_S):
            if self._replica is not None:
                with suppress(LeWorldError, OSError):
                    replica = self._replica
                    export_copy(totals, replica.server.stat(), replica.store.sequence, replica.leadership.leads, **who)

    def stop(self) -> None:
        """Close its files; its process is useless afterwards."""
        self._ending.set()
        self._opening.join()
        if self._replica is not None:
            self._replica.stop()
        if self._config.ends_with_run:
            self._delete_files()

    def retire(self) -> None:
        """Stop and delete its files, because by the map its shard holds no words.

        Otherwise a later replica of this shard would wait for the replicas that are in sync now.
        """
        self.stop()
        # This comes after the stop, so that no other process can have added anything.
        if self._shard in load_map(RayCoordinator(self._config.name)).all_shards:
            return
        self._delete_files()

    def _delete_files(self) -> None:
        for path in self._root.parent.glob(f"{self._root.name}.*"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        shutil.rmtree(self._root, ignore_errors=True)
        # If other replicas of this memory are on this node, they use it.
        with suppress(OSError):
            self._root.parent.rmdir()

    def process(self) -> ProcessStat:
        """Return its process and its peak memory."""
        return own_stat(self.name)

    def _open_replica(self) -> Replica:
        end = time.monotonic() + PATIENCE_S
        while not self._opened.wait(0.1):
            if self._ending.is_set():
                raise ActorError(self.name, "is being stopped", "launch the memory again")
            # Without a problem it is a large memory in recovery after a crash.
            if self._problem is not None and time.monotonic() > end:
                raise self._problem
        assert self._replica is not None
        return self._replica

    def _open_until_it_works(self) -> None:
        for _ in attempts(float("inf"), OPENING, self._ending):
            try:
                self._replica = self._open()
            except Exception as error:
                self._problem = _as_one_line(error, self.name)
                LOG.warning("%s cannot be opened, and is tried again: %s", self.name, self._problem)
            else:
                self._opened.set()
                return

    def _open(self) -> Replica:
        import ray

        config, tokens = self._config, self._tokens
        self._root.parent.mkdir(parents=True, exist_ok=True)
        self._entries = MirroredCoordinator(
            RayCoordinator(config.name), self._root.with_name(f"{self._root.name}.directory")
        )
        server = ServerConfig(f"tcp://{ray.util.get_node_ip_address()}:0", tokens)
        (peer_token,) = (token for token, who in tokens.items() if who == "peer")
        replica = Replica(
            self._root,
            self._entries,
            ReplicaConfig(
                shard=shard_name(self._shard), id=_id_of(self._root, self._copy), address_bits=config.address_bits,
                store=StoreConfig(policy=config.policy), peer_token=peer_token, number=self._shard,
                begins=False, lease_s=config.lease_s, server=server,
            ),
        )  # fmt: skip
        try:
            return replica.start()
        except BaseException:
            replica.stop()
            raise


def files_here(config: MemoryConfig) -> dict[tuple[int, int], int]:
    """Return each (shard, replica) with files on this node, and the version of its shard's state that it saw."""
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
    """Return the id of the files: if they are lost, a new replica with a new id replaces them."""
    path = root.with_name(f"{root.name}.id")
    if not path.exists():
        replace_file(path, [f"{copy}-{secrets.token_hex(4)}".encode()])
    return path.read_text(encoding="ascii")


def _as_one_line(error: Exception, name: str) -> LeWorldError:
    if isinstance(error, LeWorldError):
        return error
    if isinstance(error, OSError):
        where = error.filename or name
        return StoreError(f"{where}: {(error.strerror or str(error)).lower()}; mend that on its node")
    return StoreError(f"{name} cannot be opened ({type(error).__name__}: {error}): see its log")
