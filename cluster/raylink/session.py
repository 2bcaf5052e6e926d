"""One session with a Ray cluster: started here or joined, quiet on the console, and left behind clean."""

from __future__ import annotations

import logging
import os
import secrets
import signal
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from actors.errors import ActorError
from cluster.placement.topology import Topology, check_cpus
from cluster.raylink.environment import ENVIRONMENT
from cluster.raylink.preflight import START, check_reachable, find_token


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
            check_cpus(topology, free_of_one_machine("CPU"), place_name(address))
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
    prepare_environment(address)
    if address != "auto":
        check_reachable(address)
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
        os.environ["RAY_AUTH_MODE"] = "token" if find_token() else "disabled"


def place_name(address: str | None) -> str:
    """Return a readable name for the place of an address."""
    return {None: "this machine", "auto": "this cluster"}.get(address, address or "")


def free_of_one_machine(resource: str) -> float:
    """CPUs or GPUs that one process could get: at most what is free in all, and at most what one machine has."""
    import ray

    machines = [node["Resources"].get(resource, 0.0) for node in ray.nodes() if node["Alive"]]
    return min(max(machines, default=0.0), ray.available_resources().get(resource, 0.0))


def _connect(address: str | None) -> None:
    import ray

    # Options of a new cluster are invalid for one that runs already.
    shape: dict[str, Any] = {"include_dashboard": False} if address is None else {}
    handler = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(address=address or "local", log_to_driver=False, logging_level=logging.ERROR, **shape)
    except Exception as error:
        # Ray raises errors of any kind; the first line says the reason.
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        who = f"Ray cluster {address}" if address else "Ray on this machine"
        raise ActorError(who, f"does not take us in ({reason})", START) from None
    # Ray's own handler prints its stack and aborts; ours lets everything be taken down.
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, handler)
