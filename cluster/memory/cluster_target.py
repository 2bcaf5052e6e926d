"""A memory of a Ray cluster."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cluster.memory.target import Operations, Outcome, page_cuts
from leworld.errors import ConfigError, StoreError
from leworld.memory import Snapshot, Words
from leworld.memory.ranges import Ints
from leworld.store.versions.versions import Difference

if TYPE_CHECKING:
    from actors.memory_cluster.cluster_memory import ClusterMemory

SCHEME = "ray:"
EVERYWHERE = ("keep", "drop", "go_back")


class ClusterTarget(Operations):
    """A memory of a Ray cluster, by its name."""

    def __init__(self, name: str) -> None:
        """Connect to the cluster that RAY_ADDRESS names, or the one here, unless a connection is there already.

        Raises:
            ActorError: there is no such cluster, or it has no such memory.
        """
        with ExitStack() as stack:
            stack.enter_context(connected(None))
            from actors.memory_cluster.cluster_memory import ClusterMemory  # It imports Ray.

            self.memory: ClusterMemory = ClusterMemory(name)
            self._store = self.memory.client()
            self._connection = stack.pop_all()
        self.address_bits, self.num_words = self._store.address_bits, 1 << self._store.address_bits

    def close(self) -> None:
        """See ``MemoryTarget``."""
        with self._connection:
            self._store.close()

    def read(self, first: int, length: int) -> NDArray[np.uint32]:
        """See ``MemoryTarget``."""
        edges = page_cuts(first, first + length)
        return self._store.read(edges[:-1], np.diff(edges)).words

    def written(self) -> Ints:
        """See ``MemoryTarget``."""
        return self._store.written_pages()

    def write(self, start: Ints, blocks: Words, writer: str | None) -> Outcome:
        """See ``MemoryTarget``.

        Raises:
            ConfigError: a writer is named.
        """
        if writer is not None:
            raise ConfigError(f"writer {writer!r}: in a cluster's memory the token says who writes; leave out --writer")
        receipt = self._store.write_ragged(start, blocks)
        return {"sequence": receipt.sequence, "crc32": receipt.crc32}

    def snapshot(self) -> Snapshot:
        """See ``MemoryTarget``."""
        return self._store.snapshot()

    def restore(self, snapshot: Snapshot) -> None:
        """See ``MemoryTarget``."""
        self._store.restore(snapshot)

    def difference(self, before: str, after: str) -> Difference:
        """See ``MemoryTarget``."""
        found = [self._store.shard(shard).diff(before, after) for shard in self._shards()]
        address = np.concatenate([part.address for part in found])
        order = np.argsort(address)
        old, new = (np.concatenate([getattr(part, name) for part in found])[order] for name in ("before", "after"))
        return Difference(address[order], old, new)

    def log(self, limit: int, address: int | None) -> list[Outcome]:
        """See ``MemoryTarget``. Each shard counts its own writes."""
        if address is not None:
            stripe = np.array([address // self._store.map.stripe_words])
            shards, given = self._store.map.owners(stripe).tolist(), {"address": address}
        else:
            shards, given = list(self._shards()), {}
        found = [
            {**record, "shard": shard}
            for shard in shards
            for record in self._store.shard(shard).call("log", limit=limit, **given)["records"]
        ]
        return sorted(found, key=lambda record: -record["time_ns"])[:limit]

    def versions(self) -> list[Outcome]:
        """See ``MemoryTarget``. A version counts only where every shard has it."""
        found = [self._store.shard(shard).call("versions")["versions"] for shard in self._shards()]
        names = set.intersection(*({version["name"] for version in kept} for kept in found))
        return [version for version in found[0] if version["name"] in names]

    def link(self) -> None:
        """See ``MemoryTarget``. A memory of a cluster is never a fork."""

    def stat(self) -> Outcome:
        """Describe the map, each shard, and where its replicas run."""
        return {**self._store.stat(), "name": self.memory.config.name, "nodes": self.memory.nodes()}

    def verify(self) -> Outcome:
        """See ``MemoryTarget``."""
        damaged = [page for shard in self._shards() for page in self._store.shard(shard).call("verify")["damaged"]]
        return {"damaged": sorted(damaged), "journal": None, "checked": None}

    def is_erased(self, content: Any) -> bool:
        """Raise StoreError: shards cannot tell."""
        raise self._no_erasing()

    def ask(self, operation: str, **arguments: Any) -> Outcome:
        """Run an operation on every shard, not atomically across shards.

        Raises:
            StoreError: shards cannot do it, or one of them refuses.
        """
        if operation == "grant":
            raise StoreError(
                f"{SCHEME}{self.memory.config.name}: everyone who reaches the cluster is admin there, so that nobody"
                " could use what is granted; grant in a memory that is served with --tokens"
            )
        if operation not in EVERYWHERE:
            raise self._no_erasing()
        if operation == "keep" and arguments["name"] in {version["name"] for version in self.versions()}:
            raise StoreError(f"version {arguments['name']}: is kept already; drop it, or take another name")
        answers = [self._store.shard(shard).call(operation, **arguments) for shard in self._shards()]
        return {**answers[-1], **_largest(answers, "sequence")}

    def _shards(self) -> tuple[int, ...]:
        return self._store.map.all_shards

    def _no_erasing(self) -> StoreError:
        return StoreError(
            f"{SCHEME}{self.memory.config.name}: words that moved between shards cannot be traced to their write;"
            " write zeros in their place, or erase in a memory of one directory"
        )


def _largest(answers: Sequence[Mapping[str, Any]], name: str) -> dict[str, int]:
    return {name: max(answer[name] for answer in answers)} if name in answers[0] else {}


@contextmanager
def connected(address: str | None) -> Iterator[None]:
    """Hold a connection to a running cluster. One that is there already is used, and stays.

    Raises:
        ActorError: no cluster can be reached.
    """
    import ray

    from cluster.raylink.session import joined

    if ray.is_initialized():
        yield
        return
    with joined(address or os.environ.get("RAY_ADDRESS") or "auto"):
        yield
