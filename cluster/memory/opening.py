"""How a TARGET is opened: a directory, a server's address, or ``ray:NAME``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from actors.errors import ActorError
from cluster.memory.cluster_target import SCHEME, ClusterTarget
from cluster.memory.directory_target import DirectoryWriter, local, mend
from cluster.memory.target import MemoryTarget, ReadableTarget
from cluster.messages import interrupted, say
from leworld.errors import ConfigError, LeWorldError, StoreError
from leworld.store.directory_reader import DirectoryReader
from leworld.store.layout import Layout, read_identity
from leworld.store.operations import ADMIN
from leworld.store.writer_lock import served_address, writer_of

if TYPE_CHECKING:
    from cluster.memory.remote_target import RemoteTarget

SCHEMES = ("tcp://", "ipc://")


@contextmanager
def reading(target: str, token: str, who: str | None = None, version: str | None = None) -> Iterator[ReadableTarget]:
    """Open a memory for reading, beside its writer if it has one.

    Args:
        target: see the file.
        token: for a server.
        who: reads a directory; admin by default.
        version: of a directory to read; the content of now by default.
    """
    with closing(_to_read(target, token, who, version)) as opened:
        yield opened


@contextmanager
def writing(target: str, token: str) -> Iterator[MemoryTarget]:
    """Open a memory for writing, in this process or through the server that has it open.

    Raises:
        StoreError: another process has it open and does not serve it.
    """
    opened = _to_write(target, token)
    try:
        yield opened
    except BaseException:
        with suppress(LeWorldError):
            opened.close()
        raise
    try:
        opened.close()
    except StoreError as error:
        say(f"{error}; what was done is kept")


@contextmanager
def plain_errors() -> Iterator[None]:
    """Turn errors of the operating system and Ctrl-C into one line."""
    try:
        with interrupted("a write that was begun is wholly there or not at all"):
            yield
    except (LeWorldError, BrokenPipeError):
        raise
    except OSError as error:
        where = error.filename or "the disk"
        raise StoreError(f"{where}: {(error.strerror or str(error)).lower()}; mend that, or name another") from None


def is_directory(target: str) -> bool:
    """Whether a target is the name of a directory, which may not be there."""
    return "://" not in target and not target.startswith(SCHEME)


def is_address(target: str) -> bool:
    """Whether a target is a server's address.

    Raises:
        ConfigError: it is an address of an unknown kind.
    """
    if "://" not in target:
        return False
    check_address(target)
    return True


def check_address(address: str) -> None:
    """Raise ConfigError unless a server can have this address."""
    if not address.startswith(SCHEMES):
        raise ConfigError(f"{address}: no address; give one like tcp://127.0.0.1:7077 or ipc:///tmp/memory")


def _remote(address: str, token: str) -> RemoteTarget:
    # Its messages need ZeroMQ, which most commands do without.
    from cluster.memory.remote_target import RemoteTarget

    return RemoteTarget(address, token)


def _to_read(target: str, token: str, who: str | None, version: str | None) -> ReadableTarget:
    if target.startswith(SCHEME):
        if who is not None or version is not None:
            raise ConfigError(f"{target}: is read as admin, and as it is now; leave out --as and --version")
        return ClusterTarget(target.removeprefix(SCHEME))
    if is_address(target):
        if who is not None:
            raise ConfigError(f"--as {who}: over {target} the token says who reads; leave it out")
        if version is not None:
            raise ConfigError(
                f"version {version!r}: a server reads what is there now; give the memory's directory instead"
            )
        return _remote(target, token)
    root = local(target)
    mend(root)
    return DirectoryReader(root, who or ADMIN, version)


def _to_write(target: str, token: str) -> MemoryTarget:
    if target.startswith(SCHEME):
        return ClusterTarget(target.removeprefix(SCHEME))
    if is_address(target):
        return _remote(target, token)
    root = local(target)
    pid = writer_of(Layout(root))
    return DirectoryWriter(root) if pid is None else _server_of(root, pid, token)


def _server_of(root: Path, pid: int, token: str) -> RemoteTarget:
    """Connect to the server that has a directory open.

    Raises:
        StoreError: there is no server, or it serves another memory.
    """
    held, way_out = f"{root}: is open for writing in process {pid}", "end that process, or delete that file"
    address = served_address(root)
    if address is None:
        raise StoreError(f"{held}, which does not serve it; end that one, or have it served with: leworld memory serve")
    try:
        server = _remote(address, token)
    except ActorError:
        raise StoreError(f"{held}, and nobody answers at {address}, which {root}/served names; {way_out}") from None
    if server.ask("stat")["id"] != read_identity(root).id:
        server.close()
        raise StoreError(f"{held}, and {root}/served names {address}, where another memory is; {way_out}")
    return server
