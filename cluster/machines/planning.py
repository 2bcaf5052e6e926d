"""What ``leworld cluster plan`` does: where a run's parts would go, on nodes that run or that are only described."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any

from pydantic import ByteSize, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from actors.ray.node_placement import ROLE
from cluster.config.run_config import RunConfig, check_world
from cluster.machines.addresses import head_of
from cluster.machines.cluster_file import ClusterFile
from cluster.machines.dashboard import tunnel
from cluster.placement.planner import Nodes, Placement, place_run
from cluster.placement.topology import plan
from leworld.errors import ConfigError
from leworld.worlds.registry import build_world


@dataclass(config=ConfigDict(extra="forbid"), frozen=True)
class Described:
    """``count`` nodes that there might be, alike; ``memory`` in bytes, 0 where it is not to be looked at."""

    cpus: Annotated[float, Field(ge=0)]
    memory: Annotated[ByteSize, Field(ge=0)] = ByteSize(0)
    gpus: Annotated[int, Field(ge=0)] = 0
    role: str = ""
    count: Annotated[int, Field(ge=1, le=100_000)] = 1


def plan_run(config: RunConfig, nodes: Nodes, gateways: int = 0) -> Placement:
    """Where the parts of a run would go, and so many gateways that answer from it.

    Raises:
        ConfigError: the config cannot be satisfied.
    """
    topology = replace(plan(config), gateways=gateways)
    world = build_world(config.world.name, config.world.settings, config.seed)
    check_world(config, world.spec)
    return place_run(config, topology, world.spec, nodes)


def nodes_that_run(file: ClusterFile) -> Nodes:
    """The nodes of a cluster that is up.

    Raises:
        ActorError: the cluster is not up, or refuses our token.
    """
    with tunnel(file, head_of(file)) as dashboard:
        return [_node(node.address, node.resources, node.labels) for node in dashboard.nodes()]


def this_machine() -> Nodes:
    """Describe this machine alone."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return [_node("this machine", {"CPU": os.cpu_count() or 1, "memory": memory}, {})]


def described(texts: Sequence[str]) -> Nodes:
    """Nodes as they are described, such as ``cpus=16,memory=64G,gpus=1,role=slm,count=3``.

    Raises:
        ConfigError: a description is not of this kind.
    """
    nodes = []
    for text in texts:
        given = _described(text)
        resources = {"CPU": given.cpus, "GPU": given.gpus, "memory": given.memory}
        labels = {ROLE: given.role} if given.role else {}
        nodes += [_node(f"node-{len(nodes) + i}", resources, labels) for i in range(given.count)]
    return nodes


def _described(text: str) -> Described:
    pairs = [part.strip().partition("=") for part in text.split(",")]
    try:
        return TypeAdapter(Described).validate_python({key: value for key, _, value in pairs})
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = ".".join(map(str, first["loc"]))
        raise ConfigError(
            f"--node {text}: {name}: {first['msg'].lower()}; give such as cpus=16,memory=64G,gpus=1,role=slm,count=3"
        ) from None


def _node(name: str, resources: Mapping[str, float], labels: Mapping[str, str]) -> dict[str, Any]:
    return {"NodeID": name, "NodeName": name, "Alive": True, "Resources": dict(resources), "Labels": dict(labels)}
