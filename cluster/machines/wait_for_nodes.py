"""Waiting until all nodes of a cluster have joined, and starting those that Ray gave up.

Ray's autoscaler tries each machine of a local cluster once. If that fails, perhaps because the machine was busy for
half a minute, it lists the node as pending for ever. This module starts such a node over ssh; if that fails,
its output is the reason.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

from actors.errors import ActorError
from cluster.machines.cluster_file import ClusterFile, with_token
from cluster.machines.dashboard import Dashboard, Node, NotUp
from cluster.machines.log_errors import last_trouble
from cluster.machines.ssh import on

LOGS = "/tmp/ray/session_latest/logs"
POLL_S = 1.0
GIVEN_UP_S = 20.0
START_S = 120.0
AT_WORK = ("waiting-for-ssh", "syncing-files", "setting-up")
"""What the autoscaler says of a node that it is busy with."""


class Patience:
    """How long each address has waited while no process starts it."""

    def __init__(self) -> None:
        self._since: dict[str, float] = {}

    def given_up(self, missing: Iterable[str], waiting: Mapping[str, str], now: float) -> list[str]:
        """Return addresses that no process has been starting for too long.

        Args:
            missing: that have not joined.
            waiting: what the autoscaler says of nodes.
            now: seconds on a clock.
        """
        idle = [address for address in missing if waiting.get(address) not in AT_WORK]
        self._since = {address: self._since.get(address, now) for address in idle}
        return [address for address, since in self._since.items() if now - since >= GIVEN_UP_S]


def wait_for_nodes(
    file: ClusterFile, head: str, dashboard: Dashboard, limit_s: float, tell: Callable[[str], None]
) -> None:
    """Return when all nodes have joined.

    Raises:
        ActorError: a node does not join.
    """
    joined: dict[str, Node] = {}
    patience, helped, deadline = Patience(), set(), time.monotonic() + limit_s
    while True:
        waiting: dict[str, str] = {}
        with suppress(NotUp):
            for node in dashboard.nodes():
                if node.address not in joined:
                    tell(f"joined: {node.address} ({resources(node)})")
                    joined[node.address] = node
            waiting = dashboard.waiting()
        if len(joined) >= file.num_nodes:
            return
        missing = [address for address in file.workers if address not in joined]
        if time.monotonic() > deadline:
            raise _not_joined(file, head, missing or sorted(waiting), waiting, limit_s)
        given_up = [each for each in patience.given_up(missing, waiting, time.monotonic()) if each not in helped]
        if given_up:
            tell(f"Ray gave up {', '.join(given_up)}: starts it over ssh")
            start_workers(file, given_up)
            helped |= {*given_up}
        time.sleep(POLL_S)


def start_workers(file: ClusterFile, hosts: Sequence[str]) -> None:
    """Start workers as the autoscaler would, all at once.

    Raises:
        ActorError: one does not start; with the reason.
    """
    with ThreadPoolExecutor(len(hosts)) as pool:
        for _ in pool.map(lambda host: _start_worker(file, host), hosts):
            pass


def resources(node: Node) -> str:
    """Such as ``2 CPU, 1 GPU``."""
    shown = {name: node.resources.get(name, 0.0) for name in ("CPU", "GPU")}
    return ", ".join(f"{number:g} {name}" for name, number in shown.items() if number or name == "CPU")


def _start_worker(file: ClusterFile, host: str) -> None:
    token = file.token.read_text(encoding="ascii")
    on(file, host, f"umask 077; mkdir -p ~/.leworld && cat > ~/{file.remote_token}", given=token)
    lines = [with_token(line, file.remote_token) for line in file.start_commands("worker_start_ray_commands")]
    head = file.given["provider"]["head_ip"]
    # What Ray leaves running would hold on to a pipe.
    log = f"~/.leworld/{file.name}.log"
    script = f"export RAY_HEAD_IP={head}; ({' && '.join(f'({line})' for line in lines)}) > {log} 2>&1 < /dev/null"
    ran = on(file, host, f"{script}; code=$?; cat {log}; exit $code", START_S)
    if ran.code:
        reason = last_trouble(ran.out) or ran.last_line
        raise ActorError(f"node {host}", f"does not start Ray ({reason})", f"all that it said is in {log} there")


def _not_joined(
    file: ClusterFile, head: str, missing: Sequence[str], waiting: Mapping[str, str], limit_s: float
) -> ActorError:
    first = missing[0] if missing else ""
    text = on(file, head, f"tail -n 400 {LOGS}/monitor.log {LOGS}/monitor.out {LOGS}/monitor.err").out
    why = last_trouble(text, first) or waiting.get(first, "")
    more = f", nor did {', '.join(missing[1:])}" if missing[1:] else ""
    who = f"node {first}" if missing else f"cluster {file.name}"
    problem = f"has not joined in {limit_s:g} s{more}" + (f" ({why})" if why else "")
    return ActorError(who, problem, f"see {LOGS}/monitor.out on {head}")
