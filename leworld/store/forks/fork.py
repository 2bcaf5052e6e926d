"""Forks: a memory of its own that begins as a version of another one, made at once whatever the size of that.

The parent keeps the version until the fork holds everything, see ``leworld.store.forks.backfill``.
"""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from leworld.errors import StoreError
from leworld.files import replace_file, sync
from leworld.memory.protocol import PAGE_WORDS
from leworld.store.forks.fork_link import ForkLink, write_link
from leworld.store.forks.fork_registry import note_fork
from leworld.store.layout import Identity, Layout, make, read_identity
from leworld.store.mapped_memory import make_mappable


class Keeper(Protocol):
    """Whoever has the parent open for writing."""

    def create_version(self, name: str, of: str = "now") -> object:
        """Keep a version, with ``of`` another one under a second name."""
        ...

    def drop_version(self, name: str) -> object:
        """Keep a version no longer."""
        ...


def fork(parent: Path, child: Path, keeper: Keeper, version: str = "now") -> Identity:
    """Make a memory in ``child`` that has the content of a version of ``parent``, and from then on its own.

    Who may read and write what is as in the parent now. Its log begins anew. A crash leaves no fork or a whole one,
    or a version ``fork-...`` of which the parent lets go with ``drop``.

    Raises:
        StoreError: there is something in the directory, or no such version; or the parent is one of several copies.
    """
    source = Layout(parent)
    if source.epoch.exists():
        raise StoreError(f"{parent}: is one of several copies of a memory, of which no fork can be made; export it")
    check_free(child)
    temporary = child.absolute().with_name(f".{child.absolute().name}.{os.getpid()}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        identity = _make(temporary, source)
        _put_in_place(temporary, child, source, f"fork-{identity.id}", keeper, version)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return identity


def check_free(child: Path) -> None:
    """Raise StoreError where no memory can be made in a directory."""
    if child.exists() and (not child.is_dir() or any(child.iterdir())):
        raise StoreError(f"{child}: is not empty; name another directory")


def _make(root: Path, source: Layout) -> Identity:
    """A memory that holds nothing itself; readers need nobody who has opened it for writing before."""
    origin = read_identity(source.root)
    identity = make(root, origin.address_bits)
    layout = Layout(root)
    if source.rights.exists():
        replace_file(layout.rights, [source.rights.read_bytes()])
    layout.filling.touch()
    os.truncate(layout.filling, (1 << origin.address_bits) // PAGE_WORDS + 1)
    make_mappable(layout, origin.address_bits)
    write_link(layout, ForkLink(str(source.root.resolve()), origin.id, f"fork-{identity.id}"))
    return identity


def _put_in_place(temporary: Path, child: Path, source: Layout, name: str, keeper: Keeper, version: str) -> None:
    # Before the version is kept, which cannot be dropped from when on the fork is there.
    note_fork(source, name, child)
    try:
        keeper.create_version(name, version)
        try:
            os.rename(temporary, child)
        except OSError as error:
            keeper.drop_version(name)
            raise StoreError(f"{child}: cannot be made ({error.strerror}); name another directory") from None
    except BaseException:
        with suppress(OSError):
            (source.forks / name).unlink()
        raise
    sync(child.absolute().parent)
