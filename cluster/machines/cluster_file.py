"""A cluster file: YAML for ``ray up``, checked as Ray checks it, and prepared so that a cluster comes up whole.

Preparation makes every ``ray start`` require a token, which is shipped to all nodes; it sets Ray's environment as for a
run on one machine, and gives a local cluster the autoscaler that starts all of its workers.
"""

from __future__ import annotations

import re
import secrets
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from cluster.json_files import write_text
from cluster.raylink.autoscaler import config_complaint
from cluster.raylink.environment import ENVIRONMENT
from leworld.errors import ConfigError

Config = dict[str, Any]

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,62}")
START_COMMANDS = {
    "head_start_ray_commands": [
        "ray stop",
        "ray start --head --port=6379 --autoscaling-config=~/ray_bootstrap_config.yaml",
    ],
    "worker_start_ray_commands": ["ray stop", "ray start --address=$RAY_HEAD_IP:6379"],
}
"""Of a file that says nothing about them."""
PATIENCE = {
    "RAY_health_check_period_ms": "2000",
    "RAY_health_check_timeout_ms": "4000",
    "RAY_health_check_failure_threshold": "5",
    "RAY_gcs_rpc_server_reconnect_timeout_s": "20",
}
"""A silent node is given up after 30 s, not after 65 as by default: only then others take its place. A silent head is
given up after 20 s, not 60: it does not come back with what it knew."""
DASHBOARD_PORT = 8265
PORTS_OF_WORKERS = range(10002, 20000)


@dataclass(frozen=True)
class ClusterFile:
    """A cluster as its file describes it.

    Attributes:
        path: of the file.
        given: its content.
        home: this machine's folder for what belongs to the cluster: token, prepared file, log.
    """

    path: Path
    given: Config
    home: Path

    @property
    def name(self) -> str:
        """Return the cluster's name."""
        return self.given["cluster_name"]

    @property
    def is_local(self) -> bool:
        """Whether the machines exist already and are not rented from a cloud."""
        return self.given["provider"]["type"] == "local"

    @property
    def head(self) -> str | None:
        """Return the head's address from here, if the file gives it."""
        provider = self.given["provider"]
        return provider.get("external_head_ip") or provider.get("head_ip")

    @property
    def workers(self) -> tuple[str, ...]:
        """Return the workers' addresses, if the file gives them."""
        return tuple(self.given["provider"].get("worker_ips", ()))

    @property
    def num_nodes(self) -> int:
        """Return the number of nodes at the start, including the head."""
        if self.is_local:
            most = (len(self.workers), self.given.get("max_workers", len(self.workers)))
            return 1 + min(*most, self.given.get("min_workers", len(self.workers)))
        types, head = self.given.get("available_node_types", {}), self.given.get("head_node_type")
        return 1 + sum(kind.get("min_workers", 0) for name, kind in types.items() if name != head)

    def start_commands(self, kind: str) -> list[str]:
        """Return the commands that start Ray on the head or on workers; see ``START_COMMANDS``."""
        return self.given.get(kind) or START_COMMANDS[kind]

    @property
    def user(self) -> str:
        """Return the user that logs in."""
        return self.given["auth"]["ssh_user"]

    @property
    def key(self) -> Path | None:
        """Return the user's ssh key; None leaves the choice to ssh."""
        key = self.given["auth"].get("ssh_private_key")
        return None if key is None else Path(key).expanduser()

    @property
    def token(self) -> Path:
        """Return the file of the cluster's token on this machine."""
        return self.home / "auth_token"

    @property
    def remote_token(self) -> str:
        """Return the token's file on every node; the shell there expands the home."""
        return f".leworld/{self.name}.token"

    @property
    def prepared(self) -> Path:
        """Return the prepared file for Ray's commands; it also works by hand."""
        return self.home / "cluster.yaml"

    @property
    def log(self) -> Path:
        """Return the log of ``ray up``."""
        return self.home / "up.log"


def load_cluster(path: Path, home: Path | None = None) -> ClusterFile:
    """Read a cluster file and check what Ray reports unclearly, late or never.

    Args:
        path: of the YAML file.
        home: where this machine keeps what belongs to clusters; by default in the user's home.

    Raises:
        ConfigError: the file is missing, is not a cluster file, or has a pitfall.
    """
    given = _read(path)
    home = home or Path.home() / ".leworld" / "clusters"
    _check(path, given)
    file = ClusterFile(path, given, home / given["cluster_name"])
    _check_ports(file)
    return file


def check_with_ray(file: ClusterFile) -> None:
    """Ray's own check of a cluster file.

    Raises:
        ConfigError: Ray refuses it.
    """
    complaint = config_complaint(file.given)
    if complaint is not None:
        raise ConfigError(f"cluster file {file.path}: {complaint}; mend it there")


def prepare(file: ClusterFile) -> None:
    """Write the token, unless it exists, and the prepared file; only the user may read them."""
    file.home.mkdir(parents=True, exist_ok=True, mode=0o700)
    if not file.token.is_file():
        file.token.touch(mode=0o600)
        file.token.write_text(secrets.token_hex(32), encoding="ascii")
    write_text(file.prepared, yaml.safe_dump(prepared_config(file), sort_keys=False, width=1000))


def prepared_config(file: ClusterFile) -> Config:
    """Return the file's content with the token shipped and required."""
    commands = {
        kind: [with_token(line, file.remote_token) for line in file.start_commands(kind)] for kind in START_COMMANDS
    }
    mounts = {**(file.given.get("file_mounts") or {}), f"~/{file.remote_token}": str(file.token)}
    return {**file.given, **commands, "file_mounts": mounts}


def with_token(command: str, remote_token: str) -> str:
    """A start command with Ray's environment; a command that sets its own authentication stays unchanged."""
    if "ray start" not in command or "RAY_AUTH_MODE" in command:
        return command
    settings = {**ENVIRONMENT, **PATIENCE, "RAY_AUTH_MODE": "token"}
    exports = " ".join(f"{name}={shlex.quote(value)}" for name, value in settings.items())
    return f'export {exports} RAY_AUTH_TOKEN_PATH="$HOME/{remote_token}"; {command}'


def client_environment(file: ClusterFile) -> dict[str, str]:
    """Return the environment for Ray's commands here: our token and the cluster's autoscaler."""
    # Autoscaler v2 counts the head of a local cluster as a worker, and never starts the last one.
    v2 = {"RAY_UP_enable_autoscaler_v2": "0"} if file.is_local else {}
    return {
        **v2, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(file.token), "RAY_USAGE_STATS_ENABLED": "0",
        "PYTHONUNBUFFERED": "1",
    }  # fmt: skip


def dashboard_port(file: ClusterFile) -> int:
    """Return the dashboard's port on the head."""
    found = re.search(r"--dashboard-port[ =](\d+)", " ".join(file.start_commands("head_start_ray_commands")))
    return int(found[1]) if found else DASHBOARD_PORT


def _read(path: Path) -> Config:
    try:
        content = yaml.safe_load(path.expanduser().read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cluster file {path}: {error.strerror}; give the path of a YAML file for 'ray up'") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"cluster file {path}: is no YAML: {' '.join(str(error).split())}; mend it there") from None
    if not isinstance(content, dict):
        raise ConfigError(f"cluster file {path}: is not a mapping: see 'leworld cluster example local'")
    return content


def _check(path: Path, given: Mapping[str, Any]) -> None:
    what, name = f"cluster file {path}", given.get("cluster_name")
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise ConfigError(f"{what}: cluster_name is {name!r}; give letters, digits, - and _")
    if "apiVersion" in given:
        raise ConfigError(f"{what}: is for Kubernetes; use 'kubectl apply -f {path}'")
    provider, auth = given.get("provider"), given.get("auth")
    if not isinstance(provider, dict) or "type" not in provider:
        raise ConfigError(f"{what}: provider.type is missing; give local, aws or gcp")
    if provider["type"] == "local":
        workers = provider.get("worker_ips")
        if not provider.get("head_ip") or not isinstance(workers, list):
            raise ConfigError(f"{what}: a local cluster needs provider.head_ip and the list provider.worker_ips")
        if len({provider["head_ip"], *workers}) != 1 + len(workers):
            raise ConfigError(f"{what}: an address is there twice; head_ip and worker_ips are different machines")
    if not isinstance(auth, dict) or not auth.get("ssh_user"):
        raise ConfigError(f"{what}: auth.ssh_user is missing; name who logs in to the machines")
    _check_key(what, provider, auth)


def _check_key(what: str, provider: Mapping[str, Any], auth: Mapping[str, Any]) -> None:
    key = auth.get("ssh_private_key")
    if key is None and provider["type"] != "local":
        raise ConfigError(f"{what}: auth.ssh_private_key is missing; the nodes' status and jobs go over ssh")
    if key is not None and not Path(key).expanduser().is_file():
        raise ConfigError(f"{what}: auth.ssh_private_key {key} is no file here; name the key that opens the machines")


def _check_ports(file: ClusterFile) -> None:
    """Raise for a port that Ray's workers may take first."""
    command = " ".join(file.start_commands("head_start_ray_commands"))
    for port in map(int, re.findall(r"ray start[^;&]*?--port[ =](\d+)", command)):
        if port in PORTS_OF_WORKERS:
            raise ConfigError(f"cluster file {file.path}: --port={port} is among those of Ray's workers; take 6379")
