"""One session with a Ray cluster: started here or joined, quiet on the console, and left behind clean."""

from __future__ import annotations

import logging
import os
import secrets
import signal
import socket
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from actors.errors import ActorError
from cluster.environment import ENVIRONMENT
from cluster.topology import Topology, check_cpus

CONNECT_TIMEOUT_S = 3.0
START = "start one with 'ray start --head', or leave --address out to run on this machine"


@contextmanager
def ray_session(address: str | None, topology: Topology) -> Iterator[None]:
    """Hold a connection to Ray; end it, and a cluster started for it, whatever happens.

    Args:
        address: see ``joined``; None starts a cluster on this machine.
        topology: what is to run.

    Raises:
        ActorError: no cluster answers at the address, or none can be started.
        ConfigError: there are too few CPUs.
    """
    if address is not None:
        with joined(address):
            check_cpus(topology, free_of_one_machine("CPU"), address)
            yield
        return
    check_cpus(topology, os.cpu_count() or 1, "this machine")
    prepare_environment(None)
    import ray  # Reads the environment that was just prepared.

    try:
        _connect(None)
        check_cpus(topology, free_of_one_machine("CPU"), "this machine")
        yield
    finally:
        ray.shutdown()


@contextmanager
def joined(address: str) -> Iterator[None]:
    """Hold a connection to a cluster that runs: at host:port, or with "auto" the one of this machine.

    Raises:
        ActorError: there is none.
    """
    if address != "auto":
        check_reachable(address)
    prepare_environment(address)
    import ray  # Reads the environment that was just prepared.

    try:
        _connect(address)
    except ActorError:
        if address != "auto":
            raise
        way_out = "start one with 'ray start --head', or name one with --address or RAY_ADDRESS"
        raise ActorError("Ray on this machine", "has no cluster that runs", way_out) from None
    try:
        yield
    finally:
        ray.shutdown()


def prepare_environment(address: str | None) -> None:
    """Set what Ray takes from the environment, unless the user did."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    warnings.filterwarnings("ignore", category=FutureWarning, module="ray")
    if "RAY_AUTH_MODE" in os.environ:
        return
    if address is None:
        # A secret of its own keeps others on the network out, and leaves no token file that changes later clusters.
        os.environ["RAY_AUTH_MODE"] = "token"
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    else:
        os.environ["RAY_AUTH_MODE"] = "token" if has_token() else "disabled"


def has_token() -> bool:
    """Whether the user has a token for a cluster, in any of the places that Ray looks in."""
    given = {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & os.environ.keys()
    return bool(given) or (Path.home() / ".ray" / "auth_token").is_file()


def check_reachable(address: str) -> None:
    """Find out in seconds what Ray would find out in minutes.

    Raises:
        ActorError: nothing answers there, or something that is no Ray cluster, or one that wants a token.
    """
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or "/" in address or not 0 < int(port) < 1 << 16:
        raise ActorError(f"address {address}", "is not host:port", "give one such as 10.0.0.1:6379")
    who = f"Ray cluster {address}"
    try:
        socket.create_connection((host, int(port)), timeout=CONNECT_TIMEOUT_S).close()
    except OSError as error:
        raise ActorError(who, f"cannot be reached ({error.strerror or error})", START) from None
    problem = _health_problem(address)
    if problem == "UNAUTHENTICATED" and not has_token():
        raise ActorError(who, "asks for a token", "set RAY_AUTH_TOKEN_PATH to the file that holds the cluster's")
    if problem not in (None, "UNAUTHENTICATED"):
        raise ActorError(who, f"is no Ray cluster, though something answers ({problem})", START)


def _health_problem(address: str) -> str | None:
    """What the head's standard gRPC health service answers; None if all is well."""
    import grpc  # Only those who join a cluster need it.

    with grpc.insecure_channel(address) as channel:
        check = channel.unary_unary("/grpc.health.v1.Health/Check")
        try:
            check(b"", timeout=CONNECT_TIMEOUT_S)
        except grpc.RpcError as error:
            return error.code().name  # pyright: ignore[reportAttributeAccessIssue]
    return None


def free_of_one_machine(resource: str) -> float:
    """CPUs or GPUs that one process could get: at most what is free in all, and at most what one machine has."""
    import ray

    machines = [node["Resources"].get(resource, 0.0) for node in ray.nodes() if node["Alive"]]
    return min(max(machines, default=0.0), ray.available_resources().get(resource, 0.0))


def _connect(address: str | None) -> None:
    import ray

    # What shapes a new cluster may not be said to one that runs already.
    shape: dict[str, Any] = {"include_dashboard": False} if address is None else {}
    handler = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(address=address or "local", log_to_driver=False, logging_level=logging.ERROR, **shape)
    except Exception as error:
        # Ray raises whatever came up; its first line says what.
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        who = f"Ray cluster {address}" if address else "Ray on this machine"
        raise ActorError(who, f"does not take us in ({reason})", START) from None
    # Ray's own handler prints its stack and aborts; ours lets everything be taken down.
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, handler)
