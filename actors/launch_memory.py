"""A memory of a cluster: its copies as actors that outlive whoever launches them, each on a node of its own.

A keeper has them run; what leads, and what is in sync, is in the directory.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from typing import Any

import msgpack
import ray

from actors.calls import gather
from actors.directory import Directory, ShardState, version_of
from actors.memory_copy import MemoryConfig
from actors.memory_keeper import RAY_NAMESPACE, MemoryKeeper, actor_name, lifetime
from actors.processes import ProcessStat
from actors.ray_directory import RayDirectory
from actors.reshard import Moved, first_map, reshard
from actors.shard_map import ENTRY, load_map, shard_name
from actors.sharded_store import ShardedStore
from leworld.errors import ConfigError, StoreError

LAUNCH = "launch"
START_S = 60.0
ANSWER_S = 5.0


class ClusterMemory:
    """A memory of the cluster that this process is connected to, by its name.

    Attributes:
        directory: where it is known.
        config: as it was launched.
        keeper: the actor that keeps it, once it was asked.
    """

    keeper: Any = None

    def __init__(self, name: str) -> None:
        """Find a memory.

        Raises:
            StoreError: the cluster has none of this name.
        """
        self.directory = RayDirectory(name)
        raw = self.directory.load(LAUNCH)
        if raw is None:
            raise StoreError(f"memory {name}: the cluster has none of this name; start one with: leworld memory launch")
        content: dict[str, Any] = msgpack.unpackb(raw)
        self.config, self._tokens = MemoryConfig(**content["config"]), dict(content["tokens"])
        self._version = int(content["version"])

    @classmethod
    def launch(cls, config: MemoryConfig, timeout_s: float = START_S) -> ClusterMemory:
        """Start a memory's copies, or those that are missing, and wait until all are in sync.

        Raises:
            ConfigError: the cluster has too few nodes, or a memory of this name that is of another kind.
            ActorError: a copy does not come up.
            StoreError: files of copies are missing that may hold what the others do not.
        """
        directory = RayDirectory(config.name)
        tokens = {secrets.token_hex(16): who for who in ("peer", "admin")}
        is_new = directory.seed(LAUNCH, _launch_entry(1, config, tokens))
        memory = cls(config.name)
        if asdict(memory.config) != asdict(config):
            raise ConfigError(
                f"memory {config.name}: runs already with other settings; stop it first with: leworld memory stop"
            )
        try:
            memory.start(range(config.shards), timeout_s)
        except BaseException:
            if is_new:
                memory.stop()
            raise
        return memory

    def start(self, shards: Sequence[int], timeout_s: float = START_S) -> None:
        """Start the copies of shards, and wait until all are in sync."""
        self._ask_keeper("keep", shards)
        actors = {shard: self._copies(shard) for shard in shards}
        found = [self._gather(shard, copies, "known", timeout_s) for shard, copies in actors.items()]
        for shard, known in zip(actors, found, strict=True):
            restore_entry(self.directory, shard_name(shard), known)
        restore_map(self.directory, [entries for known in found for _, _, entries in known])
        made = first_map(self.config.address_bits, range(self.config.shards))
        self.directory.seed(ENTRY, made.to_bytes())
        self._check_map()
        for shard, copies in actors.items():
            self._gather(shard, copies, "wait_until_in_sync", timeout_s, timeout_s)

    def client(self, timeout_s: float = 30.0, *, mapped: bool | None = None) -> ShardedStore:
        """A client that may do everything.

        Args:
            timeout_s: of a call.
            mapped: see ``ShardedStore``; by default so for a run's memory, of which nothing is granted to anyone.
        """
        mapped = self.config.ends_with_run if mapped is None else mapped
        return ShardedStore(self.directory, token=self._token("admin"), timeout_s=timeout_s, mapped=mapped)

    def reshard(self, shards: int, progress: Callable[[float], None] = lambda _: None) -> Moved:
        """Have the words with another number of shards, while they are read and written.

        Raises:
            ConfigError: there are too few nodes, or it is no number of shards.
            StoreError: a shard keeps versions.
        """
        if not 1 <= shards <= 1 << 16:
            raise ConfigError(f"{shards} shards: 1 to {1 << 16} are possible")
        before = load_map(self.directory).all_shards
        self.start(sorted({*before, *range(shards)}))
        store = self.client()
        try:
            moved = reshard(store, range(shards), progress)
        finally:
            store.close()
        self._change(replace(self.config, shards=shards))
        self._ask_keeper("keep", range(shards))
        self._stop(sorted(set(before) - set(range(shards))))
        return moved

    def stop(self) -> None:
        """End every copy, and forget the memory; its files stay, and ``launch`` goes on with them."""
        self._ask_keeper("stop")
        self._stop(load_map(self.directory).all_shards or range(self.config.shards))
        _end(keeper_name(self.config.name))
        self.directory.forget()

    def nodes(self) -> dict[str, str]:
        """Name of each copy's actor to the node that it is on."""
        return self._ask_keeper("nodes")

    def processes(self) -> list[ProcessStat]:
        """Every copy's process and its peak memory."""
        shards = load_map(self.directory).all_shards
        asked = [self._gather(shard, self._copies(shard), "process", ANSWER_S) for shard in shards]
        return [stat for found in asked for stat in found]

    def _copies(self, shard: int) -> list[Any]:
        return [self._actor(shard, copy) for copy in range(self.config.copies)]

    def _check_map(self) -> None:
        found = load_map(self.directory)
        if found.is_moving:
            return
        if found.shards != tuple(range(self.config.shards)) or found.address_bits != self.config.address_bits:
            raise ConfigError(
                f"memory {self.config.name}: its files are of {len(found.shards)} shards and {found.address_bits} bits:"
                " launch it with these"
            )

    def _token(self, who: str) -> str:
        return next(token for token, name in self._tokens.items() if name == who)

    def _actor(self, shard: int, copy: int) -> Any:
        return ray.get_actor(actor_name(self.config, shard, copy), RAY_NAMESPACE)

    def _ask_keeper(self, method: str, *arguments: Any) -> Any:
        name = keeper_name(self.config.name)
        make = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(MemoryKeeper)
        keeper = make.options(
            name=name, namespace=RAY_NAMESPACE, lifetime=lifetime(self.config), get_if_exists=True, max_concurrency=4
        ).remote(self.config, self._tokens, range(self.config.shards))
        # Only the handle of whoever made it keeps it alive.
        self.keeper = self.keeper or keeper
        return gather([getattr(keeper, method).remote(*arguments)], [name], START_S)[0]

    def _gather(self, shard: int, copies: Sequence[Any], method: str, timeout_s: float, *arguments: Any) -> list[Any]:
        names = [actor_name(self.config, shard, copy) for copy in range(len(copies))]
        return gather([getattr(copy, method).remote(*arguments) for copy in copies], names, timeout_s + START_S)

    def _stop(self, shards: Sequence[int]) -> None:
        for shard in shards:
            for copy in range(self.config.copies):
                _end(actor_name(self.config, shard, copy))

    def _change(self, config: MemoryConfig) -> None:
        self._version += 1
        self.directory.store(LAUNCH, self._version, _launch_entry(self._version, config, self._tokens))
        self.config = config


def keeper_name(memory: str) -> str:
    """Of the actor that keeps a memory."""
    return f"{memory}/keeper"


def restore_entry(directory: Directory, shard: str, known: Sequence[tuple[str, str, dict[str, bytes]]]) -> None:
    """Tell a directory that lost everything what the copies of a shard saw last.

    Args:
        directory: that may have lost it; nothing happens where it has not.
        shard: its entry.
        known: id, address and entries that were seen of every copy that runs.

    Raises:
        StoreError: a copy is missing that may be newer than all of these.
    """
    states = [ShardState.from_bytes(entries[shard]) for _, _, entries in known if shard in entries]
    if not states or directory.load(shard) is not None:
        return
    newest = max(states, key=lambda state: state.version)
    addresses = {name: address for name, address, _ in known}
    missing = set(newest.in_sync) - addresses.keys()
    if missing:
        raise StoreError(
            f"{shard}: copy {', '.join(sorted(missing))} is not among those that run, and may hold writes that the"
            " others do not: start it where its files are"
        )
    directory.seed(shard, replace(newest, addresses={**newest.addresses, **addresses}).to_bytes())


def restore_map(directory: Directory, entries: Sequence[dict[str, bytes]]) -> None:
    """The same of the map."""
    maps = [known[ENTRY] for known in entries if ENTRY in known]
    if maps:
        directory.seed(ENTRY, max(maps, key=version_of))


def _launch_entry(version: int, config: MemoryConfig, tokens: dict[str, str]) -> bytes:
    return msgpack.Packer().pack({"version": version, "config": asdict(config), "tokens": tokens})


def _end(name: str) -> None:
    try:
        actor = ray.get_actor(name, RAY_NAMESPACE)
    except ValueError:
        return
    # Whatever it answers, it is to end.
    with suppress(Exception):
        ray.get(actor.stop.remote(), timeout=START_S)
    ray.kill(actor)
