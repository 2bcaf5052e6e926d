"""Shard map: which shard holds which stripe, also during resharding.

Stripes move in ascending order. Stripes below ``done_below`` are with the new set of shards, all others with the old
set. ``frozen`` stripes are moving; no client reads or writes them.

Shapes:
    R: ranges.  S: stripes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import msgpack
import numpy as np

from actors.memory.coordinator import Coordinator
from leworld.errors import MovedError, StoreError
from leworld.memory import PAGE_WORDS, Partition
from leworld.memory.partition import Fragments
from leworld.memory.ranges import Ints, split_at_pages

LARGEST_STRIPE_PAGES = 64
STRIPES_AT_LEAST = 1024
ENTRY = "map"


@dataclass(frozen=True)
class ShardMap:
    """The shards of a memory's stripes.

    Attributes:
        version: of this map; each change adds one; 0 means no map.
        address_bits: of the memory.
        shards: numbers of the shards that hold the stripes.
        target: shards that will hold them; equal to ``shards`` if nothing moves.
        done_below: stripes below it are with ``target``.
        frozen: number of stripes from ``done_below`` on that are moving.
    """

    version: int = 0
    address_bits: int = 16
    shards: tuple[int, ...] = ()
    target: tuple[int, ...] = ()
    done_below: int = 0
    frozen: int = 0

    @property
    def stripe_words(self) -> int:
        """Return the words of a stripe: many, so that few ranges span two; few enough to balance the shards."""
        pages = (1 << self.address_bits) // PAGE_WORDS
        return PAGE_WORDS * max(1, min(LARGEST_STRIPE_PAGES, pages // STRIPES_AT_LEAST))

    @property
    def num_stripes(self) -> int:
        """Return the number of stripes of the memory."""
        return (1 << self.address_bits) // self.stripe_words

    @property
    def is_moving(self) -> bool:
        """Whether stripes still have to move."""
        return set(self.target) != set(self.shards)

    @property
    def all_shards(self) -> tuple[int, ...]:
        """Return every shard that holds or will hold words, ascending."""
        return tuple(sorted({*self.shards, *self.target}))

    def owners(self, stripes: Ints) -> Ints:
        """Return the (S,) numbers of the shards that hold stripes now."""
        if not self.is_moving:
            return self._before(stripes)
        return np.where(stripes < self.done_below, self._after(stripes), self._before(stripes))

    def moves(self, first: int, stop: int) -> tuple[Ints, Ints, Ints]:
        """Return the stripes of ``[first, stop)`` that move: (S,) stripe, old shard, new shard."""
        stripes = np.arange(first, min(stop, self.num_stripes))
        before, after = self._before(stripes), self._after(stripes)
        moving = before != after
        return stripes[moving], before[moving], after[moving]

    def fragments(self, start: Ints, length: Ints) -> Fragments:
        """Cut (R,) ranges inside the memory into fragments; ``shard`` is the number of each one's shard."""
        index, first, size = split_at_pages(start, length, self.stripe_words)
        return Fragments(index, first, size, self.owners(first // self.stripe_words), np.cumsum(size) - size)

    def check(self, shard: int, start: Ints, length: Ints) -> None:
        """Raise MovedError unless a shard holds all words of the ranges and none of them is moving."""
        full = length > 0
        stripes = np.concatenate([start[full], start[full] + length[full] - 1]) // self.stripe_words
        elsewhere = self.owners(stripes) != shard
        if self.is_moving and self.frozen:
            on_the_way = (stripes >= self.done_below) & (stripes < self.done_below + self.frozen)
            elsewhere |= on_the_way & (self._before(stripes) != self._after(stripes))
        if elsewhere.any():
            stripe = int(stripes[elsewhere.argmax()])
            raise MovedError(f"shard {shard} does not hold stripe {stripe} by map {self.version}: look where it is")

    def _before(self, stripes: Ints) -> Ints:
        return _table(self.shards, self.num_stripes)[stripes]

    def _after(self, stripes: Ints) -> Ints:
        return _table(self.target, self.num_stripes)[stripes]

    def to_bytes(self) -> bytes:
        """Pack into msgpack."""
        return msgpack.Packer().pack({**vars(self), "shards": list(self.shards), "target": list(self.target)})

    @classmethod
    def from_bytes(cls, raw: bytes) -> ShardMap:
        """Inverse of ``to_bytes``.

        Raises:
            StoreError: it is damaged.
        """
        try:
            found: dict[str, Any] = msgpack.unpackb(raw)
            return cls(**{**found, "shards": tuple(found["shards"]), "target": tuple(found["target"])})
        except (ValueError, TypeError, KeyError) as error:
            raise StoreError(f"the coordinator's map is damaged ({error})") from None


def load_map(coordinator: Coordinator) -> ShardMap:
    """Return the current map; its version is 0 if the memory is a single shard."""
    raw = coordinator.load(ENTRY)
    return ShardMap() if raw is None else ShardMap.from_bytes(raw)


def change_map(coordinator: Coordinator, before: ShardMap, **parts: Any) -> ShardMap | None:
    """Replace a map and return the new one; None if another process was first."""
    after = replace(before, version=before.version + 1, **parts)
    return after if coordinator.store(ENTRY, after.version, after.to_bytes()) else None


def shard_name(shard: int) -> str:
    """Return the name of a shard's entry at the coordinator."""
    return f"shard-{shard}"


@lru_cache(maxsize=8)
def _table(shards: tuple[int, ...], num_stripes: int) -> Ints:
    """Return the (S,) shards of all stripes."""
    partition = Partition(shards)
    return np.array(partition.shard_ids, np.int64)[partition.shard_of(np.arange(num_stripes))]
