"""Jobs of a cluster: submitted, shown and stopped."""

from __future__ import annotations

import os
import secrets
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from actors.errors import ActorError
from cluster.machines.addresses import head_of, hosts_of
from cluster.machines.cluster_file import ClusterFile, client_environment
from cluster.machines.dashboard import Dashboard, tunnel
from cluster.machines.job import entry_point, is_source, ships_code
from cluster.machines.node_probe import probe_all, problems, raise_problems
from leworld.errors import ConfigError

Tell = Callable[[str], None]

STOP_S = 28.0
"""Limit of a job's own end after it was told to stop."""
POLL_S = 1.0
LOST_S = 10.0
"""Limit of a head whose Ray does not answer its own dashboard. A busy head fails to answer once in a while."""
ENDED = ("SUCCEEDED", "FAILED", "STOPPED")


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
        # Once accepted, the job's own end counts: its output stops with the tunnel or the head.
        taken = wait and (code == 0 or any(job["submission_id"] == name for job in dashboard.jobs()))
        return _job_end(file, dashboard, name, tell) if taken else code


def logs(file: ClusterFile, job: str | None, follow: bool) -> int:
    """Show the output of a job, by default the newest.

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
        ActorError: it still runs.
    """
    with tunnel(file, head_of(file)) as dashboard:
        name = _job_named(file, dashboard, job)
        dashboard.ask_to_stop(name)
        deadline = time.monotonic() + STOP_S
        while (state := dashboard.state(name)) not in ENDED:
            if time.monotonic() > deadline:
                raise ActorError(f"job {name}", f"still runs after {STOP_S:g} s", "run the same command again")
            time.sleep(POLL_S)
        return name, state


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
    # It would count as the cluster's.
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
        NotUp: the head died.
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
