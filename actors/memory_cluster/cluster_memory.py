"""A memory of a cluster: its replicas are actors on separate nodes that outlive the process that launches them.

A supervisor keeps them running; the coordinator records the leader and the replicas in sync.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from typing import Any

import msgpack
import ray

from actors.errors import ActorError
from actors.memory.coordinator import Coordinator, ShardState, change, version_of
from actors.memory.resharding import Moved, first_map, reshard
from actors.memory.shard_map import ENTRY, ShardMap, load_map, shard_name
from actors.memory.sharded_store import ShardedStore
from actors.memory_cluster.actor_registry import (
    RAY_NAMESPACE,
    Place,
    call_actors,
    end_actors,
    is_up,
    replica_name,
    replicas_of,
    supervisor_name,
)
from actors.memory_cluster.ray_coordinator import RayCoordinator
from actors.memory_cluster.replica_actor import MemoryConfig
from actors.memory_cluster.supervisor import Supervisor, lifetime
from actors.processes import ProcessStat
from leworld.errors import ConfigError, StoreError

LAUNCH = "launch"
START_S = 60.0
ANSWER_S = 5.0
GRACE_S = 3.0
"""That shards which hold nothing any more still answer: longer than clients wait for one message."""
Seen = tuple[str, str, dict[str, bytes]]
"""Of a replica: its id, its address, and the coordinator's entries that it saw last."""
START_OF_A_COPY_S = 5.0
"""More for each replica: they start one after another on a machine that has few processors."""


class ClusterMemory:
    """A memory of the cluster that this process is connected to, by its name.

    Attributes:
        coordinator: of the memory.
        config: as it was launched.
        keeper: the supervisor actor, if it was created here.
    """

    keeper: Any = None

    def __init__(self, name: str) -> None:
        """Find a memory.

        Raises:
            StoreError: the cluster has no memory of this name.
        """
        self.coordinator = RayCoordinator(name)
        raw = self.coordinator.load(LAUNCH)
        if raw is None:
            raise StoreError(f"memory {name}: the cluster has none of this name; start one with: leworld memory launch")
        content: dict[str, Any] = msgpack.unpackb(raw)
        self.config, self._tokens = MemoryConfig(**content["config"]), dict(content["tokens"])
        self._version = int(content["version"])

    @classmethod
    def launch(
        cls, config: MemoryConfig, timeout_s: float | None = None, *, accept_loss: bool = False
    ) -> ClusterMemory:
        """Start a memory's missing replicas and wait until all are in sync.

        A replica that is not ready in time is not an error if its shard has a leader.

        Args:
            config: of the memory.
            timeout_s: for the whole launch; by default ``START_S`` plus some seconds for each replica.
            accept_loss: whether to continue with the replicas left, though a missing one may hold newer writes.

        Raises:
            ConfigError: the cluster has too few nodes, or a memory of another kind with this name.
            ActorError: a replica does not start.
            StoreError: files of replicas cannot be used, or missing ones may hold newer writes.
        """
        coordinator = RayCoordinator(config.name)
        tokens = {secrets.token_hex(16): who for who in ("peer", "admin")}
        is_new = coordinator.seed(LAUNCH, _launch_entry(1, config, tokens))
        memory = cls(config.name)
        other = [name for name, value in asdict(memory.config).items() if value != getattr(config, name)]
        if other:
            known = ", ".join(f"{name} {getattr(memory.config, name)}" for name in other)
            raise ConfigError(
                f"memory {config.name}: runs already with other settings ({known}); stop it first with:"
                " leworld memory stop"
            )
        try:
            memory.start(range(config.shards), timeout_s, accept_loss=accept_loss)
        except BaseException:
            if is_new:
                memory.stop()
            raise
        return memory

    def start(self, shards: Sequence[int], timeout_s: float | None = None, *, accept_loss: bool = False) -> None:
        """Start the replicas of shards, and wait until all are in sync; see ``launch``."""
        wanted = set(shards)
        known = self._known(wanted, timeout_s)
        # Stripes may be moving to shards outside the config.
        wanted |= set(self._newest_map(known).all_shards)
        known |= self._known(wanted - {shard for shard, _ in known}, timeout_s)
        for shard in wanted:
            copies = [seen for place, seen in known.items() if place[0] == shard]
            restore_entry(self.coordinator, shard_name(shard), copies, accept_loss=accept_loss)
            if not self.coordinator.get(shard_name(shard)).in_sync:
                # It never held anything, or nothing since its replicas were retired.
                call_actors({0: replica_name(self.config.name, (shard, 0))}, "begin", START_S)
        # Load it again: the shards started last may know a newer one.
        self.coordinator.seed(ENTRY, self._newest_map(known).to_bytes())
        self._wait_until_in_sync(wanted, timeout_s)

    def client(self, timeout_s: float = 30.0, *, mapped: bool | None = None) -> ShardedStore:
        """Return a client with all rights.

        Args:
            timeout_s: of a call.
            mapped: see ``ShardedStore``; the default is true for a run's memory, which has no grants.
        """
        mapped = self.config.ends_with_run if mapped is None else mapped
        return ShardedStore(self.coordinator, token=self._token("admin"), timeout_s=timeout_s, mapped=mapped)

    def reshard(self, shards: int, progress: Callable[[float], None] = lambda _: None) -> Moved:
        """Move the words to another number of shards while they are read and written.

        The replicas of shards left empty are ended and their files deleted.

        Raises:
            ConfigError: there are too few nodes, or the number of shards is invalid.
            StoreError: a shard keeps versions.
        """
        if not 1 <= shards <= 1 << 16:
            raise ConfigError(f"{shards} shards: 1 to {1 << 16} are possible")
        before = load_map(self.coordinator)
        if before.is_moving and before.target != tuple(range(shards)):
            raise ConfigError(f"memory {self.config.name}: {moving(self.config.name, before)}")
        self.start(sorted({*before.all_shards, *range(shards)}))
        store = self.client()
        try:
            moved = reshard(store, range(shards), progress)
        finally:
            store.close()
        self._change(replace(self.config, shards=shards))
        self._call_supervisor("keep", range(shards))
        # They still tell clients where the words are and whether a write was applied.
        time.sleep(GRACE_S if set(before.all_shards) - set(range(shards)) else 0.0)
        self._retire()
        return moved

    def stop(self) -> None:
        """End every replica and drop the memory's entries; its files stay for another ``launch``."""
        name = self.config.name
        # Otherwise it would start them again.
        end_actors({0: supervisor_name(name)})
        end_actors(replicas_of(name))
        self.coordinator.forget()

    def nodes(self) -> dict[str, str]:
        """Return the node of each replica's actor, by name."""
        return self._call_supervisor("nodes")

    def processes(self) -> list[ProcessStat]:
        """Return every replica's process and its peak memory."""
        found = call_actors(self._names(set(load_map(self.coordinator).all_shards)), "process", ANSWER_S)
        return [found[place] for place in sorted(found)]

    def _known(self, shards: set[int], timeout_s: float | None) -> dict[Place, Any]:
        """Start replicas; return each one's id, address and last seen coordinator entries."""
        if not shards:
            return {}
        self._call_supervisor("keep", sorted(shards))
        return call_actors(self._names(shards), "known", self._start_s(shards, timeout_s))

    def _wait_until_in_sync(self, shards: set[int], timeout_s: float | None) -> None:
        names, seconds = self._names(shards), self._start_s(shards, timeout_s)
        try:
            call_actors(names, "wait_until_in_sync", seconds + START_S, seconds)
        except ActorError:
            store = self.client(START_OF_A_COPY_S)
            try:
                for shard in shards:
                    store.shard(shard).call("stat")
            finally:
                store.close()

    def _names(self, shards: set[int]) -> dict[Place, str]:
        places = [(shard, copy) for shard in sorted(shards) for copy in range(self.config.copies)]
        return {place: replica_name(self.config.name, place) for place in places}

    def _start_s(self, shards: set[int], timeout_s: float | None) -> float:
        return START_S + START_OF_A_COPY_S * len(shards) * self.config.copies if timeout_s is None else timeout_s

    def _newest_map(self, known: dict[Place, Any]) -> ShardMap:
        """Return the current map; without one the newest that a replica saw, else that of a new memory.

        Raises:
            ConfigError: the map is of a memory of another kind.
        """
        config, found = self.config, load_map(self.coordinator)
        if found.version:
            return found
        maps = [entries[ENTRY] for _, _, entries in known.values() if ENTRY in entries]
        if not maps:
            return first_map(config.address_bits, range(config.shards))
        found = ShardMap.from_bytes(max(maps, key=version_of))
        if config.shards not in {len(found.shards), len(found.target)} or found.address_bits != config.address_bits:
            raise ConfigError(
                f"memory {config.name}: its files are of {len(found.target)} shards and {found.address_bits} bits:"
                " launch it with these"
            )
        return found

    def _token(self, who: str) -> str:
        return next(token for token, name in self._tokens.items() if name == who)

    def _call_supervisor(self, method: str, *arguments: Any) -> Any:
        name = supervisor_name(self.config.name)
        if not is_up(name):
            make = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(Supervisor)
            # This handle keeps a memory alive that ends with the run.
            self.keeper = make.options(
                name=name, namespace=RAY_NAMESPACE, lifetime=lifetime(self.config), get_if_exists=True,
                max_concurrency=4,
            ).remote(self.config, self._tokens)  # fmt: skip
        return call_actors({0: name}, method, START_S, *arguments)[0]

    def _retire(self) -> None:
        """End the replicas of shards outside the map."""
        held = load_map(self.coordinator).all_shards
        retired = {place: name for place, name in replicas_of(self.config.name).items() if place[0] not in held}
        end_actors(retired, "retire")
        for shard in {shard for shard, _ in retired} - set(load_map(self.coordinator).all_shards):
            name = shard_name(shard)
            # Its version continues, because replicas of lost nodes have an older one.
            change(self.coordinator, name, self.coordinator.get(name), leader="", in_sync=(), addresses={})

    def _change(self, config: MemoryConfig) -> None:
        self._version += 1
        self.coordinator.store(LAUNCH, self._version, _launch_entry(self._version, config, self._tokens))
        self.config = config


def moving(name: str, found: ShardMap) -> str:
    """Return the message for a memory that is being resharded."""
    count = len(found.target)
    return f"words are moving to {count} shards; end that with: leworld memory reshard {name} {count}"


def restore_entry(
    coordinator: Coordinator,
    shard: str,
    known: Sequence[Seen],
    *,
    accept_loss: bool = False,
) -> None:
    """Restore a shard's entry from its replicas at a coordinator that lost it.

    Args:
        coordinator: that may have lost it; if not, nothing happens.
        shard: its entry.
        known: id, address and last seen entries of every running replica.
        accept_loss: whether to ignore a missing replica if a running one was in sync by these entries.

    Raises:
        StoreError: a missing replica may be newer than all running ones.
    """
    states = [ShardState.from_bytes(entries[shard]) for _, _, entries in known if shard in entries]
    if not states or coordinator.load(shard) is not None:
        return
    newest = max(states, key=lambda state: state.version)
    addresses = {name: address for name, address, _ in known}
    here = tuple(name for name in newest.in_sync if name in addresses)
    missing = sorted(set(newest.in_sync) - set(here))
    if missing and not (accept_loss and here):
        way_out = ", or do without what only it has with --accept-loss" if here else ""
        raise StoreError(
            f"{shard}: copy {', '.join(missing)} is not among those that run, and may hold writes that the others do"
            f" not: start its node, which has its files{way_out}"
        )
    coordinator.seed(shard, replace(newest, in_sync=here, addresses={**newest.addresses, **addresses}).to_bytes())


def _launch_entry(version: int, config: MemoryConfig, tokens: dict[str, str]) -> bytes:
    return msgpack.Packer().pack({"version": version, "config": asdict(config), "tokens": tokens})
