"""Versions that are kept for forks: where these are, and whether they still need them.

A memory has a small file for each of its forks, named after the version that is kept for it. It is no more than a note
of where the fork is: whether it needs the version, only the fork knows.
"""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from leworld.errors import StoreError
from leworld.files import sync
from leworld.store.forks.fork_link import FILLED, FILLING, FREE, ForkLink, read_link, write_link
from leworld.store.layout import Layout, read_identity, read_map, write_map
from leworld.store.versions.versions import Versions
from leworld.store.writer_lock import WriterLock

_NAME = re.compile("fork-[0-9a-f]+")


def note_fork(parent: Layout, version: str, child: Path) -> None:
    """Say where a fork is; for whoever writes the parent or the fork.

    Raises:
        StoreError: the disk refuses.
    """
    if not parent.forks.is_dir():
        parent.forks.mkdir(exist_ok=True)
        sync(parent.root)
    write_map(parent.forks / version, {"path": str(child.absolute())})


def forks_of(parent: Layout) -> dict[str, Path]:
    """Version to where the fork is, or was, that it is kept for; of all forks that were ever made and are noted."""
    if not parent.forks.is_dir():
        return {}
    versions = [path.name for path in sorted(parent.forks.iterdir()) if path.suffix != ".tmp"]
    found = {version: place_of(parent, version) for version in versions}
    return {version: place for version, place in found.items() if place is not None}


def place_of(parent: Layout, version: str) -> Path | None:
    """Where the fork is, or was, that a version is kept for; None where it is kept for none."""
    # The names of other versions may be anything.
    found = read_map(parent.forks / version, {"path": str}) if _NAME.fullmatch(version) else None
    return None if found is None else Path(found["path"])


def check_unneeded(parent: Layout, version: str) -> None:
    """Raise StoreError where a fork needs a version of its parent."""
    child = place_of(parent, version)
    if child is not None and _stage(child, version) == FILLING:
        raise StoreError(
            f"version {version!r} is needed by its fork {child}, which does not hold everything yet;"
            f" have it take over the rest with: leworld memory fill {child}"
        )


def drop_ended(parent: Layout, versions: Versions) -> None:
    """Keep versions no longer whose forks hold everything; forget forks that are gone. For who writes the parent."""
    kept = {version.name for version in versions}
    for version, child in forks_of(parent).items():
        # What cannot be told today is told another time.
        with suppress(OSError):
            stage = _stage(child, version)
            if version in kept and stage in (FILLED, FREE):
                versions.drop(version)
            if version not in kept and stage == "":
                (parent.forks / version).unlink()


def let_go(child: Layout, link: ForkLink) -> ForkLink:
    """Have the parent of a fork that holds everything keep its version no longer; the link as it is then.

    Raises:
        StoreError: the parent is gone, or open for writing; it does this itself when it is opened or closed.
    """
    parent = Layout(Path(link.parent))
    if read_identity(parent.root).id != link.parent_id:
        raise StoreError(f"{parent.root}: is another memory than {link.parent_id}")
    lock = WriterLock(parent)
    try:
        versions = Versions(parent)
        if any(version.name == link.version for version in versions):
            versions.drop(link.version)
    finally:
        lock.release()
    link = replace(link, stage=FREE)
    write_link(child, link)
    return link


def _stage(child: Path, version: str) -> str:
    """How far the fork is for which a version is kept; "" where it is gone."""
    layout = Layout(child)
    link = read_link(layout) if layout.identity.exists() else None
    return "" if link is None or link.version != version else link.stage
