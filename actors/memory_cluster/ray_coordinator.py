"""RayCoordinator: the coordinator in Ray's control store, which every process of a cluster reaches.

That store has no compare and swap, but it can put a key only if it is absent. So each version of an entry is a separate
key, and the latest one counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ray.exceptions import RayError
from ray.experimental import internal_kv

from actors.memory.coordinator import Coordinator, version_of
from leworld.errors import StoreError

NAMESPACE = b"leworld"
KEPT_VERSIONS = 64
"""Of an entry: whoever puts one on top of an older one finds that out by its being gone."""


class RayCoordinator(Coordinator):
    """Entries of one memory in the control store of the cluster that this process is connected to."""

    def __init__(self, memory: str, timeout_s: float = 3.0) -> None:
        """Prepare for a memory.

        Args:
            memory: its name in the cluster.
            timeout_s: of each call.
        """
        self.memory, self._timeout_s = memory, timeout_s

    def load(self, name: str) -> bytes | None:
        """See ``Coordinator``."""
        while True:
            versions = self._versions(name)
            if not versions:
                return None
            raw = self._ask("get", self._key(name, versions[-1]))
            # Otherwise newer versions came and this one was deleted.
            if raw is not None:
                return raw

    def store(self, name: str, version: int, raw: bytes) -> bool:
        """See ``Coordinator``."""
        if self._versions(name)[-1:] != ([version - 1] if version > 1 else []):
            return False
        if not self._ask("put", self._key(name, version), raw, False):
            return False
        versions = self._versions(name)
        if not _follows(version, versions):
            # The call was delayed: newer versions exist, and this one must not count as one.
            self._ask("del", self._key(name, version), False)
            return False
        for old in versions[:-KEPT_VERSIONS]:
            self._ask("del", self._key(name, old), False)
        return True

    def seed(self, name: str, raw: bytes) -> bool:
        """See ``Coordinator``."""
        return not self._versions(name) and bool(self._ask("put", self._key(name, version_of(raw)), raw, False))

    def forget(self) -> None:
        """Drop every entry of this memory."""
        self._ask("del", self._prefix, True)

    @property
    def _prefix(self) -> bytes:
        return f"{self.memory}/".encode()

    def _key(self, name: str, version: int) -> bytes:
        return self._prefix + f"{name}/{version:015d}".encode()

    def _versions(self, name: str) -> list[int]:
        """Return the versions, ascending."""
        keys = self._ask("keys", self._prefix + f"{name}/".encode())
        return sorted(int(key.rpartition(b"/")[2]) for key in keys)

    def _ask(self, what: str, key: bytes, *arguments: Any) -> Any:
        client = internal_kv.internal_kv_get_gcs_client()
        if client is None:
            raise StoreError("this process has no connection to a Ray cluster: call ray.init first")
        try:
            return getattr(client, f"internal_kv_{what}")(key, *arguments, namespace=NAMESPACE, timeout=self._timeout_s)
        except (RayError, RuntimeError) as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise StoreError(f"the cluster's control store does not answer ({reason}): see to its head") from None


def _follows(version: int, versions: Sequence[int]) -> bool:
    """Whether the version before a stored one is there too, so that its call was not delayed."""
    if version > 1:
        return version - 1 in versions
    return 2 in versions or versions[-1:] == [1]
