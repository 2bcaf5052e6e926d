"""The state of a cluster: its nodes, what is wrong with them, and the figures of what runs there."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from actors.errors import ActorError
from cluster.machines.addresses import head_of, hosts_of
from cluster.machines.cluster_file import ClusterFile
from cluster.machines.dashboard import Dashboard, Node, tunnel
from cluster.machines.node_probe import Probe, probe_all, problems
from cluster.machines.status_metrics import figures
from cluster.machines.wait_for_nodes import LOGS

Outcome = dict[str, Any]


def status(file: ClusterFile) -> Outcome:
    """Nodes with their resources and versions, what is wrong, and the figures of what runs there.

    Raises:
        ActorError: the cluster is not up, or does not take our token.
    """
    head = head_of(file)
    with tunnel(file, head) as dashboard:
        return {**node_status(file, head, dashboard), **figures(file, head, dashboard.exporters())}


def node_status(file: ClusterFile, head: str, dashboard: Dashboard) -> Outcome:
    nodes = dashboard.nodes()
    found = probe_all(file, hosts_of(file, head))
    wrong = [str(error) for error in problems(found, head)]
    rows = [{**asdict(node), **_versions(_probe_of(node, found, head))} for node in nodes]
    known = {host for host in found if any(_is_of(node, host, found[host], head) for node in nodes)}
    reached = {host for host, state in found.items() if isinstance(state, Probe)}
    waiting = dashboard.waiting()
    for host in [host for host in found if host in reached - known]:
        said = f", the autoscaler says: {waiting[host]}" if host in waiting else ""
        wrong.append(f"node {host} has not joined{said}: see {LOGS}/monitor.out on {head}")
    return {"name": file.name, "head": head, "expected": file.num_nodes, "nodes": rows, "problems": wrong}


def _is_of(node: Node, host: str, state: Probe | ActorError, head: str) -> bool:
    if node.address == host or (node.is_head and host == head):
        return True
    return isinstance(state, Probe) and node.address in state.addresses


def _probe_of(node: Node, found: dict[str, Probe | ActorError], head: str) -> Probe | None:
    states = (state for host, state in found.items() if _is_of(node, host, state, head))
    return next((state for state in states if isinstance(state, Probe)), None)


def _versions(state: Probe | None) -> Outcome:
    if state is None:
        return {"ray": None, "python": None, "leworld": None}
    return {"ray": state.ray, "python": state.python, "leworld": state.leworld}
