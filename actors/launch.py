"""A system's parts as Ray actors: its memory as a memory of the cluster, which ends with the run, and its SLMs."""

from __future__ import annotations

import secrets
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray

from actors.actor_fleet import ActorFleet
from actors.calls import Watch, ask, gather
from actors.launch_memory import ClusterMemory
from actors.memory_copy import MemoryConfig
from actors.places import spread
from actors.plane import Endpoint, PlanePeers
from actors.processes import ProcessStat
from actors.sharded_store import ShardedStore
from actors.slm_actor import SLMActor
from leworld.models.fleet import FleetConfig
from leworld.worlds.base import World

START_PATIENCE = 4.0
"""A process that imports torch takes many times longer to start than to answer."""


@dataclass(frozen=True)
class Handles:
    """A system's actors; any process of the cluster that gets this can connect to them."""

    memory_name: str
    memory_keeper: Any
    slm_actors: tuple[Any, ...]
    slm_endpoints: tuple[Endpoint, ...]
    slm_ids: tuple[tuple[int, ...], ...]
    token: str
    timeout_s: float

    def memory(self) -> ShardedStore:
        """A new client of the memory."""
        return ClusterMemory(self.memory_name).client(self.timeout_s)

    def fleet(self) -> ActorFleet:
        """A new client of the SLMs."""
        return ActorFleet(self._slms(), self.slm_ids)

    def processes(self) -> list[ProcessStat]:
        """Every actor's process and its peak memory."""
        return [*ClusterMemory(self.memory_name).processes(), *ask(self._slms(), "process").values()]

    def stop(self) -> None:
        """End every actor; one that is gone already does no harm."""
        for actor in self.slm_actors:
            ray.kill(actor)
        ClusterMemory(self.memory_name).stop()

    def _slms(self) -> PlanePeers:
        names = slm_actor_names(self.slm_ids)
        is_lost = Watch(self.slm_actors, names).is_lost
        return PlanePeers(self.slm_endpoints, names, self.token, self.timeout_s, is_lost)


def launch(
    config: FleetConfig, world: World, num_shards: int, slm_ids: Sequence[Sequence[int]], timeout_s: float,
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
    make_slms, world_ref = _remote(SLMActor), ray.put(world)
    names, token = slm_actor_names(slm_ids), secrets.token_hex(16)
    places = spread("slm", len(names), ray.nodes())
    slms = [
        make_slms.options(scheduling_strategy=place).remote(name, config, world_ref, ids)
        for name, ids, place in zip(names, slm_ids, places, strict=True)
    ]
    memory = ClusterMemory.launch(run_memory(world.spec.address_bits, num_shards, copies))
    try:
        served = [actor.serve.remote(token) for actor in slms]
        endpoints = gather(served, names, START_PATIENCE * timeout_s)
    except BaseException:
        memory.stop()
        raise
    ids = tuple(tuple(ids) for ids in slm_ids)
    # The memory ends when nobody holds its keeper any more.
    return Handles(memory.config.name, memory.keeper, tuple(slms), tuple(endpoints), ids, token, timeout_s)


def run_memory(address_bits: int, num_shards: int, copies: int) -> MemoryConfig:
    """A memory that ends with the run: what is to outlast it is in the run's checkpoints."""
    folder = Path(tempfile.gettempdir()) / "leworld-runs"
    return MemoryConfig(
        f"run-{secrets.token_hex(4)}", str(folder), address_bits, num_shards, copies, policy="os", lease_s=1.0,
        together=True, ends_with_run=True,
    )  # fmt: skip


def _remote(plain: type) -> Any:
    """Ray Train places its worker by free CPUs, so actors that wait most of the time must not hold any."""
    # Being watched takes one thread.
    settings: dict[str, Any] = {"num_cpus": 0, "max_restarts": 0, "max_task_retries": 0, "max_concurrency": 2}
    return ray.remote(**settings)(plain)


def slm_actor_names(slm_ids: Sequence[Sequence[int]]) -> list[str]:
    """Of each actor, by its SLMs."""
    return [slm_actor_name(i, ids) for i, ids in enumerate(slm_ids)]


def slm_actor_name(index: int, slm_ids: Sequence[int]) -> str:
    """``SLM actor 1 (SLMs 2-3)``."""
    hosted = f"SLM {slm_ids[0]}" if len(slm_ids) == 1 else f"SLMs {slm_ids[0]}-{slm_ids[-1]}"
    return f"SLM actor {index} ({hosted})"
