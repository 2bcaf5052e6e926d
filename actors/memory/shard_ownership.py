"""ShardOwnership: which part of a memory a shard holds, and how it hands stripes to another shard.

A shard reads the map when it becomes leader, when it is told to, and when a client knows a newer one. Words that it
hands over stay unchanged and hidden until the other shard has them.

Shapes:
    P: pages.  S: stripes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from actors.memory.coordinator import Coordinator
from actors.memory.protocol import Answer, Request
from actors.memory.shard_map import ShardMap, load_map
from actors.processes import machine_id
from leworld.errors import MovedError, StoreError
from leworld.memory import PAGE_WORDS, Words
from leworld.memory.ranges import Ints
from leworld.store.durable_store import Write
from leworld.store.operations import number
from leworld.store.replication.replica_store import ReplicaStore

BATCH_PAGES = 1 << 12
"""Pages in a message or a write at most: 4 MiB."""


class ShardOwnership:
    """The ownership of one shard.

    Attributes:
        map: the newest map seen.
    """

    def __init__(self, coordinator: Coordinator, shard: int, store: Callable[[], ReplicaStore]) -> None:
        """Prepare for a shard.

        Args:
            coordinator: that has the map.
            shard: its number in the map.
            store: returns the current store.
        """
        self._coordinator, self._shard, self._store = coordinator, shard, store
        self.map = ShardMap()

    def look_up(self) -> None:
        """Load the current map."""
        found = load_map(self._coordinator)
        if found.version > self.map.version:
            self.map = found
        self._store().go_by(self.map.version)

    def check(self, request: Request) -> None:
        """Raise MovedError if a request is about words of another shard."""
        if number(request.arguments, "map", 0, 1 << 62, 0) > self.map.version:
            self.look_up()
        if self.map.version:
            self.map.check(self._shard, request.start, request.length)

    @property
    def operations(self) -> Mapping[str, Callable[[Request], Answer]]:
        """Return the operations of a resharding; each runs in the server's writing thread."""
        return {
            function.__name__: function
            for function in (
                self.whereabouts,
                self.held_pages,
                self.see_map,
                self.hand_over,
                self.take_over,
                self.let_go,
            )
        }

    def whereabouts(self, request: Request) -> Answer:
        """Return where the shard's files are."""
        return Answer(request.id, {"root": str(self._store().root.absolute()), "machine": machine_id()})

    def held_pages(self, request: Request) -> Answer:
        """Return the pages that hold anything here, ascending."""
        return Answer(request.id, {}, self._store().written_pages().astype(np.uint32))

    def see_map(self, request: Request) -> Answer:
        """Stop answering by an older map; all writes answered before are visible.

        Raises:
            StoreError: the shard keeps versions, which would lack the moving words.
        """
        kept = list(self._store().versions)
        if kept:
            raise StoreError(
                f"shard {self._shard} keeps version {kept[0].name}, which would lack the words that move: drop it first"
            )
        self.look_up()
        return Answer(request.id, {"version": self.map.version})

    def hand_over(self, request: Request) -> Answer:
        """Return pages of stripes that move to another shard: numbers, then words."""
        after = number(request.arguments, "after", -1, 1 << 32)
        self._check_version(request)
        pages = self._pages_in(request.words.astype(np.int64))
        pages = pages[pages > after][:BATCH_PAGES]
        words = self._store().read(pages * PAGE_WORDS, np.full(len(pages), PAGE_WORDS)).words
        return Answer(request.id, {"num_pages": len(pages)}, np.concatenate([pages.astype(np.uint32), words]))

    def take_over(self, request: Request) -> Answer:
        """Store pages of another shard."""
        self._check_version(request)
        count = number(request.arguments, "num_pages", 0, BATCH_PAGES)
        pages = request.words[:count].astype(np.int64)
        self._check_not_held(pages * PAGE_WORDS // self.map.stripe_words)
        self._write(pages, request.words[count:], "move")
        return Answer(request.id, {})

    def let_go(self, request: Request) -> Answer:
        """Clear the stripes that another shard holds."""
        self._check_version(request)
        stripes = request.words.astype(np.int64)
        self._check_not_held(stripes)
        pages = self._pages_in(stripes)
        for part in np.array_split(pages, -(-len(pages) // BATCH_PAGES) or 1):
            self._write(part, np.zeros(part.size * PAGE_WORDS, np.uint32), "moved")
        return Answer(request.id, {})

    def _check_version(self, request: Request) -> None:
        """Raise MovedError for a delayed request of an older map, which is done already."""
        asked = number(request.arguments, "map", 1, 1 << 62)
        if asked > self.map.version:
            self.look_up()
        if asked != self.map.version:
            raise MovedError(f"map {asked} is over: shard {self._shard} goes by map {self.map.version}")

    def _check_not_held(self, stripes: Ints) -> None:
        held = self.map.owners(stripes) == self._shard
        if held.any():
            raise MovedError(f"shard {self._shard} holds stripe {stripes[held][0]} by map {self.map.version} itself")

    def _pages_in(self, stripes: Ints) -> Ints:
        pages = self._store().written_pages()
        return pages[np.isin(pages * PAGE_WORDS // self.map.stripe_words, stripes)]

    def _write(self, pages: Ints, words: NDArray[np.uint32], note: str) -> None:
        if len(pages):
            blocks = Words(words, np.arange(len(pages) + 1) * PAGE_WORDS)
            self._store().write_many([Write(pages * PAGE_WORDS, blocks, note=note)])
