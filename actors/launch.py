"""The one place where plain classes become Ray actors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import ray

from actors.actor_fleet import ActorFleet
from actors.calls import ActorPeers, ask
from actors.memory_shard import MemoryShard
from actors.processes import ProcessStat
from actors.sharded_memory import ShardedMemory
from actors.slm_actor import SLMActor
from leworld.models.fleet import FleetConfig
from leworld.worlds.base import World

START_PATIENCE = 4.0
"""A process that imports torch takes many times longer to start than to answer."""


@dataclass(frozen=True)
class Handles:
    """A system's actors; any process of the cluster that gets this can connect to them."""

    shard_actors: tuple[Any, ...]
    shard_ids: tuple[int, ...]
    slm_actors: tuple[Any, ...]
    slm_ids: tuple[tuple[int, ...], ...]
    address_bits: int
    timeout_s: float

    def memory(self) -> ShardedMemory:
        """A new client of the memory."""
        return ShardedMemory(self._shards(), self.shard_ids, self.address_bits)

    def fleet(self) -> ActorFleet:
        """A new client of the SLMs."""
        return ActorFleet(self._slms(), self.slm_ids)

    def processes(self) -> list[ProcessStat]:
        """Every actor's process and its peak memory."""
        return [*ask(self._shards(), "process").values(), *ask(self._slms(), "process").values()]

    def wait_until_ready(self) -> None:
        """Return once every actor answers.

        Raises:
            ActorError: one does not.
        """
        pending = [
            peers.start("process", dict.fromkeys(range(len(peers.names)), ()), START_PATIENCE)
            for peers in (self._shards(), self._slms())
        ]
        for answers in pending:
            answers()

    def stop(self) -> None:
        """End every actor; one that is gone already does no harm."""
        for actor in (*self.shard_actors, *self.slm_actors):
            ray.kill(actor)

    def _shards(self) -> ActorPeers:
        return ActorPeers(self.shard_actors, [f"memory shard {i}" for i in self.shard_ids], self.timeout_s)

    def _slms(self) -> ActorPeers:
        return ActorPeers(
            self.slm_actors, [slm_actor_name(i, ids) for i, ids in enumerate(self.slm_ids)], self.timeout_s
        )


def launch(
    config: FleetConfig, world: World, shard_ids: Sequence[int], slm_ids: Sequence[Sequence[int]], timeout_s: float
) -> Handles:
    """Start a system's shards and SLM actors, and wait for them.

    Args:
        config: of the SLMs.
        world: sent once, however many actors there are.
        shard_ids: one shard each.
        slm_ids: the SLMs of each actor.
        timeout_s: of every call to them.

    Raises:
        ActorError: an actor does not come up.
    """
    make_shard, make_slms = _remote(MemoryShard), _remote(SLMActor)
    world_ref = ray.put(world)
    shards = [make_shard.remote(shard_id, world.spec.address_bits) for shard_id in shard_ids]
    slms = [make_slms.remote(slm_actor_name(i, ids), config, world_ref, ids) for i, ids in enumerate(slm_ids)]
    handles = Handles(
        shard_actors=tuple(shards),
        shard_ids=tuple(shard_ids),
        slm_actors=tuple(slms),
        slm_ids=tuple(tuple(ids) for ids in slm_ids),
        address_bits=world.spec.address_bits,
        timeout_s=timeout_s,
    )
    handles.wait_until_ready()
    return handles


def _remote(plain: type) -> Any:
    """Ray Train places its worker by free CPUs, so actors that wait most of the time must not hold any."""
    return ray.remote(num_cpus=0, max_restarts=0, max_task_retries=0)(plain)


def slm_actor_name(index: int, slm_ids: Sequence[int]) -> str:
    """``SLM actor 1 (SLMs 2-3)``."""
    hosted = f"SLM {slm_ids[0]}" if len(slm_ids) == 1 else f"SLMs {slm_ids[0]}-{slm_ids[-1]}"
    return f"SLM actor {index} ({hosted})"
