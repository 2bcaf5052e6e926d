"""Supervisor: keeps every replica of a cluster's memory running on its own node while nodes come and go.

Ray starts a replica again on the node that holds its files. If that node is gone, the supervisor starts one elsewhere,
which then copies its leader's files. The coordinator records where each replica is, so the supervisor may be lost.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import msgpack
import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from actors.errors import ActorError
from actors.memory.coordinator import version_of
from actors.memory.shard_map import load_map
from actors.memory_cluster.actor_registry import RAY_NAMESPACE, Place, is_up, replica_name
from actors.memory_cluster.ray_coordinator import RayCoordinator
from actors.memory_cluster.replica_actor import MemoryConfig, ReplicaActor, files_here
from actors.ray.actor_calls import gather
from actors.ray.node_placement import candidates
from leworld.errors import ConfigError, LeWorldError

LOG = logging.getLogger(__name__)
WATCH_S = 1.0
SEARCH_S = 30.0
PLACES = "places"


class Supervisor:
    """The supervisor of one memory. It is made remote in ``actors.memory_cluster.cluster_memory``."""

    def __init__(self, config: MemoryConfig, tokens: dict[str, str]) -> None:
        """Begin to watch.

        Args:
            config: of the memory at its launch; the coordinator has the current number of shards.
            tokens: token to its owner.
        """
        self._config, self._tokens = config, tokens
        self._coordinator = RayCoordinator(config.name)
        self._asked: tuple[int, ...] = ()
        self._stopped, self._problem = False, ""
        # An actor that ends with the run would end without a handle.
        self._actors: dict[Place, Any] = {}
        self._lock = threading.Lock()
        threading.Thread(target=self._watch, name="memory-keeper", daemon=True).start()

    def keep(self, shards: Sequence[int]) -> None:
        """Keep these shards and those of the map; their replicas run or are starting on return.

        Raises:
            ConfigError: there are too few nodes.
        """
        with self._lock:
            self._asked, self._stopped = tuple(shards), False
            self._start_missing()

    def nodes(self) -> dict[str, str]:
        """Return the node of each replica's actor, by name."""
        nodes, kept = self._load_places()[1], self._shards()
        return {replica_name(self._config.name, place): node for place, node in nodes.items() if place[0] in kept}

    def stop(self) -> None:
        """Start nothing until ``keep`` is called."""
        with self._lock:
            self._stopped = True

    def _watch(self) -> None:
        wake = threading.Event()
        while not wake.wait(WATCH_S):
            try:
                with self._lock:
                    if not self._stopped:
                        self._start_missing()
                self._tell("")
            except LeWorldError as error:
                # There may be a node for it later.
                self._tell(str(error))
            except Exception:
                LOG.exception("memory %s: copies cannot be looked after", self._config.name)

    def _tell(self, problem: str) -> None:
        if problem and problem != self._problem:
            LOG.warning("memory %s: %s", self._config.name, problem)
        self._problem = problem

    def _shards(self) -> set[int]:
        """Return the shards of the map and those being added, which the map has after a loss of this supervisor."""
        known = load_map(self._coordinator).all_shards
        return {*known, *(self._asked or (() if known else range(self._config.shards)))}

    def _start_missing(self) -> None:
        places = [(shard, copy) for shard in sorted(self._shards()) for copy in range(self._config.copies)]
        missing = [place for place in places if not is_up(replica_name(self._config.name, place))]
        if not missing:
            return
        alive, files = self._find_files()
        alive = [node for node in candidates("memory", ray.nodes()) if node in alive]
        version, known = self._load_places()
        nodes = {place: node for place, node in known.items() if place in places and place not in missing}
        problem = None
        for place in missing:
            try:
                nodes[place] = choose_node(place, alive, nodes, files, together=self._config.together)
            except ConfigError as error:
                # There may be a node for others.
                problem = error
        # This comes before the start: the next supervisor must know where they are.
        placed = [place for place in missing if place in nodes]
        if placed and self._coordinator.store(PLACES, version + 1, _places_entry(version + 1, nodes)):
            for place in placed:
                self._start(place, nodes[place])
        if problem is not None:
            raise problem

    def _load_places(self) -> tuple[int, dict[Place, str]]:
        """Return version and content of the entry with the node of each replica."""
        raw = self._coordinator.load(PLACES)
        rows = [] if raw is None else msgpack.unpackb(raw)["nodes"]
        return version_of(raw), {(shard, copy): node for shard, copy, node in rows}

    def _find_files(self) -> tuple[list[str], dict[Place, str]]:
        """Return all nodes, and the node with each replica's newest files."""
        look, alive = ray.remote(num_cpus=0)(files_here), alive_nodes()
        asked = [look.options(scheduling_strategy=_only(node)).remote(self._config) for node in alive]
        try:
            answers = gather(asked, [f"node {node[:8]}" for node in alive], SEARCH_S)
        except ActorError:
            if set(alive_nodes()) >= set(alive):
                raise
            # One was lost just then.
            return self._find_files()
        newest: dict[Place, tuple[int, str]] = {}
        for node, found in zip(alive, answers, strict=True):
            for place, version in found.items():
                newest[place] = max(newest.get(place, (-1, "")), (version, node))
        return alive, {place: node for place, (_, node) in newest.items()}

    def _start(self, place: Place, node: str) -> None:
        make = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=0)(ReplicaActor)
        self._actors[place] = make.options(
            name=replica_name(self._config.name, place), namespace=RAY_NAMESPACE, lifetime=lifetime(self._config),
            get_if_exists=True, scheduling_strategy=_only(node), max_concurrency=4,
        ).remote(self._config, *place, self._tokens)  # fmt: skip


def choose_node(
    place: Place, alive: Sequence[str], nodes: Mapping[Place, str], files: Mapping[Place, str], *, together: bool
) -> str:
    """Return the node for a replica: that of its files, else the emptiest without a replica of its shard.

    Args:
        place: the replica.
        alive: nodes that live.
        nodes: of other replicas.
        files: nodes that have files of replicas.
        together: whether replicas of a shard may be on one node.

    Raises:
        ConfigError: there is no such node.
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
    # The files of another replica belong to that one.
    awaited = {node for (shard, copy), node in files.items() if shard == place[0] and copy != place[1]}
    load = Counter(nodes.values())
    return min(free, key=lambda node: (node in others, node in awaited, load[node], node))


def lifetime(config: MemoryConfig) -> str | None:
    """Return the lifetime of its actors in Ray's terms."""
    return None if config.ends_with_run else "detached"


def alive_nodes() -> list[str]:
    """Return the ids of the nodes that live."""
    return [node["NodeID"] for node in ray.nodes() if node["Alive"]]


def _places_entry(version: int, nodes: Mapping[Place, str]) -> bytes:
    rows = [[*place, node] for place, node in nodes.items()]
    return msgpack.Packer().pack({"version": version, "nodes": rows})


def _only(node: str) -> Any:
    return NodeAffinitySchedulingStrategy(node, soft=False)
