"""What ``leworld cluster`` does: Ray's own commands, between checks that say in one line what they would hang on."""

from __future__ import annotations

import os
import secrets
import shlex
import subprocess
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from actors.errors import ActorError
from cluster.machines.cluster_file import ClusterFile, check_with_ray, client_environment, prepare
from cluster.machines.dashboard import Dashboard, Node, NotUp, no_token, tunnel
from cluster.machines.job import entry_point, is_source, ships_code
from cluster.machines.log_errors import last_trouble
from cluster.machines.node_probe import Probe, probe, probe_all, problems
from cluster.machines.ssh import on, run
from cluster.machines.status_metrics import figures
from cluster.machines.wait_for_nodes import LOGS, wait_for_nodes
from leworld.errors import ConfigError

Outcome = dict[str, Any]
Tell = Callable[[str], None]

ASK_S = 28.0
"""Of Ray's commands that only look something up."""
DOWN_S = 180.0
POLL_S = 1.0
LOST_S = 10.0
"""Of a head whose Ray does not answer its own dashboard any more. A busy one does once in a while."""
ENDED = ("SUCCEEDED", "FAILED", "STOPPED")
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
        return _status(file, head, dashboard)


def status(file: ClusterFile) -> Outcome:
    """Nodes with their resources and versions, what is wrong, and the figures of what runs there.

    Raises:
        ActorError: the cluster is not up, or does not take our token.
    """
    head = head_of(file)
    with tunnel(file, head) as dashboard:
        return {**_status(file, head, dashboard), **figures(file, head, dashboard.exporters())}


def submit(file: ClusterFile, folder: Path, command: Sequence[str], wait: bool, tell: Tell) -> int:
    """Run a command as a job of the cluster, with a folder's content as its working directory on every node.

    Args:
        file: of the cluster.
        folder: is shipped, but for what .gitignore and .rayignore name.
        command: such as ``leworld train --out /shared/runs``.
        wait: show the job's output until it ends.
        tell: is told each step.

    Returns:
        0 where the job succeeded, or, if it is not waited for, where it was taken.

    Raises:
        ConfigError: the command could not work on a cluster.
        ActorError: a node cannot run it, or the cluster is not up.
    """
    if not folder.is_dir():
        raise ConfigError(f"working directory {folder}: is no folder; give one with --working-dir")
    entry = entry_point(command, file.num_nodes, is_source(folder))
    head = head_of(file)
    with tunnel(file, head) as dashboard:
        nodes = dashboard.nodes()
        shipped = is_source(folder) or not ships_code(command)
        raise_problems(problems(probe_all(file, hosts_of(file, head)), head, shipped=shipped))
        tell(f"{len(nodes)} nodes; ships {folder.resolve()}")
        name = f"leworld-{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"
        options = ["--submission-id", name, "--working-dir", str(folder), *([] if wait else ["--no-wait"])]
        code = _job(file, dashboard, "submit", [*options, "--", *entry])
        # Where it was taken, its own end counts: the showing ends with the tunnel, or with the head.
        taken = wait and (code == 0 or any(job["submission_id"] == name for job in dashboard.jobs()))
        return _job_end(file, dashboard, name, tell) if taken else code


def logs(file: ClusterFile, job: str | None, follow: bool) -> int:
    """Show what a job said, by default the newest.

    Returns:
        the exit code of ``ray job logs``.
    """
    with tunnel(file, head_of(file)) as dashboard:
        name = _job_named(file, dashboard, job)
        return _job(file, dashboard, "logs", [name, *(["--follow"] if follow else [])])


def stop(file: ClusterFile, job: str | None) -> tuple[str, str]:
    """End a job, by default the newest; one that has ended stays as it is.

    Returns:
        its name and its state.

    Raises:
        ActorError: it goes on.
    """
    with tunnel(file, head_of(file)) as dashboard:
        name = _job_named(file, dashboard, job)
        dashboard.ask_to_stop(name)
        deadline = time.monotonic() + ASK_S
        while (state := dashboard.state(name)) not in ENDED:
            if time.monotonic() > deadline:
                raise ActorError(f"job {name}", f"still runs after {ASK_S:g} s", "run the same command again")
            time.sleep(POLL_S)
        return name, state


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
        # The next cluster gets a token of its own.
        for path in (file.token, file.prepared):
            path.unlink(missing_ok=True)
    machines = [host for host in (file.head, *file.workers) if host is not None]
    return {
        "name": file.name, "stopped": [host for host in machines if host not in left],
        "left": {host: str(error) for host, error in left.items()},
    }  # fmt: skip


def head_of(file: ClusterFile) -> str:
    """Where the head is reached from here.

    Raises:
        ActorError: this machine did not start the cluster, or the cloud has no head.
    """
    if file.head is not None:
        return file.head
    return _look_up(file, "get-head-ip")[-1]


def hosts_of(file: ClusterFile, head: str) -> list[str]:
    """Where all nodes are reached from here, the head first."""
    if file.is_local:
        return [head, *file.workers]
    return [head, *_look_up(file, "get-worker-ips")]


def raise_problems(found: Sequence[ActorError]) -> None:
    """Raise the first of what is wrong, if anything is, and name who else is concerned.

    Raises:
        ActorError: something is.
    """
    if found:
        first, others = found[0], dict.fromkeys(error.actor for error in found[1:])
        more = f" ({len(found) - 1} more such lines, of {', '.join(others)})" if others else ""
        raise ActorError(first.actor, first.problem, first.way_out + more)


def _look_up(file: ClusterFile, what: str) -> list[str]:
    if not file.token.is_file():
        raise no_token(file)
    prepare(file)
    ran = run(["ray", what, str(file.prepared)], ASK_S, client_environment(file))
    lines = ran.out.split()
    if ran.code or (what == "get-head-ip" and not lines):
        way_out = f"start it with 'leworld cluster up {file.path}', or see your cloud's credentials"
        raise NotUp(f"cluster {file.name}", f"is not known to the cloud ({ran.last_line})", way_out)
    return lines


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


def _status(file: ClusterFile, head: str, dashboard: Dashboard) -> Outcome:
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


def _job_named(file: ClusterFile, dashboard: Dashboard, job: str | None) -> str:
    """The name of a job that there is, by default of the newest."""
    known = [each["submission_id"] for each in dashboard.jobs()]
    if not known:
        raise ConfigError(f"cluster {file.name}: has no jobs; submit one with 'leworld cluster submit {file.path}'")
    if job is not None and job not in known:
        raise ConfigError(f"cluster {file.name}: has no job {job}; the newest is {known[-1]}")
    return job or known[-1]


def _job(file: ClusterFile, dashboard: Dashboard, verb: str, arguments: Sequence[str]) -> int:
    """One of Ray's commands about jobs, with its output shown as it comes."""
    dashboard.get("/api/version")
    command = ["ray", "job", verb, "--address", dashboard.url, *arguments]
    environment = {**os.environ, **client_environment(file)}
    # It would be taken for the cluster's.
    environment.pop("RAY_ADDRESS", None)
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, env=environment)
    try:
        return _until_end(process, dashboard)
    except KeyboardInterrupt:
        process.wait()
        raise


def _until_end(process: subprocess.Popen[bytes], dashboard: Dashboard) -> int:
    """The exit code of one of Ray's commands. That the head died, it would say late, and with a traceback.

    Raises:
        NotUp: it did.
    """
    lost_since: float | None = None
    while True:
        with suppress(subprocess.TimeoutExpired):
            return process.wait(POLL_S)
        if not dashboard.has_lost_its_head():
            lost_since = None
        elif lost_since is None:
            lost_since = time.monotonic()
        elif time.monotonic() - lost_since > LOST_S:
            process.kill()
            process.wait()
            raise dashboard.not_up("its control service is gone")


def _job_end(file: ClusterFile, dashboard: Dashboard, name: str, tell: Tell) -> int:
    """Wait until a job has ended: on a busy head Ray stops showing its output, and calls that success."""
    told = False
    while (state := dashboard.state(name)) not in ENDED:
        if not told:
            tell(f"Ray shows no more of job {name}, which goes on: waits for its end")
            told = True
        time.sleep(POLL_S)
    if told:
        tell(f"job {name}: {state}; see all it printed with 'leworld cluster logs {file.path} --job {name}'")
    return 0 if state == "SUCCEEDED" else 1


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
        # Whoever was left over from another start ends too.
        on(file, host, f"ray stop -g 10; {_forgetting(file)} {shlex.quote(file.remote_token)}", STOP_S)
        if probe(file, host).runs_ray:
            return ActorError(f"node {host}", "still runs Ray", "run 'ray stop --force' there")
    except ActorError as error:
        return error
    return None
