"""Commands on this machine and, over ssh, on others: each with a time limit and errors of one line."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from actors.errors import ActorError
from cluster.machines.cluster_file import ClusterFile

CONNECT_S = 8
SSH_S = 25.0
"""Of a short command on another machine, its log-in included."""

NOT_FOUND = 127
SSH_FAILED = 255


@dataclass(frozen=True)
class Ran:
    """A command that ended.

    Attributes:
        code: its exit status.
        out: standard output.
        err: standard error.
    """

    code: int
    out: str
    err: str

    @property
    def last_line(self) -> str:
        """Return the last line of its errors."""
        lines = [line.strip() for line in (self.err or self.out).splitlines() if line.strip()]
        return lines[-1] if lines else f"exit status {self.code}"


def run(arguments: Sequence[str], limit_s: float, environment: Mapping[str, str] | None = None, given: str = "") -> Ran:
    """Run a command to its end, with what is given on its standard input.

    Raises:
        ActorError: it is not installed, or takes longer than the limit.
    """
    process = start(arguments, environment, stdout=subprocess.PIPE, stdin=subprocess.PIPE)
    try:
        out, err = process.communicate(given, timeout=limit_s)
    except subprocess.TimeoutExpired:
        raise ActorError(" ".join(arguments[:2]), f"took longer than {limit_s:g} s", "try again, or see why") from None
    finally:
        end(process)
    return Ran(process.returncode, out, err)


def start(
    arguments: Sequence[str],
    environment: Mapping[str, str] | None = None,
    stdout: int = subprocess.DEVNULL,
    stdin: int = subprocess.DEVNULL,
) -> subprocess.Popen[str]:
    """Start a command in a session of its own, where Ctrl-C does not reach it.

    Raises:
        ActorError: it is not installed.
    """
    try:
        return subprocess.Popen(
            arguments, stdin=stdin, stdout=stdout, stderr=subprocess.PIPE, text=True, errors="replace",
            env={**os.environ, **(environment or {})}, start_new_session=True,
        )  # fmt: skip
    except FileNotFoundError:
        raise ActorError(arguments[0], "is not installed on this machine", "install it, or put it on PATH") from None


def end(process: subprocess.Popen[str]) -> None:
    """End a command and all processes that it started, which would otherwise hold its output open."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    for pipe in (process.stdin, process.stdout, process.stderr):
        if pipe is not None:
            pipe.close()


def ssh_arguments(file: ClusterFile, *options: str) -> list[str]:
    """``ssh`` as Ray calls it: machines of a cluster come and go, so their host keys are not remembered."""
    settings = {
        "BatchMode": "yes", "StrictHostKeyChecking": "no", "UserKnownHostsFile": os.devnull, "LogLevel": "ERROR",
        "ConnectTimeout": str(CONNECT_S), "ServerAliveInterval": "5", "ServerAliveCountMax": "3",
    }  # fmt: skip
    key = [] if file.key is None else ["-i", str(file.key), "-o", "IdentitiesOnly=yes"]
    proxy = file.given["auth"].get("ssh_proxy_command")
    through = [] if proxy is None else ["-o", f"ProxyCommand={proxy}"]
    return ["ssh", *(part for pair in settings.items() for part in ("-o", "=".join(pair))), *key, *through, *options]


def on(file: ClusterFile, host: str, command: str, limit_s: float = SSH_S, given: str = "") -> Ran:
    """Run a command on a machine, in the same kind of shell that Ray starts its nodes in.

    Raises:
        ActorError: the machine cannot be reached, or refuses the login.
    """
    remote = f"bash --login -c -i {shlex.quote(command)}"
    try:
        ran = run([*ssh_arguments(file), f"{file.user}@{host}", remote], limit_s, given=given)
    except ActorError as error:
        if error.actor == "ssh":
            raise
        raise ActorError(f"node {host}", f"did not answer in {limit_s:g} s", "see whether it hangs") from None
    if ran.code == SSH_FAILED:
        raise not_reached(file, host, ran.last_line)
    return ran


def python_on(file: ClusterFile, host: str, script: str, arguments: Sequence[str]) -> Ran:
    """Run a script by the Python that is first on a machine's PATH; exit status ``NOT_FOUND`` without one.

    Raises:
        ActorError: the machine cannot be reached, or does not let us in.
    """
    words = shlex.join(("-c", script, *arguments))
    return on(file, host, f'python=$(command -v python || command -v python3) || exit {NOT_FOUND}; "$python" {words}')


def not_reached(file: ClusterFile, host: str, reason: str) -> ActorError:
    """Return the error for a failure of ssh."""
    if "denied" in reason or "Load key" in reason or "Too many auth" in reason:
        key = f"key {file.key}" if file.key else "keys"
        way_out = "add the public key to authorized_keys there, or change auth in the cluster file"
        return ActorError(f"node {host}", f"does not let {file.user} in with the ssh {key}", way_out)
    way_out = "see that it is on, that sshd runs, and that the address is right"
    return ActorError(f"node {host}", f"cannot be reached by ssh ({reason.rpartition(': ')[2]})", way_out)
