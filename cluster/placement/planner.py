"""Placement: where each part of a run goes on given nodes, and what is missing if it does not fit.

It follows the rules by which the parts are placed when a run starts: SLM actors one after the other over the nodes of
their role, each replica of a shard on the emptiest node of its role, the learner where its CPUs and GPU are free.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from torch import nn

from actors.memory_cluster.supervisor import choose_node
from actors.ray.node_placement import ROLE, candidates, nodes_for
from actors.training.system_actors import slm_actor_names
from cluster.config.run_config import RunConfig
from cluster.placement.cost_model import TRAINED_BYTES
from cluster.placement.topology import Topology
from leworld.models.fleet import build_slm
from leworld.models.system import build_blm
from leworld.training.phase_runner import fleet_config
from leworld.worlds.base import WorldSpec

Nodes = Sequence[Mapping[str, Any]]
"""As ``ray.nodes()`` lists them."""
GIB = 1 << 30
TORCH_BYTES, PLAIN_BYTES = 320 << 20, 120 << 20
"""What a process holds that has imported torch and Ray, or Ray alone, and done nothing."""


@dataclass(frozen=True)
class PlacedPart:
    """A process of a run.

    Attributes:
        role: learner, slm, memory or gateway.
        name: of the process.
        memory_bytes: the least that it holds: code, weights and what trains them; batches and words come on top.
        cpus, gpus: that it is granted.
    """

    role: str
    name: str
    memory_bytes: int
    cpus: int = 0
    gpus: int = 0


@dataclass(frozen=True)
class Site:
    """A node and what goes there; ``memory_bytes`` is what Ray has for processes, 0 where that is not known."""

    name: str
    role: str
    cpus: float
    gpus: float
    memory_bytes: int
    parts: tuple[PlacedPart, ...]

    @property
    def used_bytes(self) -> int:
        """Return the least memory that all its parts hold."""
        return sum(part.memory_bytes for part in self.parts)


@dataclass(frozen=True)
class Placement:
    """The node of every part; ``problems`` prevent the run, ``notes`` do not."""

    sites: tuple[Site, ...]
    problems: tuple[str, ...]
    notes: tuple[str, ...]

    def outcome(self) -> dict[str, Any]:
        """Return plain values."""
        return {"nodes": [{**asdict(site), "used_bytes": site.used_bytes} for site in self.sites],
                "problems": list(self.problems), "notes": list(self.notes)}  # fmt: skip


def place_run(config: RunConfig, topology: Topology, spec: WorldSpec, nodes: Nodes) -> Placement:
    """Put the parts of a run in a world on nodes."""
    slm = build_slm(fleet_config(config.model, config.phases, config.seed), spec, 0)
    return place(topology, _size(slm), _size(build_blm(config.model, spec, config.seed)), nodes)


def place(topology: Topology, slm_parameters: int, blm_parameters: int, nodes: Nodes) -> Placement:
    """Put the parts of a run on nodes.

    Args:
        topology: the parts.
        slm_parameters: of one SLM.
        blm_parameters: of the BLM.
        nodes: of the cluster.
    """
    alive = [node for node in nodes if node["Alive"]]
    learners, problem = _learners(topology, TORCH_BYTES + TRAINED_BYTES * blm_parameters, alive)
    found = [*learners]
    found += _slms(topology, slm_parameters, alive)
    found += _memory(topology, alive)
    found += _gateways(topology, TORCH_BYTES + TRAINED_BYTES * blm_parameters, alive)
    sites = tuple(_site(node, [part for name, part in found if name == node["NodeID"]]) for node in alive)
    problems = [problem] if problem else []
    notes = [*_notes(topology, alive)]
    if 0 < len(learners) < topology.learners:
        notes.append(
            f"only {len(learners)} of {topology.learners} learners fit; others join when there are nodes for them"
        )
    return Placement(sites, (*problems, *_too_little_memory(sites)), tuple(notes))


def _learners(topology: Topology, need: int, alive: Nodes) -> tuple[list[tuple[str, PlacedPart]], str]:
    """As many learners as fit, each on the node with most CPUs left; what is missing if none fits."""
    cpus, gpus, found = topology.learner_cpus, topology.gpus, []
    fits = {name: node for node in alive if (name := node["NodeID"]) in candidates("learner", alive)}
    left = {name: (_has(node, "CPU"), _has(node, "GPU")) for name, node in fits.items()}
    for number in range(topology.learners):
        able = [name for name, (free, free_gpus) in left.items() if free >= cpus and free_gpus >= gpus]
        if not able:
            break
        name = max(able, key=lambda name: left[name])
        left[name] = (left[name][0] - cpus, left[name][1] - gpus)
        found.append((name, PlacedPart("learner", f"learner {number}", need, cpus, gpus)))
    if found:
        return found, ""
    most = max((_has(node, "CPU") for node in fits.values()), default=0.0)
    if most < cpus:
        fewer = f"set cluster.threads to {int(most)} or less, or " if most >= 1 else ""
        return [], (
            f"a learner needs {cpus} CPUs on one node (cluster.threads), the largest has {most:g}:"
            f" {fewer}add a node with {cpus}"
        )
    return [], "a learner needs a GPU (cluster.device cuda) and no node with its CPUs has one: add one, or take cpu"


def _slms(topology: Topology, parameters: int, alive: Nodes) -> list[tuple[str, PlacedPart]]:
    names = slm_actor_names(topology.slm_ids)
    needs = [TORCH_BYTES + TRAINED_BYTES * parameters * len(ids) for ids in topology.slm_ids]
    parts = [PlacedPart("slm", name, need) for name, need in zip(names, needs, strict=True)]
    return list(zip(nodes_for("slm", len(parts), alive), parts, strict=True))


def _memory(topology: Topology, alive: Nodes) -> list[tuple[str, PlacedPart]]:
    nodes: dict[tuple[int, int], str] = {}
    for shard in topology.shard_ids:
        for copy in range(topology.copies):
            place = (shard, copy)
            nodes[place] = choose_node(place, candidates("memory", alive), nodes, {}, together=True)
    which = {place: f", copy {place[1]}" if topology.copies > 1 else "" for place in nodes}
    return [
        (node, PlacedPart("memory", f"shard {place[0]}{which[place]}", PLAIN_BYTES)) for place, node in nodes.items()
    ]


def _gateways(topology: Topology, need: int, alive: Nodes) -> list[tuple[str, PlacedPart]]:
    parts = [PlacedPart("gateway", f"gateway {number}", need) for number in range(topology.gateways)]
    return list(zip(nodes_for("gateway", len(parts), alive), parts, strict=True))


def _site(node: Mapping[str, Any], parts: Sequence[PlacedPart]) -> Site:
    role = node.get("Labels", {}).get(ROLE, "")
    name = node.get("NodeName") or node["NodeID"]
    return Site(name, role, _has(node, "CPU"), _has(node, "GPU"), int(_has(node, "memory")), tuple(parts))


def _too_little_memory(sites: Sequence[Site]) -> Iterator[str]:
    for site in sites:
        if site.memory_bytes and site.used_bytes > site.memory_bytes:
            kinds = Counter(part.role for part in site.parts)
            what = ", ".join(f"{count} {role}" for role, count in kinds.items())
            yield (
                f"node {site.name}: its parts ({what}) hold at least {site.used_bytes / GIB:.1f} GiB and it has"
                f" {site.memory_bytes / GIB:.1f}: add a node, or ask for fewer cluster.slm_actors or cluster.shards"
            )


def _notes(topology: Topology, alive: Nodes) -> Iterator[str]:
    places = len(candidates("memory", alive))
    if topology.copies > places:
        yield (
            f"{topology.copies} copies of a shard are on {places} node{'s' * (places > 1)}: a lost node may take all"
            f" of them; have {topology.copies} nodes for the memory"
        )
    if topology.copies == 1 and len(alive) > 1:
        yield "a shard that is lost with its node takes the run back to its last checkpoint: cluster.copies=2 keeps it"


def _has(node: Mapping[str, Any], resource: str) -> float:
    return float(node["Resources"].get(resource, 0.0))


def _size(model: nn.Module) -> int:
    return sum(part.numel() for part in model.parameters())
