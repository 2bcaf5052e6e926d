"""Where the nodes of a cluster are reached from this machine."""

from __future__ import annotations

from cluster.machines.cluster_file import ClusterFile, client_environment, prepare
from cluster.machines.dashboard import NotUp, no_token
from cluster.machines.ssh import run

LOOK_UP_S = 28.0
"""Limit of Ray's commands that only look something up."""


def head_of(file: ClusterFile) -> str:
    """Return the address of the head from here.

    Raises:
        ActorError: this machine did not start the cluster, or the cloud has no head.
    """
    if file.head is not None:
        return file.head
    return _look_up(file, "get-head-ip")[-1]


def hosts_of(file: ClusterFile, head: str) -> list[str]:
    """Return the addresses of all nodes from here, the head first."""
    if file.is_local:
        return [head, *file.workers]
    return [head, *_look_up(file, "get-worker-ips")]


def _look_up(file: ClusterFile, what: str) -> list[str]:
    if not file.token.is_file():
        raise no_token(file)
    prepare(file)
    ran = run(["ray", what, str(file.prepared)], LOOK_UP_S, client_environment(file))
    lines = ran.out.split()
    if ran.code or (what == "get-head-ip" and not lines):
        way_out = f"start it with 'leworld cluster up {file.path}', or see your cloud's credentials"
        raise NotUp(f"cluster {file.name}", f"is not known to the cloud ({ran.last_line})", way_out)
    return lines
