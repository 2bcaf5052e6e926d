"""A memory on disk: a directory, and what says what it is.

Files of msgpack begin with the CRC-32 of the rest.

identity        msgpack: version, address_bits, id, created_ns
checkpoint      msgpack: sequence; the words on the disk hold every write up to it
versions        msgpack: the versions that are kept
epoch           msgpack: of a copy, the latest epoch that it knows of
rights          msgpack: who may read and write what; absent where everyone may do everything
restoring       a snapshot (``leworld.memory.snapshot_file``) while it is restored, see ``leworld.store.restore_intent``
words           the words, little-endian, at four times their address; sparse
sums            of each page the CRC-32 of its words, xor that of a page of zeros; not sparse, as every store into it
                must find room on the disk
state           see ``leworld.store.mapped_memory``; of no use after the machine was started anew
journal/        see ``leworld.store.journal.journal``
ledger          journal records without words: who wrote where and when, before the oldest segment
lock            locked by the process that writes
fork            msgpack: of a fork, what it was made from, see ``leworld.store.forks.fork_link``
filling         of a fork that takes pages over: a byte a page, 1 where it holds it, then 1 where it holds all
filled          msgpack: the same as bits, as far as it is on the disk
forks/          of each fork of this memory, named after the version that is kept for it, where it is
"""

from __future__ import annotations

import secrets
import time
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgpack

from leworld.errors import StoreError
from leworld.files import replace_file, sync
from leworld.memory.ranges import check_address_bits

FORMAT_VERSION = 1


@dataclass(frozen=True)
class Layout:
    """The paths of a memory in ``root``."""

    root: Path

    @property
    def identity(self) -> Path:
        """Names the memory."""
        return self.root / "identity"

    @property
    def checkpoint(self) -> Path:
        """The last checkpoint's."""
        return self.root / "checkpoint"

    @property
    def versions(self) -> Path:
        """The list of versions."""
        return self.root / "versions"

    @property
    def epoch(self) -> Path:
        """The latest epoch that this copy knows of."""
        return self.root / "epoch"

    @property
    def rights(self) -> Path:
        """Who may read and write what; absent where everyone may do everything."""
        return self.root / "rights"

    @property
    def restoring(self) -> Path:
        """A snapshot that is being restored; absent where none is."""
        return self.root / "restoring"

    @property
    def words(self) -> Path:
        """The words."""
        return self.root / "words"

    @property
    def sums(self) -> Path:
        """The pages' checksums."""
        return self.root / "sums"

    @property
    def state(self) -> Path:
        """What readers see of the writer."""
        return self.root / "state"

    @property
    def journal(self) -> Path:
        """The directory of segments."""
        return self.root / "journal"

    @property
    def ledger(self) -> Path:
        """The headers of old records."""
        return self.root / "ledger"

    @property
    def lock(self) -> Path:
        """The writer's."""
        return self.root / "lock"

    @property
    def fork(self) -> Path:
        """What a fork was made from; absent where the memory is none."""
        return self.root / "fork"

    @property
    def filling(self) -> Path:
        """The pages that a fork holds, for all processes; of no use after the machine was started anew."""
        return self.root / "filling"

    @property
    def filled(self) -> Path:
        """The pages that a fork holds on the disk."""
        return self.root / "filled"

    @property
    def forks(self) -> Path:
        """The directory that says where the forks of this memory are."""
        return self.root / "forks"


@dataclass(frozen=True)
class Identity:
    """What a memory is: its width, and a number of its own."""

    address_bits: int
    id: str
    created_ns: int


def make(root: Path, address_bits: int, identity: Identity | None = None) -> Identity:
    """Make an empty memory, with ``identity`` a copy of another one, in a directory that is empty or does not exist.

    Raises:
        StoreError: there is something in it.
        ConfigError: a memory cannot have this width.
    """
    check_address_bits(address_bits)
    identity = identity or Identity(address_bits, secrets.token_hex(8), time.time_ns())
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise StoreError(f"{root}: is not empty, and holds no memory; name another directory")
    layout = Layout(root)
    layout.journal.mkdir(parents=True)
    for path in (layout.words, layout.sums, layout.state, layout.ledger, layout.lock):
        path.touch()
    # Last, as a directory without it is no memory.
    write_map(layout.identity, {"version": FORMAT_VERSION, **vars(identity)})
    sync(root)
    sync(root.absolute().parent)
    return identity


def read_identity(root: Path) -> Identity:
    """What a directory says that it is.

    Raises:
        StoreError: it is no memory, or of a format that this program does not read.
    """
    found = read_map(Layout(root).identity, {"version": int, "address_bits": int, "id": str, "created_ns": int})
    if found is None:
        raise StoreError(f"{root}: holds no memory; make one with create, or name another directory")
    if found["version"] != FORMAT_VERSION:
        raise StoreError(f"{root}: format {found['version']}, this program reads {FORMAT_VERSION}; use a newer one")
    return Identity(check_address_bits(found["address_bits"]), found["id"], found["created_ns"])


def write_map(path: Path, content: dict[str, Any]) -> None:
    """Replace a small file.

    Raises:
        StoreError: the disk refuses; the file is as it was then.
    """
    raw: bytes = msgpack.Packer().pack(content)
    try:
        replace_file(path, [zlib.crc32(raw).to_bytes(4, "little"), raw])
    except OSError as error:
        raise refused(path, error) from error


def read_map(path: Path, fields: dict[str, type]) -> dict[str, Any] | None:
    """What ``write_map`` wrote, or None where there is no file.

    Raises:
        StoreError: it is damaged or foreign.
    """
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StoreError(f"{path}: cannot be read ({error.strerror})") from None
    try:
        content = msgpack.unpackb(raw[4:]) if zlib.crc32(raw[4:]).to_bytes(4, "little") == raw[:4] else None
    except ValueError:
        content = None
    if not isinstance(content, dict) or any(type(content.get(name)) is not kind for name, kind in fields.items()):
        raise StoreError(f"{path}: is damaged or foreign; {NEW_MEMORY}")
    return content


NEW_MEMORY = "make a new memory of a snapshot: leworld memory import NEW FILE, with one that export wrote before"


def way_out(root: Path) -> str:
    """What helps against damaged pages."""
    if Layout(root).epoch.exists():
        return "another copy mends it soon; if none can, end this one, delete its directory, and start it again"
    return (
        "put a snapshot in place of all with leworld memory import DIRECTORY FILE, or go back to a version of before"
        " the page changed with leworld memory rollback DIRECTORY NAME"
    )


def refused(path: Path, error: OSError) -> StoreError:
    """What is said where the disk does not take what is to be written."""
    return StoreError(f"{path}: not written ({error.strerror}): make room on that disk")
