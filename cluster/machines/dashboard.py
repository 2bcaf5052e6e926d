"""Reaches the head's dashboard through an ssh tunnel: it listens on the head alone, so no port has to be opened."""

from __future__ import annotations

import http
import json
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from actors.errors import ActorError
from cluster.machines.cluster_file import ClusterFile, dashboard_port
from cluster.machines.ssh import SSH_S, end, not_reached, ssh_arguments, start

ANSWER_S = 10.0


class NotUp(ActorError):
    """There is no head, or no Ray answers on it."""


@dataclass(frozen=True)
class Node:
    """A node as the head knows it.

    Attributes:
        address: in the cluster.
        is_head: whether it is the head.
        resources: number of CPUs, GPUs and the like.
        labels: of the node, without Ray's own.
    """

    address: str
    is_head: bool
    resources: dict[str, float]
    labels: dict[str, str]


class Dashboard:
    """Asks the head over HTTP, with the cluster's token."""

    def __init__(self, file: ClusterFile, port: int) -> None:
        """Prepare to use a tunnel.

        Args:
            file: of the cluster.
            port: on this machine.
        """
        self.file, self.url = file, f"http://127.0.0.1:{port}"

    def get(self, path: str, method: str = "GET") -> Any:
        """Return the content at a path, or the result of a POST.

        Raises:
            NotUp: no Ray runs there.
            ActorError: it refuses our token, or what answers is not Ray.
        """
        who = f"cluster {self.file.name}"
        try:
            token = self.file.token.read_text(encoding="ascii").strip()
        except OSError:
            raise no_token(self.file) from None
        request = urllib.request.Request(self.url + path, method=method)
        request.add_header("Authorization", f"Bearer {token}")
        try:
            with urllib.request.urlopen(request, timeout=ANSWER_S) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            if error.code in (401, 403):
                raise wrong_token(self.file) from None
            raise ActorError(who, f"answers {error.code} {error.reason}", "see its dashboard.log on the head") from None
        except (OSError, ValueError) as error:
            reason = getattr(error, "reason", error)
            raise self.not_up(str(reason) or type(error).__name__) from None

    def not_up(self, reason: str) -> NotUp:
        """Return the error for a head without Ray."""
        way_out = f"start it with 'leworld cluster up {self.file.path}'"
        return NotUp(f"cluster {self.file.name}", f"does not answer on its head ({reason})", way_out)

    def nodes(self) -> list[Node]:
        """Return the living nodes, the head first."""
        rows = self.get("/api/v0/nodes?detail=True&limit=10000")["data"]["result"]["result"]
        nodes = [_node(row) for row in rows if row["state"] == "ALIVE"]
        return sorted(nodes, key=lambda node: (not node.is_head, node.address))

    def exporters(self) -> list[str]:
        """Return where each living node exports its metrics, as address:port."""
        nodes = [row["raylet"] for row in self.get("/nodes?view=summary")["data"]["summary"]]
        living = [node for node in nodes if node.get("state") == "ALIVE"]
        return [f"{node['nodeManagerAddress']}:{node['metricsExportPort']}" for node in living]

    def waiting(self) -> dict[str, str]:
        """Return the autoscaler's nodes that have not joined, with its note on each."""
        status = self.get("/api/cluster_status")["data"].get("clusterStatus") or {}
        report = status.get("autoscalerReport") or {}
        pending = {row[0]: row[2] for row in report.get("pendingNodes") or []}
        return {**pending, **{row[0]: "could not be set up" for row in report.get("failedNodes") or []}}

    def has_lost_its_head(self) -> bool:
        """Whether it reports that Ray's control service does not answer."""
        try:
            urllib.request.urlopen(self.url + "/api/gcs_healthz", timeout=ANSWER_S).close()
        except urllib.error.HTTPError as error:
            return error.code == http.HTTPStatus.SERVICE_UNAVAILABLE
        except OSError:
            return False
        return False

    def jobs(self) -> list[dict[str, Any]]:
        """Return the submitted jobs, the newest last."""
        jobs = [job for job in self.get("/api/jobs/") if job.get("submission_id")]
        return sorted(jobs, key=lambda job: job.get("start_time") or 0)

    def state(self, job: str) -> str:
        """Return the state of a job, such as ``RUNNING``."""
        return self.get(f"/api/jobs/{job}")["status"]

    def ask_to_stop(self, job: str) -> None:
        """Ask Ray to end a job; do not wait for it."""
        self.get(f"/api/jobs/{job}/stop", "POST")


@contextmanager
def tunnel(file: ClusterFile, head: str) -> Iterator[Dashboard]:
    """Open the head's dashboard on a port of this machine until the block ends.

    Raises:
        ActorError: the head cannot be reached, or refuses the login.
    """
    port = _free_port()
    forward = f"127.0.0.1:{port}:127.0.0.1:{dashboard_port(file)}"
    arguments = ssh_arguments(file, "-N", "-L", forward, "-o", "ExitOnForwardFailure=yes", f"{file.user}@{head}")
    process = start(arguments)
    try:
        _wait_until_open(file, head, process, port)
        yield Dashboard(file, port)
    finally:
        end(process)


def no_token(file: ClusterFile) -> ActorError:
    """Return the error for a cluster that this machine never started."""
    way_out = f"bring it up from here, or copy the head's ~/{file.remote_token} to {file.token}"
    return ActorError(f"cluster {file.name}", "has no token on this machine", way_out)


def wrong_token(file: ClusterFile) -> ActorError:
    """Return the error for a cluster with another token."""
    way_out = f"copy the head's ~/{file.remote_token} to {file.token}, or start anew with 'cluster up --restart'"
    return ActorError(f"cluster {file.name}", f"does not take the token in {file.token}", way_out)


def _wait_until_open(file: ClusterFile, head: str, process: subprocess.Popen[str], port: int) -> None:
    deadline = time.monotonic() + SSH_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            lines = process.communicate()[1].strip().splitlines() or ["ssh ended"]
            raise not_reached(file, head, lines[-1])
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            time.sleep(0.1)
    raise ActorError(f"node {head}", f"did not open a tunnel in {SSH_S:g} s", "see whether it hangs")


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def _node(row: dict[str, Any]) -> Node:
    resources = {name: value for name, value in row["resources_total"].items() if not name.startswith("node:")}
    labels = {name: value for name, value in (row.get("labels") or {}).items() if not name.startswith("ray.io/")}
    return Node(row["node_ip"], bool(row["is_head_node"]), resources, labels)
