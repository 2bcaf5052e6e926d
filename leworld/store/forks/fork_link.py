"""What a fork was made from, and how far it is on its way to be a memory of its own."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from leworld.errors import StoreError
from leworld.store.layout import Layout, read_identity, read_map, write_map
from leworld.store.writer_lock import WriterLock

FILLING = "filling"
"""Pages that it does not hold yet are those of the parent's version."""
FILLED = "filled"
"""It holds everything; the parent may still keep the version."""
FREE = "free"
"""The parent does not keep the version any more."""


@dataclass(frozen=True)
class ForkLink:
    """A fork's parent: its directory and id, the version that it keeps for the fork, and the fork's ``stage``."""

    parent: str
    parent_id: str
    version: str
    stage: str = FILLING


def read_link(layout: Layout) -> ForkLink | None:
    """What a memory was forked from; None where it was not.

    Raises:
        StoreError: the file is damaged.
    """
    found = read_map(layout.fork, {"parent": str, "parent_id": str, "version": str, "stage": str})
    return None if found is None else ForkLink(found["parent"], found["parent_id"], found["version"], found["stage"])


def write_link(layout: Layout, link: ForkLink) -> None:
    """Put on disk what a memory was forked from."""
    write_map(layout.fork, vars(link))


def relink(root: Path, parent: Path) -> ForkLink:
    """Say where the parent of a fork is now.

    Raises:
        StoreError: the memory is no fork, or open for writing, or the other one is not its parent.
    """
    layout, link = Layout(root), read_link(Layout(root))
    if link is None:
        raise StoreError(f"{root}: is no fork, so that it has no parent: name a fork")
    found = read_identity(parent).id
    if found != link.parent_id:
        raise StoreError(f"{parent}: is memory {found}, and the parent of {root} is {link.parent_id}: name that one")
    lock = WriterLock(layout)
    try:
        link = replace(link, parent=str(parent.resolve()))
        write_link(layout, link)
    finally:
        lock.release()
    return link


def unreadable(root: Path, link: ForkLink, reason: object) -> str:
    """What is said where a fork's parent cannot be read."""
    return (
        f"{root}: what this fork does not hold yet is in {link.parent}, which cannot be read ({reason});"
        f" mend that memory or put it back, or where it has moved: leworld memory fill {root} --parent DIR"
    )
