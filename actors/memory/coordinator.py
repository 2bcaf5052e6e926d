"""Coordinator: which replica of a shard leads, and which are in sync. A state is replaced only by one who knows it.

The one thing that all replicas and clients must agree on. It is Ray's control store on a cluster, and a file where all
processes share a disk.
"""

from __future__ import annotations

import fcntl
import os
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import msgpack

from leworld.errors import StoreError
from leworld.files import replace_file


@dataclass(frozen=True)
class ShardState:
    """What the coordinator holds of a shard.

    Attributes:
        version: of this state; each later one has one more.
        epoch: grows with every leader.
        leader: id of the replica that leads; "" where none does.
        in_sync: ids of the replicas that have every acknowledged write, the leader among them.
        addresses: id to address of every replica that is known.
    """

    version: int = 0
    epoch: int = 0
    leader: str = ""
    in_sync: tuple[str, ...] = ()
    addresses: dict[str, str] = field(default_factory=dict)

    def to_bytes(self) -> bytes:
        """As msgpack."""
        known = {"primary" if name == "leader" else name: value for name, value in vars(self).items()}
        return msgpack.Packer().pack({**known, "in_sync": list(self.in_sync)})

    @classmethod
    def from_bytes(cls, raw: bytes) -> ShardState:
        """Inverse of ``to_bytes``.

        Raises:
            StoreError: it is damaged.
        """
        try:
            found: dict[str, Any] = msgpack.unpackb(raw)
            return cls(leader=found.pop("primary"), **{**found, "in_sync": tuple(found["in_sync"])})
        except (ValueError, TypeError, KeyError) as error:
            raise StoreError(f"the coordinator's entry of a shard is damaged ({error})") from None


class Coordinator(ABC):
    """Where the state of shards is, and the map of a memory that has several."""

    @abstractmethod
    def load(self, name: str) -> bytes | None:
        """What an entry holds now, a msgpack map with "version"; None where there is none.

        Raises:
            LeWorldError: the coordinator cannot be reached; ``store``, too.
        """

    @abstractmethod
    def store(self, name: str, version: int, raw: bytes) -> bool:
        """Put version ``version`` of an entry in place if the one before is there now; whether it was."""

    @abstractmethod
    def seed(self, name: str, raw: bytes) -> bool:
        """Put an entry of any version in place where there is none; whether it was."""

    def get(self, shard: str) -> ShardState:
        """The state of now; one of version 0 where the shard is not known."""
        raw = self.load(shard)
        return ShardState() if raw is None else ShardState.from_bytes(raw)

    def replace(self, shard: str, state: ShardState) -> bool:
        """Put a state in place if its version is one more than that of the state of now; whether it was."""
        return self.store(shard, state.version, state.to_bytes())


class FileCoordinator(Coordinator):
    """A ``Coordinator`` in files of a folder that all processes share."""

    def __init__(self, root: str | Path) -> None:
        self._root = Path(root)
        self._root.mkdir(parents=True, exist_ok=True)

    def load(self, name: str) -> bytes | None:
        """See ``Coordinator``."""
        try:
            return (self._root / name).read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise self._out_of_reach(error) from None

    def store(self, name: str, version: int, raw: bytes) -> bool:
        """See ``Coordinator``."""
        return self._put(name, version - 1, raw)

    def seed(self, name: str, raw: bytes) -> bool:
        """See ``Coordinator``."""
        return self._put(name, 0, raw)

    def _put(self, name: str, version_before: int, raw: bytes) -> bool:
        try:
            with self._locked(name):
                if version_of(self.load(name)) != version_before:
                    return False
                replace_file(self._root / name, [raw])
                return True
        except StoreError:
            raise
        except OSError as error:
            raise self._out_of_reach(error) from None

    def _out_of_reach(self, error: OSError) -> StoreError:
        return StoreError(f"{self._root}: the coordinator's folder cannot be used ({error.strerror}): see to that disk")

    @contextmanager
    def _locked(self, name: str) -> Iterator[None]:
        file = os.open(self._root / f".{name}.lock", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield
        finally:
            os.close(file)


class MirroredCoordinator(Coordinator):
    """Another coordinator, all of whose entries that were seen are kept in a folder, too, before anyone acts on them.

    Where all that the other one held is lost, it can be made again from the folders of all replicas.
    """

    def __init__(self, coordinator: Coordinator, root: str | Path) -> None:
        self._coordinator, self._root = coordinator, Path(root)
        self._root.mkdir(parents=True, exist_ok=True)
        self._lock = threading.Lock()
        self._seen = {name: version_of(raw) for name, raw in self.entries().items()}

    def load(self, name: str) -> bytes | None:
        """See ``Coordinator``."""
        raw = self._coordinator.load(name)
        if raw is not None:
            self._keep(name, version_of(raw), raw)
        return raw

    def store(self, name: str, version: int, raw: bytes) -> bool:
        """See ``Coordinator``."""
        done = self._coordinator.store(name, version, raw)
        if done:
            self._keep(name, version, raw)
        return done

    def seed(self, name: str, raw: bytes) -> bool:
        """See ``Coordinator``."""
        return self._coordinator.seed(name, raw)

    def entries(self) -> dict[str, bytes]:
        """What was seen last of each entry."""
        return {path.name: path.read_bytes() for path in self._root.iterdir() if not path.name.startswith(".")}

    def _keep(self, name: str, version: int, raw: bytes) -> None:
        with self._lock:
            if self._seen.get(name, 0) >= version:
                return
            try:
                replace_file(self._root / name, [raw])
            except OSError as error:
                path = self._root / name
                raise StoreError(f"{path}: not written ({error.strerror}): make room on that disk") from None
            self._seen[name] = version


def version_of(raw: bytes | None) -> int:
    """The version of an entry; 0 where there is none.

    Raises:
        StoreError: it is damaged.
    """
    if raw is None:
        return 0
    try:
        return int(msgpack.unpackb(raw)["version"])
    except (ValueError, TypeError, KeyError) as error:
        raise StoreError(f"an entry of the coordinator is damaged ({error})") from None


def change(coordinator: Coordinator, shard: str, before: ShardState, **parts: Any) -> ShardState | None:
    """Another state in place of one; None where someone else was first."""
    after = replace(before, version=before.version + 1, **parts)
    return after if coordinator.replace(shard, after) else None
