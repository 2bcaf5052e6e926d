"""Coordinator: which replica of a shard leads and which are in sync. A state is replaced by compare and swap.

All replicas and clients agree on it. On a cluster it is Ray's control store, on a shared disk a folder.
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
    """What the coordinator records about a shard.

    Attributes:
        version: of this state; each change adds one.
        epoch: grows with every leader.
        leader: id of the leader; "" if there is none.
        in_sync: ids of the replicas that have every acknowledged write, including the leader.
        addresses: id to address of every known replica.
    """

    version: int = 0
    epoch: int = 0
    leader: str = ""
    in_sync: tuple[str, ...] = ()
    addresses: dict[str, str] = field(default_factory=dict)

    def to_bytes(self) -> bytes:
        """Pack into msgpack."""
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
    """Records the state of each shard, and the shard map of a memory with several shards."""

    @abstractmethod
    def load(self, name: str) -> bytes | None:
        """Return the content of an entry, a msgpack map with "version"; None if it does not exist.

        Raises:
            LeWorldError: the coordinator cannot be reached; ``store`` raises it too.
        """

    @abstractmethod
    def store(self, name: str, version: int, raw: bytes) -> bool:
        """Store version ``version`` of an entry if the previous one is there now; return whether it was."""

    @abstractmethod
    def seed(self, name: str, raw: bytes) -> bool:
        """Store an entry of any version if there is none; return whether it was stored."""

    def get(self, shard: str) -> ShardState:
        """Return the current state; its version is 0 for an unknown shard."""
        raw = self.load(shard)
        return ShardState() if raw is None else ShardState.from_bytes(raw)

    def replace(self, shard: str, state: ShardState) -> bool:
        """Store a state if its version is the current one plus 1; return whether it was stored."""
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
    """Wraps a coordinator and keeps every entry seen in a folder before it is used.

    If the coordinator loses everything, it is restored from the folders of all replicas.
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
        """Return the last content seen of each entry."""
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
    """Return the version of an entry; 0 if there is none.

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
    """Replace a state and return the new one; None if another process was first."""
    after = replace(before, version=before.version + 1, **parts)
    return after if coordinator.replace(shard, after) else None
