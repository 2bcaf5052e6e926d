"""Forks from the command line."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from cluster.memory.directory_target import check_own, local, login
from cluster.memory.opening import writing
from cluster.memory.target import Outcome
from cluster.messages import say
from leworld.errors import LeWorldError, StoreError
from leworld.store.durable_store import DurableStore
from leworld.store.forks.fork import check_free
from leworld.store.forks.fork import fork as make_fork
from leworld.store.forks.fork_link import FILLING, FREE, ForkLink, read_link, relink, write_link
from leworld.store.forks.fork_registry import forks_of
from leworld.store.layout import Layout, read_identity
from leworld.store.writer_lock import writer_of


def fork(target: str, copy: Path, version: str, token: str) -> Outcome:
    """Make another memory with the content of now or of a version."""
    root = local(target)
    check_own(root)
    check_free(copy)
    with writing(str(root), token) as memory:
        copy.absolute().parent.mkdir(parents=True, exist_ok=True)
        identity = make_fork(root, copy, memory, version)
    when = "is now" if version == "now" else f"was at version {version}"
    return {"target": str(root), "path": str(copy), "version": version, "when": when, **vars(identity)}


def fill(target: str, parent: Path | None, token: str) -> Outcome:
    """Copy all of its parent's pages into a fork.

    Raises:
        StoreError: the memory is not a fork; or its parent cannot be read; or another process writes the fork.
    """
    root = local(target)
    if parent is not None:
        relink(root, parent)
    link = _link(root)
    if link.stage == FILLING:
        _fill(root)
        link = _link(root)
    if link.stage != FREE:
        link = _ask_to_let_go(root, link, token)
    return {"path": str(root), "parent": link.parent, "version": link.version, "let_go": link.stage == FREE}


def tell_of_forks(target: str) -> None:
    """Say which forks may hold what was erased."""
    root = Path(target)
    held = [] if "://" in target else [path for path in forks_of(Layout(root)).values() if path.exists()]
    if held:
        names = ", ".join(str(path) for path in held)
        say(f"forks made before may still hold what was erased here, and know nothing of it: {names}")


def _link(root: Path) -> ForkLink:
    link = read_link(Layout(root))
    if link is None:
        raise StoreError(f"{root}: is no fork, so that it holds everything that it has")
    return link


def _fill(root: Path) -> None:
    pid = writer_of(Layout(root))
    if pid is not None:
        raise StoreError(
            f"{root}: is open for writing in process {pid}, which takes over the rest by itself;"
            f" leworld memory stat {root} shows whether it has, or end that one"
        )
    with DurableStore(root, writer=login()) as store:
        store.backfill.finish()


def _ask_to_let_go(root: Path, link: ForkLink, token: str) -> ForkLink:
    """Ask the parent's writer to drop the version, if possible; return the link after that."""
    with suppress(LeWorldError):
        # Another memory may be at that path now.
        if read_identity(Path(link.parent)).id == link.parent_id:
            _drop(link, token)
            link = replace(link, stage=FREE)
            write_link(Layout(root), link)
    return link


def _drop(link: ForkLink, token: str) -> None:
    with writing(link.parent, token) as memory:
        if link.version in [version["name"] for version in memory.versions()]:
            memory.drop_version(link.version)
