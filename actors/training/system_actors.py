"""A system's parts as Ray actors: its memory as a memory of the cluster, which ends with the run, and its SLMs."""

from __future__ import annotations

import secrets
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import ray

from actors.errors import ActorError, LostError
from actors.memory.sharded_store import ShardedStore
from actors.memory_cluster.cluster_memory import ClusterMemory
from actors.memory_cluster.replica_actor import MemoryConfig
from actors.processes import ProcessStat
from actors.ray.actor_calls import Watch, when_up
from actors.ray.node_placement import spread
from actors.rpc.calls import call_all
from actors.rpc.remote_peers import PeerConfig, RemotePeers
from actors.training.remote_fleet import RemoteFleet
from actors.training.slm_actor import SLMProcess
from leworld.errors import StoreError
from leworld.training.slm_training import SLMTrainingConfig
from leworld.worlds.base import World

LOST_S = 20.0
"""A shard without a leader for so long is lost: one that only died is back before."""
START_PATIENCE = 4.0
"""A process that imports torch takes many times longer to start than to answer."""


@dataclass(frozen=True)
class Handles:
    """A system's actors; any process of the cluster that gets this can connect to them.

    ``config`` and ``world``, which is a reference, are for SLM actors that were started anew. What is lost with its
    machine is started anew on others by whoever needs it next, and ends with that process.

    Attributes:
        anew: what this process started in place of what was lost: SLM actors by number, and the memory.
    """

    memory_name: str
    memory_keeper: Any
    slm_actors: tuple[Any, ...]
    slm_ids: tuple[tuple[int, ...], ...]
    config: SLMTrainingConfig
    world: Any
    token: str
    timeout_s: float
    memory_config: MemoryConfig
    anew: dict[Any, Any] = field(default_factory=dict, compare=False)

    def memory(self, name: str | None = None) -> ShardedStore:
        """A new client of the memory of that name, by default of ``living_memory``."""
        return ClusterMemory(name or self.living_memory()).client(min(self.timeout_s, LOST_S))

    def living_memory(self) -> str:
        """The memory's name; that of an empty one, if a shard does not come back: checkpoints have what it held.

        Raises:
            ActorError: no other can be started.
        """
        client = self._memory().client(min(self.timeout_s, LOST_S))
        try:
            client.stat()
        except (ActorError, StoreError):
            self.anew["memory"] = ClusterMemory.launch(replace(self.memory_config, name=run_memory_name()))
        finally:
            client.close()
        return self._memory().config.name

    def fleet(self) -> RemoteFleet:
        """A new client of the SLMs; one that died is waited for, one that is lost with its machine made anew.

        Raises:
            ActorError: it does not come up.
        """
        return RemoteFleet(self._slms(), self.slm_ids, self._recruit)

    def processes(self) -> list[ProcessStat]:
        """Every actor's process and its peak memory."""
        return [*self._memory().processes(), *call_all(self._slms(), "process").values()]

    def stop(self) -> None:
        """End every actor; one that is gone already does no harm."""
        for actor in {*self.slm_actors, *self._actors()}:
            ray.kill(actor)
        for memory in {self.memory_name, self._memory().config.name}:
            ClusterMemory(memory).stop()

    def _memory(self) -> ClusterMemory:
        return self.anew.get("memory") or ClusterMemory(self.memory_name)

    def _actors(self) -> list[Any]:
        return [self.anew.get(i, actor) for i, actor in enumerate(self.slm_actors)]

    def _slms(self) -> RemotePeers:
        names = slm_actor_names(self.slm_ids)
        while True:
            try:
                return self._connect(self._actors(), self.slm_ids, names)
            except LostError as error:
                lost = names.index(error.actor)
                self.anew[lost] = start_slm_actor(names, lost)

    def _recruit(self, slm_id: int) -> RemotePeers:
        """An actor more, which ends with whoever started it."""
        name = f"SLM actor of SLM {slm_id}"
        return self._connect([start_slm_actor([name], 0)], [(slm_id,)], [name])

    def _connect(self, actors: Sequence[Any], slm_ids: Sequence[Sequence[int]], names: Sequence[str]) -> RemotePeers:
        given = [(self.config, self.world, ids, self.token) for ids in slm_ids]
        endpoints = when_up(actors, "serve", given, names, START_PATIENCE * self.timeout_s)
        return RemotePeers(
            endpoints, names, PeerConfig(self.token, self.timeout_s, Watch(actors, names).is_lost, actors)
        )


def launch(
    config: SLMTrainingConfig, world: World, num_shards: int, slm_ids: Sequence[Sequence[int]], timeout_s: float,
    *, copies: int = 1,
) -> Handles:  # fmt: skip
    """Start a system's memory and SLM actors, and wait for them.

    Args:
        config: of the SLMs.
        world: sent once, however many actors there are.
        num_shards: of the memory.
        slm_ids: the SLMs of each actor.
        timeout_s: of every call to them.
        copies: of each shard.

    Raises:
        ActorError: an actor does not come up.
    """
    names = slm_actor_names(slm_ids)
    slms = tuple(start_slm_actor(names, i) for i in range(len(names)))
    memory = ClusterMemory.launch(run_memory(world.spec.address_bits, num_shards, copies))
    ids = tuple(tuple(ids) for ids in slm_ids)
    # The memory ends when nobody holds its keeper any more.
    handles = Handles(
        memory.config.name, memory.keeper, slms, ids, config, ray.put(world), secrets.token_hex(16), timeout_s,
        memory.config,
    )  # fmt: skip
    try:
        handles.fleet()
    except BaseException:
        handles.stop()
        raise
    return handles


def start_slm_actor(names: Sequence[str], number: int) -> Any:
    """One of several SLM actors, on its node of those of now."""
    make = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=0)(SLMProcess)
    place = spread("slm", len(names), ray.nodes())[number]
    return make.options(scheduling_strategy=place).remote(names[number])


def run_memory_name() -> str:
    """Of the memory of one run."""
    return f"run-{secrets.token_hex(4)}"


def run_memory(address_bits: int, num_shards: int, copies: int) -> MemoryConfig:
    """A memory that ends with the run: what is to outlast it is in the run's checkpoints."""
    folder = Path(tempfile.gettempdir()) / "leworld-runs"
    return MemoryConfig(
        run_memory_name(), str(folder), address_bits, num_shards, copies, policy="os", lease_s=1.0,
        together=True, ends_with_run=True,
    )  # fmt: skip


def slm_actor_names(slm_ids: Sequence[Sequence[int]]) -> list[str]:
    """Of each actor, by its SLMs."""
    return [slm_actor_name(i, ids) for i, ids in enumerate(slm_ids)]


def slm_actor_name(index: int, slm_ids: Sequence[int]) -> str:
    """``SLM actor 1 (SLMs 2-3)``."""
    hosted = f"SLM {slm_ids[0]}" if len(slm_ids) == 1 else f"SLMs {slm_ids[0]}-{slm_ids[-1]}"
    return f"SLM actor {index} ({hosted})"
