"""Keeper: has every copy of a cluster's memory run, on a node of its own, also when nodes come and go.

Ray starts a copy again on the node that holds its files. If that node is gone, the keeper starts one elsewhere, which
is then made anew from the copy that leads.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from actors.calls import gather
from actors.memory_copy import MemoryConfig, MemoryCopy, files_here
from actors.shard_map import shard_name
from leworld.errors import ConfigError, LeWorldError

LOG = logging.getLogger(__name__)
RAY_NAMESPACE = "leworld"
WATCH_S = 1.0
ANSWER_S = 5.0
SEARCH_S = 30.0

Place = tuple[int, int]
"""A shard and which copy of it."""


class MemoryKeeper:
    """Of one memory. Made remote in ``actors.launch_memory``."""

    def __init__(self, config: MemoryConfig, tokens: dict[str, str], shards: Sequence[int]) -> None:
        """Begin to watch.

        Args:
            config: of the memory.
            tokens: token to who brings it.
            shards: to be kept.
        """
        self._config, self._tokens, self._shards = config, tokens, tuple(shards)
        self._nodes: dict[Place, str] = {}
        # One that nobody holds a handle of would end.
        self._actors: dict[Place, Any] = {}
        self._lock, self._ending = threading.RLock(), threading.Event()
        threading.Thread(target=self._watch, name="memory-keeper", daemon=True).start()

    def keep(self, shards: Sequence[int]) -> None:
        """Keep these shards from now on; their copies run, or are being started, when this returns.

        Raises:
            ConfigError: there are too few nodes.
        """
        with self._lock:
            self._shards = tuple(shards)
            self._start_missing()

    def nodes(self) -> dict[str, str]:
        """Name of each copy's actor to the node that it runs on, or is started on."""
        return {
            actor_name(self._config, *place): node for place, node in self._nodes.items() if place[0] in self._shards
        }

    def stop(self) -> None:
        """Watch no more."""
        self._ending.set()
        with self._lock:
            self._shards = ()

    def _watch(self) -> None:
        while not self._ending.wait(WATCH_S):
            try:
                with self._lock:
                    self._start_missing()
            except Exception:
                # There may be a node for it the next time.
                LOG.exception("memory %s: a copy cannot be started", self._config.name)

    def _start_missing(self) -> None:
        missing = [place for place in self._places() if not is_up(actor_name(self._config, *place))]
        if not missing:
            return
        alive = [node["NodeID"] for node in ray.nodes() if node["Alive"]]
        self._look_where_they_run([place for place in self._places() if place not in missing])
        for place in missing:
            self._nodes.pop(place, None)
        files = self._find_files(alive)
        for place in missing:
            self._nodes[place] = choose_node(place, alive, self._nodes, files, together=self._config.together)
            self._start(place)

    def _places(self) -> list[Place]:
        return [(shard, copy) for shard in self._shards for copy in range(self._config.copies)]

    def _look_where_they_run(self, places: Sequence[Place]) -> None:
        """After a start of this keeper's own."""
        for place in places:
            if place not in self._nodes:
                name = actor_name(self._config, *place)
                with suppress(LeWorldError, ValueError):
                    self._nodes[place] = gather([ray.get_actor(name, RAY_NAMESPACE).node.remote()], [name], ANSWER_S)[0]

    def _find_files(self, alive: Sequence[str]) -> dict[Place, str]:
        """The node that has a copy's files, the newest ones where there are several."""
        look = ray.remote(num_cpus=0)(files_here)
        asked = [look.options(scheduling_strategy=_only(node)).remote(self._config) for node in alive]
        answers = gather(asked, [f"node {node[:8]}" for node in alive], SEARCH_S)
        newest: dict[Place, tuple[int, str]] = {}
        for node, found in zip(alive, answers, strict=True):
            for place, version in found.items():
                newest[place] = max(newest.get(place, (-1, "")), (version, node))
        return {place: node for place, (_, node) in newest.items()}

    def _start(self, place: Place) -> None:
        make = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=0)(MemoryCopy)
        self._actors[place] = make.options(
            name=actor_name(self._config, *place), namespace=RAY_NAMESPACE, lifetime=lifetime(self._config),
            get_if_exists=True, scheduling_strategy=_only(self._nodes[place]), max_concurrency=4,
        ).remote(self._config, *place, self._tokens)  # fmt: skip


def choose_node(
    place: Place, alive: Sequence[str], nodes: Mapping[Place, str], files: Mapping[Place, str], *, together: bool
) -> str:
    """The node for a copy: that of its files, else the emptiest one that has no other copy of its shard.

    Args:
        place: the copy.
        alive: nodes that there are.
        nodes: where other copies are.
        files: where copies have files.
        together: whether copies of a shard may be on one node.

    Raises:
        ConfigError: there is none.
    """
    others = {node for (shard, copy), node in nodes.items() if shard == place[0] and copy != place[1]}
    free = [node for node in alive if together or node not in others]
    if not free:
        raise ConfigError(
            f"shard {place[0]}: copy {place[1]} needs a node without another copy of it, and all {len(alive)} have one:"
            " add a node, ask for fewer copies, or allow them on one node with --together"
        )
    if files.get(place) in free:
        return files[place]
    # The files of another copy belong to that one.
    awaited = {node for (shard, copy), node in files.items() if shard == place[0] and copy != place[1]}
    load = Counter(nodes.values())
    return min(free, key=lambda node: (node in others, node in awaited, load[node], node))


def actor_name(config: MemoryConfig, shard: int, copy: int) -> str:
    """Of a copy's actor."""
    return f"{config.name}/{shard_name(shard)}/copy-{copy}"


def lifetime(config: MemoryConfig) -> str | None:
    """Of its actors, as Ray takes it."""
    return None if config.ends_with_run else "detached"


def is_up(name: str) -> bool:
    """Whether there is an actor of a name; it may be starting."""
    try:
        ray.get_actor(name, RAY_NAMESPACE)
    except ValueError:
        return False
    return True


def _only(node: str) -> Any:
    return NodeAffinitySchedulingStrategy(node, soft=False)
