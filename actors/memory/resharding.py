"""Resharding: stripes move to another set of shards while the memory is read and written.

For each batch of stripes, the map marks them as frozen, their shards stop answering for them, their pages are copied,
the map assigns them to the new shards, and the old shards drop them. The process may end at any point; the next one
continues. Only stripes whose shard changes move, and only their pages that hold anything.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from actors.errors import ActorError
from actors.memory.shard_map import ShardMap, change_map, load_map
from actors.memory.sharded_store import ShardedStore
from leworld.errors import ConfigError
from leworld.memory import PAGE_WORDS
from leworld.memory.ranges import Ints

BATCH_PAGES = 1 << 12
"""Pages that are on the way at once: 4 MiB."""


@dataclass(frozen=True)
class Moved:
    """The result of a resharding: the number of moved pages that hold anything, and of batches."""

    pages: int = 0
    written_pages: int = 0
    batches: int = 0


def reshard(store: ShardedStore, target: Sequence[int], progress: Callable[[float], None] = lambda _: None) -> Moved:
    """Move the stripes of a memory to other shards, all of which run.

    Args:
        store: a client with the token of "peer" or "admin".
        target: numbers of the shards that will hold everything.
        progress: receives the fraction of stripes in place, 0 to 1.

    Raises:
        ConfigError: the memory is moving to other shards already, or ``target`` is empty.
        StoreError: a shard keeps versions.
        ActorError: a shard does not answer, or another process moves the same memory.
    """
    move = _Move(store, tuple(sorted(set(target))), progress)
    return move.run()


class _Move:
    def __init__(self, store: ShardedStore, target: tuple[int, ...], progress: Callable[[float], None]) -> None:
        self._store, self._target, self._progress = store, target, progress
        self._map = load_map(store.coordinator)
        self._pages = self._batches = 0

    def run(self) -> Moved:
        self._begin()
        written = self._store.written_pages()
        while self._map.done_below < self._map.num_stripes and self._map.is_moving:
            self._move_batch(self._stop_of_batch(written))
            self._progress(self._map.done_below / self._map.num_stripes)
        self._change(shards=self._target, target=self._target, done_below=0, frozen=0)
        for shard in self._target:
            # Their replicas keep the map, so that it survives a loss of the coordinator.
            self._see_map(shard)
        return Moved(self._pages, len(written), self._batches)

    def _begin(self) -> None:
        found = self._map
        if not self._target or min(self._target) < 0:
            raise ConfigError(f"shards {list(self._target)}: name at least one, from 0 on")
        if found.is_moving and found.target != self._target:
            raise ConfigError(
                f"the memory is being moved to shards {list(found.target)}: end that first, with the same command"
            )
        for shard in {*found.all_shards, *self._target}:
            # This comes before any change, because a shard that cannot take part would stop the move half-way.
            self._store.shard(shard).again("see_map", {})
        if not found.is_moving:
            self._change(target=self._target, done_below=0, frozen=0)

    def _stop_of_batch(self, written: Ints) -> int:
        """Return the end of a batch: its stripes hold at most one batch of pages, or it is one stripe."""
        first, num_stripes = self._map.done_below, self._map.num_stripes
        if self._map.frozen:
            return first + self._map.frozen
        stripes = written * PAGE_WORDS // self._map.stripe_words
        ahead = stripes[stripes >= first]
        if len(ahead) <= BATCH_PAGES:
            return num_stripes
        return max(first + 1, int(ahead[BATCH_PAGES]))

    def _move_batch(self, stop: int) -> None:
        first = self._map.done_below
        stripes, before, after = self._map.moves(first, stop)
        self._change(frozen=stop - first)
        for shard in np.unique(before).tolist():
            self._see_map(shard)
        pairs = np.unique(np.stack([before, after]), axis=1).T.tolist()
        for source, destination in pairs:
            self._copy(source, destination, stripes[(before == source) & (after == destination)])
        self._change(done_below=stop, frozen=0)
        for shard in np.unique(before).tolist():
            self._see_map(shard)
            self._ask(shard, "let_go", words=stripes[before == shard].astype(np.uint32))
        self._batches += 1

    def _copy(self, source: int, destination: int, stripes: Ints) -> None:
        wanted = stripes.astype(np.uint32)
        # The target may hold outdated pages of an earlier move.
        self._ask(destination, "let_go", words=wanted)
        after = -1
        while True:
            answer = self._ask(source, "hand_over", words=wanted, after=after)
            count = answer.content["num_pages"]
            if not count:
                return
            self._ask(destination, "take_over", words=answer.words, num_pages=count)
            self._pages += count
            after = int(answer.words[count - 1])

    def _see_map(self, shard: int) -> None:
        seen = self._ask(shard, "see_map").content["version"]
        if seen < self._map.version:
            raise ActorError(f"shard {shard}", f"knows map {seen} only, not {self._map.version}", "try again")

    def _ask(self, shard: int, op: str, **given: Any) -> Any:
        return self._store.shard(shard).again(op, {**given, "map": self._map.version})

    def _change(self, **parts: Any) -> None:
        after = change_map(self._store.coordinator, self._map, **parts)
        if after is None:
            raise ActorError("the memory", "is being moved by someone else, too", "let that one end")
        self._map = after


def first_map(address_bits: int, shards: Sequence[int]) -> ShardMap:
    """Return the map of a new memory."""
    numbers = tuple(sorted(set(shards)))
    return ShardMap(1, address_bits, numbers, numbers)
