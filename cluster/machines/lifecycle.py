"""Start and stop a cluster by Ray's own commands, after checks that name in one line what would make them hang."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

from actors.errors import ActorError
from cluster.machines.addresses import head_of
from cluster.machines.cluster_file import ClusterFile, check_with_ray, client_environment, prepare
from cluster.machines.dashboard import NotUp, tunnel
from cluster.machines.log_errors import last_trouble
from cluster.machines.node_probe import Probe, probe, probe_all, problems, raise_problems
from cluster.machines.ssh import on, run
from cluster.machines.status import node_status
from cluster.machines.wait_for_nodes import wait_for_nodes
from leworld.errors import ConfigError

Outcome = dict[str, Any]
Tell = Callable[[str], None]

DOWN_S = 180.0
STOP_S = 60.0


def up(file: ClusterFile, limit_s: float, restart: bool, tell: Tell) -> Outcome:
    """Start a cluster, or those of its nodes that are missing, and wait until all have joined.

    Args:
        file: of the cluster.
        limit_s: of ``ray up``, and again of the waiting.
        restart: also where it runs already; jobs on it end.
        tell: is told each step.

    Raises:
        ConfigError: all of it runs already.
        ActorError: a node is not as it has to be, or the cluster does not come up.
    """
    found: dict[str, Probe | ActorError] = {}
    if file.is_local:
        assert file.head is not None
        found = probe_all(file, [file.head, *file.workers])
        raise_problems(problems(found, file.head))
        tell(f"{len(found)} machines answer, with the same Ray and Python")
    num_up = 0 if restart else _nodes_that_run(file, found)
    if num_up >= file.num_nodes:
        see = f"see 'leworld cluster status {file.path}', or start it anew with --restart, which ends its jobs"
        raise ConfigError(f"cluster {file.name}: is up already with {num_up} nodes; {see}")
    if num_up == 0:
        _start(file, limit_s, tell)
    head = head_of(file)
    tell(f"head: {head}")
    with tunnel(file, head) as dashboard:
        wait_for_nodes(file, head, dashboard, limit_s, tell)
        return node_status(file, head, dashboard)


def down(file: ClusterFile, tell: Tell) -> Outcome:
    """Stop a cluster; on machines that are ours, also the workers, which Ray would leave running.

    Returns:
        stopped: the machines; left: those that could not be stopped, with the reason.
    """
    prepare(file)
    left = _stop_machines(file, tell) if file.is_local else {}
    # Where the head cannot be reached, Ray would try for minutes.
    if not (file.is_local and file.head in left):
        ran = run(["ray", "down", "-y", str(file.prepared)], DOWN_S, client_environment(file))
        if ran.code:
            raise ActorError(f"cluster {file.name}", f"was not taken down ({ran.last_line})", "try again")
    _forget_here(file)
    if not left:
        # The next cluster gets a new token.
        for path in (file.token, file.prepared):
            path.unlink(missing_ok=True)
    machines = [host for host in (file.head, *file.workers) if host is not None]
    return {
        "name": file.name, "stopped": [host for host in machines if host not in left],
        "left": {host: str(error) for host, error in left.items()},
    }  # fmt: skip


def _nodes_that_run(file: ClusterFile, found: dict[str, Probe | ActorError]) -> int:
    """Nodes of this cluster that are up already.

    Raises:
        ConfigError: another cluster is.
    """
    state = found.get(file.head or "")
    runs = isinstance(state, Probe) and state.runs_ray
    if not file.token.is_file():
        if runs:
            raise ConfigError(f"machine {file.head}: runs Ray that is not ours; stop it, or take it with --restart")
        return 0
    if isinstance(state, Probe) and not runs:
        return 0
    with suppress(NotUp), tunnel(file, head_of(file)) as dashboard:
        return len(dashboard.nodes())
    return 0


def _start(file: ClusterFile, limit_s: float, tell: Tell) -> None:
    check_with_ray(file)
    tell(f"{file.path} is valid for Ray")
    prepare(file)
    tell(f"token: {file.token}, shipped to ~/{file.remote_token} on every node")
    _forget_old_state(file)
    _ray_up(file, limit_s)


def _forget_old_state(file: ClusterFile) -> None:
    """Ray notes on the head which workers it started, and after a 'ray down' believes that they run."""
    if file.is_local:
        assert file.head is not None
        on(file, file.head, _forgetting(file))
        _forget_here(file)


def _forgetting(file: ClusterFile) -> str:
    return f"rm -f /tmp/ray/cluster-{file.name}.state /tmp/ray/cluster-{file.name}.lock"


def _forget_here(file: ClusterFile) -> None:
    if file.is_local:
        for ending in ("state", "lock"):
            with suppress(OSError):
                Path(f"/tmp/ray/cluster-{file.name}.{ending}").unlink()


def _ray_up(file: ClusterFile, limit_s: float) -> None:
    arguments = ["ray", "up", "-y", "--no-config-cache", str(file.prepared)]
    ran = run(arguments, limit_s, client_environment(file))
    file.log.write_text(ran.out + ran.err, encoding="utf-8")
    if ran.code:
        reason = last_trouble(ran.out + ran.err) or ran.last_line
        raise ActorError(f"cluster {file.name}", f"did not start ({reason})", f"all that Ray said is in {file.log}")


def _stop_machines(file: ClusterFile, tell: Tell) -> dict[str, ActorError]:
    assert file.head is not None
    left: dict[str, ActorError] = {}
    # The head goes first: its autoscaler would start the others again.
    for hosts in ([file.head], list(file.workers)):
        with ThreadPoolExecutor(max(1, min(32, len(hosts)))) as pool:
            for host, error in zip(hosts, pool.map(lambda host: _stop(file, host), hosts), strict=True):
                tell(f"stopped: {host}" if error is None else f"not stopped: {error}")
                if error is not None:
                    left[host] = error
    return left


def _stop(file: ClusterFile, host: str) -> ActorError | None:
    try:
        # Processes left over from another start end too.
        on(file, host, f"ray stop -g 10; {_forgetting(file)} {shlex.quote(file.remote_token)}", STOP_S)
        if probe(file, host).runs_ray:
            return ActorError(f"node {host}", "still runs Ray", "run 'ray stop --force' there")
    except ActorError as error:
        return error
    return None
