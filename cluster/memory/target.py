"""TARGET: which memory is meant, and how it is opened."""

from __future__ import annotations

import getpass
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from actors.errors import ActorError
from cluster.memory.cluster_target import SCHEME, ClusterTarget, clustered
from leworld.errors import ConfigError, DamageError, LeWorldError, StoreError
from leworld.memory import Words, load_snapshot
from leworld.memory.protocol import Snapshot
from leworld.memory.ranges import Ints
from leworld.store.access_control import load_rights
from leworld.store.directory_reader import DirectoryReader
from leworld.store.durable_store import DurableStore, Write
from leworld.store.layout import Layout, read_identity
from leworld.store.operations import ADMIN, OPERATIONS, Caller
from leworld.store.writer_lock import served_address, writer_of

if TYPE_CHECKING:
    from cluster.memory.remote_target import RemoteTarget

SCHEMES = ("tcp://", "ipc://")


class Writer:
    """A memory in a directory, open for writing."""

    def __init__(self, root: Path) -> None:
        check_own(root)
        self._store = DurableStore(root, writer=login())
        self.address_bits, self.num_words = self._store.address_bits, self._store.num_words

    def close(self) -> None:
        """Let another process write."""
        self._store.close()

    def write(self, start: Ints, blocks: Words, writer: str | None) -> dict[str, Any]:
        """Write blocks as one write; a receipt.

        Raises:
            RightsError: a word is not the writer's.
        """
        who, store = writer or login(), self._store
        load_rights(store.layout, store.num_words).check_write(who, start, blocks.offsets[1:] - blocks.offsets[:-1])
        (receipt,) = store.write_many([Write(start, blocks, who)])
        return {"sequence": receipt.sequence, "crc32": receipt.crc32}

    def ask(self, operation: str, **arguments: Any) -> dict[str, Any]:
        """What comes of an operation, see ``leworld.store.operations``."""
        return OPERATIONS[operation](self._store, Caller(ADMIN), arguments)[0]


@contextmanager
def reading(
    target: str, token: str, who: str | None = None, version: str | None = None
) -> Iterator[DirectoryReader | RemoteTarget | ClusterTarget]:
    """Open a memory for reading, beside its writer if it has one."""
    if target.startswith(SCHEME):
        if who is not None or version is not None:
            raise ConfigError(f"{target}: is read as admin, and as it is now; leave out --as and --version")
        with clustered(target) as memory:
            yield memory
        return
    place = locate(target)
    opened = (
        _directory(place, who or ADMIN, version) if isinstance(place, Path) else _served(place, token, who, version)
    )
    try:
        yield opened
    finally:
        opened.close()


@contextmanager
def writing(target: str, token: str) -> Iterator[Writer | RemoteTarget | ClusterTarget]:
    """Open a memory for writing: by itself, or through the server that has it.

    Raises:
        StoreError: another process has it, and does not serve it.
    """
    if target.startswith(SCHEME):
        with clustered(target) as memory:
            yield memory
        return
    place = locate(target)
    opened = _writer(place, token) if isinstance(place, Path) else _remote(place, token)
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


def locate(target: str) -> Path | str:
    """The directory of a memory, or the address of a server.

    Raises:
        StoreError: there is no memory.
        ConfigError: it is an address of no kind that is known.
    """
    if "://" in target:
        if not target.startswith(SCHEMES):
            raise ConfigError(no_address(target))
        return target
    return local(target)


def no_address(address: str) -> str:
    """What is said of what is no address."""
    return f"{address}: no address; give one like tcp://127.0.0.1:7077 or ipc:///tmp/memory"


def local(target: str) -> Path:
    """The directory of a memory, which is made where a run has none yet.

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
    """The memory of a run; where it has none yet it is made from the newest checkpoint.

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
    """Make a memory with a snapshot's content; it has its name only once all of it is there."""
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


def _empty(root: Path) -> None:
    for path in root.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def check_own(root: Path) -> None:
    """Raise StoreError where a memory is one of several copies: written by itself it would be like none of them."""
    epoch = Layout(root).epoch
    if epoch.exists():
        raise StoreError(
            f"{root}: is one of several copies of a memory; write through the one that leads,"
            f" or delete {epoch} to make this one a memory of its own"
        )


def login() -> str:
    """The user's name."""
    try:
        return getpass.getuser()
    except (KeyError, OSError, ImportError):
        return f"user {os.getuid()}"


def say(line: str) -> None:
    """Tell the user something beside the result."""
    print(f"leworld: {line}", file=sys.stderr, flush=True)


class Interrupted(Exception):
    """Ctrl-C; its text is one line."""


@contextmanager
def plain_errors() -> Iterator[None]:
    """What the system refuses becomes one line, and Ctrl-C."""
    try:
        yield
    except (LeWorldError, BrokenPipeError):
        raise
    except KeyboardInterrupt:
        raise Interrupted("interrupted; a write that was begun is wholly there or not at all") from None
    except OSError as error:
        where = error.filename or "the disk"
        raise StoreError(f"{where}: {(error.strerror or str(error)).lower()}; mend that, or name another") from None


def _directory(root: Path, who: str, version: str | None) -> DirectoryReader:
    _mend(root)
    return DirectoryReader(root, who, version)


def _served(address: str, token: str, who: str | None, version: str | None) -> RemoteTarget:
    if who is not None:
        raise ConfigError(f"--as {who}: over {address} the token says who reads; leave it out")
    if version is not None:
        raise ConfigError(f"version {version!r}: a server reads what is there now; give the memory's directory instead")
    return _remote(address, token)


def _remote(address: str, token: str) -> RemoteTarget:
    # Only a server's memory needs a connection.
    from cluster.memory.remote_target import RemoteTarget

    return RemoteTarget(address, token)


def _mend(root: Path) -> None:
    """What a writer left that ended without closing is mended before it is read."""
    layout = Layout(root)
    if _was_closed(layout) or writer_of(layout) is not None:
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


def _was_closed(layout: Layout) -> bool:
    with layout.state.open("rb") as file:
        return file.read(48)[40:48] == b"\x01" + bytes(7)


def _writer(root: Path, token: str) -> Writer | RemoteTarget:
    pid = writer_of(Layout(root))
    if pid is None:
        return Writer(root)
    address = served_address(root)
    if address is None:
        raise StoreError(
            f"{root}: is open for writing in process {pid}, which does not serve it;"
            " end that one, or have it served with: leworld memory serve"
        )
    return _served_here(root, pid, address, token)


def _served_here(root: Path, pid: int, address: str, token: str) -> RemoteTarget:
    """The server of a directory, if it is that of this memory."""
    try:
        server = _remote(address, token)
    except ActorError:
        raise StoreError(
            f"{root}: is open for writing in process {pid}, and nobody answers at {address}, which {root}/served names;"
            " end that process, or delete that file"
        ) from None
    if server.ask("stat")["id"] != read_identity(root).id:
        server.close()
        raise StoreError(
            f"{root}: is open for writing in process {pid}, and {root}/served names {address}, where another memory is;"
            " end that process, or delete that file"
        )
    return server
