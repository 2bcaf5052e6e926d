"""Memories in directories: how they are found, made, repaired and written."""

from __future__ import annotations

import getpass
import os
import shutil
from pathlib import Path
from typing import Any

from cluster.memory.target import Operations, Outcome
from cluster.messages import say
from leworld.errors import DamageError, StoreError
from leworld.memory import Snapshot, Words, load_snapshot
from leworld.memory.ranges import Ints
from leworld.store.access_control import load_rights
from leworld.store.directory_reader import DirectoryReader
from leworld.store.durable_store import DurableStore, Write
from leworld.store.layout import Layout
from leworld.store.operations import ADMIN, OPERATIONS, Caller
from leworld.store.shared_state import was_closed
from leworld.store.writer_lock import writer_of


class DirectoryWriter(Operations, DirectoryReader):
    """A memory in a directory that this process has open for writing."""

    def __init__(self, root: Path) -> None:
        """Open it.

        Raises:
            StoreError: another process has it open, or it is one of several replicas.
        """
        check_own(root)
        self._store = DurableStore(root, writer=login())
        super().__init__(root, ADMIN)

    def close(self) -> None:
        """Let another process write."""
        self._store.close()

    def write(self, start: Ints, blocks: Words, writer: str | None) -> Outcome:
        """See ``MemoryTarget``.

        Raises:
            RightsError: a word is granted to someone else.
        """
        who, store = writer or login(), self._store
        load_rights(store.layout, store.num_words).check_write(who, start, blocks.offsets[1:] - blocks.offsets[:-1])
        (receipt,) = store.write_many([Write(start, blocks, who)])
        return {"sequence": receipt.sequence, "crc32": receipt.crc32}

    def restore(self, snapshot: Snapshot) -> None:
        """See ``MemoryTarget``."""
        self._store.restore(snapshot)

    def ask(self, operation: str, **arguments: Any) -> Outcome:
        """See ``Operations``."""
        return OPERATIONS[operation](self._store, Caller(ADMIN), arguments)[0]


def local(target: str) -> Path:
    """Find the directory of a memory. A run without a memory gets one from its newest checkpoint.

    Raises:
        StoreError: there is no memory.
    """
    path = Path(target)
    if "://" in target:
        raise StoreError(f"{target}: is an address; this command needs a directory")
    if not path.exists():
        raise StoreError(f"{path}: no such directory; make a memory there with: leworld memory create {path}")
    if not path.is_dir():
        raise StoreError(f"{path}: is a file; give a memory's directory, a run's, or a server's address")
    if Layout(path).identity.exists():
        return path
    if (path / "config.yaml").is_file():
        return memory_of_run(path)
    raise StoreError(f"{path}: holds neither a memory nor a run; make a memory with: leworld memory create DIR")


def memory_of_run(run: Path) -> Path:
    """Find the memory of a run, or make it from the newest checkpoint.

    Raises:
        StoreError: there is no checkpoint.
    """
    root = run / "memory"
    if Layout(root).identity.exists():
        return root
    from cluster.run.run_dir import RunDir

    checkpoint = RunDir.open(run).newest_checkpoint()
    if checkpoint is None:
        raise StoreError(f"{run}: has neither a memory nor a complete checkpoint; go on with: leworld resume {run}")
    snapshot = load_snapshot(checkpoint / "memory.lw")
    make_whole(root, snapshot)
    say(f"{root}: made from checkpoint {checkpoint.name}, {len(snapshot.pages):,} pages")
    return root


def make_whole(root: Path, snapshot: Snapshot) -> None:
    """Make a memory with a snapshot's content. It gets its name only once it is complete."""
    temporary = root.with_name(f".{root.name}.{os.getpid()}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        with DurableStore.create(temporary, snapshot.address_bits, writer=login()) as store:
            store.restore(snapshot)
        os.rename(temporary, root)
    except OSError:
        # Another process may have made it first.
        if not Layout(root).identity.exists():
            raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def make_empty(root: Path, address_bits: int) -> None:
    """Make an empty memory, or nothing."""
    was_there = root.exists()
    kept = list(root.iterdir()) if root.is_dir() else []
    try:
        DurableStore.create(root, address_bits).close()
    except BaseException:
        if not was_there:
            shutil.rmtree(root, ignore_errors=True)
        elif root.is_dir() and not kept:
            _empty(root)
        raise


def mend(root: Path) -> None:
    """Open and close a memory whose last writer ended without closing it."""
    layout = Layout(root)
    if was_closed(layout.state) or writer_of(layout) is not None:
        return
    check_own(root)
    try:
        DurableStore(root, writer=login()).close()
    except DamageError:
        raise
    except StoreError:
        # Another process may have opened it first.
        if writer_of(layout) is None:
            raise
    else:
        say(f"{root}: was not closed; mended from its journal")


def check_own(root: Path) -> None:
    """Raise StoreError for one of several replicas: a write to it alone would make it differ from the others."""
    epoch = Layout(root).epoch
    if epoch.exists():
        raise StoreError(
            f"{root}: is one of several copies of a memory; write through the one that leads,"
            f" or delete {epoch} to make this one a memory of its own"
        )


def login() -> str:
    """Return the user's name."""
    try:
        return getpass.getuser()
    except (KeyError, OSError, ImportError):
        return f"user {os.getuid()}"


def _empty(root: Path) -> None:
    for path in root.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
