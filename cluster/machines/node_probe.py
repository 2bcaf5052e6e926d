"""Looks at a node's versions and packages, and reports problems for the cluster."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib import metadata

from actors.errors import ActorError
from cluster.machines.cluster_file import ClusterFile
from cluster.machines.ssh import NOT_FOUND, python_on

# Runs on the node, with nothing but Python there.
SCRIPT = """
import glob, importlib.metadata as metadata, importlib.util as util, json, os, platform, shutil, subprocess, sys, time
def version(name):
    try: return metadata.version(name)
    except metadata.PackageNotFoundError: return None
def is_raylet(path):
    try: return b"/raylet/raylet" in open(path, "rb").read().split(b"\\0")[0]
    except OSError: return False
def has(module):
    try: return util.find_spec(module) is not None
    except ModuleNotFoundError: return False
temporary = os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp"
addresses = subprocess.run(["hostname", "-I"], capture_output=True, text=True).stdout.split()
print(json.dumps({
    "python": platform.python_version(), "ray": version("ray"),
    "leworld": version("leworld") if has("leworld.errors") else None,
    "missing": [name for name in sys.argv[1:] if version(name) is None],
    "addresses": addresses, "has_rsync": bool(shutil.which("rsync")),
    "runs_ray": any(map(is_raylet, glob.glob("/proc/[0-9]*/cmdline"))),
    "free": {folder: shutil.disk_usage(folder).free for folder in (temporary, os.path.expanduser("~"))},
    "clock": time.time()}))
"""

LEAST_FREE_BYTES = 512 << 20
"""Of disk, for Ray's logs, the code of a job, and what a run keeps on its nodes."""
MOST_APART_S = 10.0
"""Clocks further apart give logs, and notes of who wrote when, that do not fit together."""


@dataclass(frozen=True)
class Probe:
    """The state of a node.

    Attributes:
        python: its version.
        ray: its version; None without it.
        leworld: its version; None without it, which is no harm where it is shipped.
        missing: packages that leworld needs and that are not there.
        addresses: the node's own.
        has_rsync: whether files can be shipped to it.
        runs_ray: whether a node of Ray runs there.
        free: folders that are written to, and the bytes that are free there.
        ahead_s: by how many seconds its clock is before ours, at least and at most.
    """

    python: str
    ray: str | None
    leworld: str | None
    missing: tuple[str, ...]
    addresses: tuple[str, ...]
    has_rsync: bool
    runs_ray: bool
    free: Mapping[str, int]
    ahead_s: tuple[float, float]


def probe(file: ClusterFile, host: str) -> Probe:
    """Look at a node.

    Raises:
        ActorError: it cannot be reached, or has no Python.
    """
    before = time.time()
    ran = python_on(file, host, SCRIPT, needed_packages())
    if ran.code == NOT_FOUND:
        raise ActorError(f"node {host}", "has no python on its PATH", "have ~/.bashrc there put the right one first")
    try:
        # The shell may print at its start too.
        found = json.loads(ran.out.strip().splitlines()[-1])
        clock = found.pop("clock")
        lists = {name: tuple(found[name]) for name in ("missing", "addresses")}
        # The node read its clock at some time in between.
        return Probe(**{**found, **lists, "ahead_s": (clock - time.time(), clock - before)})
    except (ValueError, IndexError, TypeError, KeyError):
        raise ActorError(f"node {host}", f"could not be looked at ({ran.last_line})", "log in and see why") from None


def probe_all(file: ClusterFile, hosts: Sequence[str]) -> dict[str, Probe | ActorError]:
    """Look at all nodes at once; a problem of one does not hide the others."""

    def look(host: str) -> Probe | ActorError:
        try:
            return probe(file, host)
        except ActorError as error:
            return error

    with ThreadPoolExecutor(max(1, min(32, len(hosts)))) as pool:
        return dict(zip(hosts, pool.map(look, hosts), strict=True))


def needed_packages() -> list[str]:
    """Names of the packages that leworld depends on, as far as this machine knows them."""
    try:
        required = metadata.requires("leworld") or []
    except metadata.PackageNotFoundError:
        return ["ray"]
    return [re.split(r"[^A-Za-z0-9._-]", line)[0] for line in required if "extra ==" not in line]


def problems(found: Mapping[str, Probe | ActorError], head: str, *, shipped: bool = True) -> list[ActorError]:
    """What is wrong with nodes.

    Args:
        found: by host.
        head: whose versions count; all nodes have to be like it.
        shipped: whether the code comes with the job; else each node needs it installed.
    """
    like = found.get(head)
    return [line for host, state in found.items() for line in _wrong(host, state, like, shipped)]


def raise_problems(found: Sequence[ActorError]) -> None:
    """Raise the first problem, if any, and name the other nodes that have it.

    Raises:
        ActorError: there is a problem.
    """
    if found:
        first, others = found[0], dict.fromkeys(error.actor for error in found[1:])
        more = f" ({len(found) - 1} more such lines, of {', '.join(others)})" if others else ""
        raise ActorError(first.actor, first.problem, first.way_out + more)


def _wrong(
    host: str, state: Probe | ActorError, like: Probe | ActorError | None, shipped: bool
) -> Iterable[ActorError]:
    if isinstance(state, ActorError):
        yield state
        return
    who = f"node {host}"
    yield from _lacks(who, state, shipped)
    if isinstance(like, Probe):
        yield from _differs(who, state, like)
        yield from _is_early_or_late(who, state, like)


def _lacks(who: str, state: Probe, shipped: bool) -> Iterable[ActorError]:
    if state.ray is None:
        yield ActorError(who, "has no Ray", "pip install leworld there, and have ~/.bashrc put its python first")
    elif state.missing:
        yield ActorError(who, f"lacks {', '.join(state.missing)}", "pip install leworld there")
    if not state.has_rsync:
        yield ActorError(who, "has no rsync, by which files are shipped", "install it there")
    if not shipped and state.leworld is None:
        yield ActorError(who, "has no leworld", "pip install it there, or submit from the folder of its source")
    for folder, free in state.free.items():
        if free < LEAST_FREE_BYTES:
            problem = f"has {free >> 20} MiB free in {folder}, and needs {LEAST_FREE_BYTES >> 20}"
            yield ActorError(who, problem, "delete something there")


def _differs(who: str, state: Probe, like: Probe) -> Iterable[ActorError]:
    if state.ray is None:
        return
    pairs = [("Ray", state.ray, like.ray), ("Python", minor(state.python), minor(like.python))]
    if state.leworld and like.leworld:
        pairs.append(("leworld", state.leworld, like.leworld))
    for what, here, there in pairs:
        if there is not None and here != there:
            yield ActorError(who, f"has {what} {here}, and the head {there}", "install the same on every node")


def _is_early_or_late(who: str, state: Probe, like: Probe) -> Iterable[ActorError]:
    early, late = state.ahead_s[0] - like.ahead_s[1], like.ahead_s[0] - state.ahead_s[1]
    if max(early, late) > MOST_APART_S:
        way = "before" if early > late else "behind"
        problem = f"has a clock at least {max(early, late):.0f} s {way} the head's"
        yield ActorError(who, problem, "have both set by a time server, such as with chrony")


def minor(version: str) -> str:
    """Ray joins nodes whose Python differs only in the last number."""
    return ".".join(version.split(".")[:2])
