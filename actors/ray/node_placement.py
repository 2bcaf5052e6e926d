"""Chooses nodes for actors. They ask for no CPUs, so Ray would put them on any node, also the head."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

ROLE = "leworld-role"
"""The label of a node by which it asks for actors of one kind: ``ray start --labels leworld-role=slm``."""


def spread(role: str, count: int, nodes: Sequence[Mapping[str, Any]]) -> list[NodeAffinitySchedulingStrategy]:
    """Return where actors go: in turn over the nodes of their role.

    Args:
        role: of the actors.
        count: number of actors.
        nodes: as ``ray.nodes()`` lists them.
    """
    # Ray puts actors without demands on random nodes and ignores soft preferences.
    return [NodeAffinitySchedulingStrategy(node, soft=False) for node in nodes_for(role, count, nodes)]


def nodes_for(role: str, count: int, nodes: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the ids of the nodes that ``count`` actors go to; see ``spread``."""
    chosen = candidates(role, nodes)
    return [chosen[i % len(chosen)] for i in range(count)]


def candidates(role: str, nodes: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the ids of the nodes with a role's label, else of those that have CPUs and no other role, else of all."""
    alive = sorted((node for node in nodes if node["Alive"]), key=lambda node: node["NodeID"])
    roles = [node.get("Labels", {}).get(ROLE) for node in alive]
    free = [given is None and node["Resources"].get("CPU", 0) > 0 for node, given in zip(alive, roles, strict=True)]
    for fits in ([given == role for given in roles], free):
        if any(fits):
            return [node["NodeID"] for node, fit in zip(alive, fits, strict=True) if fit]
    return [node["NodeID"] for node in alive]


def has_role(role: str, nodes: Sequence[Mapping[str, Any]]) -> bool:
    """Whether a node asks for actors of a role."""
    return any(node["Alive"] and node.get("Labels", {}).get(ROLE) == role for node in nodes)
