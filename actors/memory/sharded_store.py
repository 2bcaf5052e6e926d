"""ShardedStore: a memory on several replicated shards, usable during resharding.

Each batch sends one call to each shard concerned. Operations within a stripe are atomic; a range or a write that spans
several stripes is atomic in each of them only.

Shapes:
    R: ranges or blocks.  F: fragments, each within a stripe.  W: all words.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from actors.errors import ActorError
from actors.memory.coordinator import Coordinator
from actors.memory.local_shard_reader import LocalShardReader
from actors.memory.protocol import MAX_RANGES, Answer
from actors.memory.shard_client import PAUSE, ClientConfig, ShardClient
from actors.memory.shard_map import ShardMap, load_map, shard_name
from actors.rpc.retry import attempts
from leworld.errors import ConfigError, LeWorldError, MovedError, StoreError
from leworld.memory import Receipt, Snapshot, Words, check_ranges
from leworld.memory.partition import Fragments
from leworld.memory.protocol import PAGE_WORDS
from leworld.memory.ranges import Ints
from leworld.memory.word_store import as_blocks, check_blocks, check_pages, check_width
from leworld.memory.words import checksum

Given = Callable[[Fragments], dict[str, Any]]
Took = Callable[[Fragments, Answer], None]
PAGES_AT_ONCE = 1 << 13


class ShardedStore:
    """A ``Memory`` of several shards, for one thread; any number of clients may read and write.

    Attributes:
        address_bits: of the whole memory.
        map: the newest shard map known here.
    """

    def __init__(
        self, coordinator: Coordinator, *, token: str = "", timeout_s: float = 30.0, message_timeout_s: float = 3.0,
        mapped: bool = False,
    ) -> None:  # fmt: skip
        """Load the map; shards are connected on first use.

        Args:
            coordinator: of the memory.
            token: for the servers.
            timeout_s: of an operation with all its retries.
            message_timeout_s: of one call.
            mapped: whether to read the files of shards on this machine directly, regardless of grants.

        Raises:
            ConfigError: the coordinator knows no such memory.
        """
        self.coordinator, self.map = coordinator, load_map(coordinator)
        if not self.map.version:
            raise ConfigError("the coordinator knows no memory of several shards: launch one first")
        self.address_bits = self.map.address_bits
        self._client_config = ClientConfig(token, timeout_s, message_timeout_s)
        self._shards: dict[int, ShardClient] = {}
        self._files = LocalShardReader(lambda shard: self.shard(shard).call("whereabouts")) if mapped else None
        self._name, self._count = secrets.token_hex(6), 0

    def read(self, start: ArrayLike, length: ArrayLike) -> Words:
        """Read R ranges; see ``Reader.read``."""
        start, length = check_ranges(start, length, 1 << self.address_bits)
        offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(length)])
        words = np.zeros(offsets[-1], np.uint32)
        self._exchange(
            "read",
            self._read_mapped(self.map.fragments(start, length), words),
            lambda part: {"start": part.start, "length": part.length},
            lambda part, answer: part.scatter(words, answer.words),
        )
        return Words(words, offsets)

    def write(self, start: ArrayLike, words: NDArray[np.uint32]) -> Receipt:
        """Write R blocks of one length; see ``Memory.write``. Every replica in sync has it on return."""
        return self.write_ragged(start, as_blocks(words))

    def write_ragged(self, start: ArrayLike, blocks: Words) -> Receipt:
        """Write R blocks of any lengths; the receipt's sequence is the largest of the shards concerned."""
        start, length, words = check_blocks(start, blocks, 1 << self.address_bits)
        sequences = [0]

        def given(part: Fragments) -> dict[str, Any]:
            # A client that repeats it uses this name, so that it is applied once.
            self._count += 1
            return {"start": part.start, "length": part.length, "words": part.gather(words),
                    "name": f"{self._name}:{self._count}"}  # fmt: skip

        self._exchange(
            "write",
            self.map.fragments(start, length),
            given,
            lambda _, answer: sequences.append(int(answer.content["sequence"])),
        )
        return Receipt(max(sequences), start.copy(), length.copy(), checksum(words))

    def written_pages(self) -> Ints:
        """Return the pages that hold anything, ascending."""
        while True:
            self._look_up()
            try:
                found = [self._pages_of(shard) for shard in self.map.all_shards]
            except MovedError:
                # A shard no longer exists.
                continue
            # Otherwise pages may have moved from a shard not yet called to one already called.
            if load_map(self.coordinator).version == self.map.version:
                return np.unique(np.concatenate(found))

    def snapshot(self) -> Snapshot:
        """Copy every page that holds anything, one after another; it may miss writes made meanwhile.

        Its sequence is the largest of the shards'.
        """
        pages = self.written_pages()
        starts = np.split(pages * PAGE_WORDS, range(PAGES_AT_ONCE, len(pages), PAGES_AT_ONCE))
        words = [self.read(start, np.full(len(start), PAGE_WORDS)).words for start in starts]
        found = np.concatenate(words).reshape(-1, PAGE_WORDS)
        keep = found.any(1)
        sequence = max(self.shard(shard).call("stat")["sequence"] for shard in self.map.all_shards)
        return Snapshot(self.address_bits, sequence, pages[keep], found[keep])

    def restore(self, snapshot: Snapshot) -> None:
        """Replace the whole content by a snapshot's in several writes; no other client may write meanwhile."""
        check_width(snapshot, self.address_bits)
        pages, words = check_pages(snapshot)
        gone = np.setdiff1d(self.written_pages(), pages)
        self._write_pages(gone, np.zeros((len(gone), PAGE_WORDS), np.uint32))
        self._write_pages(pages, words)

    def stat(self) -> dict[str, Any]:
        """Return the map and, for each shard, its statistics, its leader and its replicas in sync."""
        self._look_up()
        shards = {}
        for shard in self.map.all_shards:
            state = self.coordinator.get(shard_name(shard))
            known = {"leader": state.leader, "epoch": state.epoch, "in_sync": list(state.in_sync)}
            shards[shard] = {
                **known,
                "address": state.addresses.get(state.leader, ""),
                **self.shard(shard).call("stat"),
            }
        return {"address_bits": self.address_bits, "map": vars(self.map), "shards": shards}

    def shard(self, shard: int) -> ShardClient:
        """Return the client of one shard."""
        if shard not in self._shards:
            self._shards[shard] = ShardClient(
                self.coordinator, shard_name(shard), self.address_bits, self._client_config,
                is_there=lambda: self._is_there(shard),
            )  # fmt: skip
        return self._shards[shard]

    def close(self) -> None:
        """Close all connections."""
        for client in self._shards.values():
            client.close()
        self._shards.clear()
        if self._files is not None:
            self._files.forget()

    def _read_mapped(self, fragments: Fragments, words: NDArray[np.uint32]) -> Fragments:
        """Read the words on this machine; return the fragments for which shards must be called."""
        if self._files is None:
            return fragments
        left = [_slice(fragments, slice(0))]
        for shard in np.unique(fragments.shard).tolist():
            part = fragments.of(shard)
            found = self._files.read(part, self.map.version)
            if found is None:
                left.append(part)
            else:
                part.scatter(words, found)
        return _joined(left)

    def _look_up(self) -> None:
        """Load the current map and close connections to shards that no longer exist."""
        self.map = load_map(self.coordinator)
        for shard in self._shards.keys() - set(self.map.all_shards):
            self._shards.pop(shard).close()

    def _is_there(self, shard: int) -> bool:
        """Whether a shard is still in the map; True if it never was."""
        with suppress(LeWorldError):
            return shard not in self.map.all_shards or shard in load_map(self.coordinator).all_shards
        return True

    def _exchange(self, op: str, fragments: Fragments, given: Given, took: Took) -> None:
        """Call every shard for the fragments that it holds, and again for those that moved meanwhile.

        Raises:
            ActorError: a shard does not answer, or stripes move for too long.
        """
        timeout_s, moved = self._client_config.timeout_s, list[tuple[Fragments, str]]()
        for _ in attempts(timeout_s, PAUSE):
            if moved:
                # If the coordinator does not answer, the old map leads here again.
                with suppress(StoreError):
                    self._look_up()
                fragments = _owned_by(self.map, _joined([part for part, _ in moved]))
            moved = self._call_all(op, fragments, given, took) if len(fragments.start) else []
            if not moved:
                return
        way_out = "end the move with: leworld memory reshard"
        raise ActorError("the memory", f"moves words for more than {timeout_s:g} s ({moved[0][1]})", way_out)

    def _call_all(self, op: str, fragments: Fragments, given: Given, took: Took) -> list[tuple[Fragments, str]]:
        """Call each shard concerned once; return the fragments that are not there, with the shard's error."""
        calls = []
        for part in _messages(fragments):
            client = self.shard(int(part.shard[0]))
            calls.append((part, client.begin(op, map=self.map.version, **given(part))))
        moved = []
        for part, pending in calls:
            try:
                took(part, pending.answer())
            except MovedError as error:
                moved.append((part, str(error)))
        return moved

    def _pages_of(self, shard: int) -> Ints:
        return self.shard(shard).again("held_pages", {}).words.astype(np.int64)

    def _write_pages(self, pages: Ints, words: NDArray[np.uint32]) -> None:
        for first in range(0, len(pages), PAGES_AT_ONCE):
            chunk = slice(first, first + PAGES_AT_ONCE)
            self.write(pages[chunk] * PAGE_WORDS, words[chunk])


def _messages(fragments: Fragments) -> list[Fragments]:
    """Yield the fragments of each shard, as many as a call takes."""
    parts = [fragments.of(shard) for shard in np.unique(fragments.shard).tolist()]
    return [_slice(part, slice(i, i + MAX_RANGES)) for part in parts for i in range(0, len(part.start), MAX_RANGES)]


def _slice(part: Fragments, which: slice) -> Fragments:
    return Fragments(
        part.range_index[which], part.start[which], part.length[which], part.shard[which], part.offset[which]
    )


def _joined(parts: Sequence[Fragments]) -> Fragments:
    return Fragments(
        *(np.concatenate([getattr(part, name) for part in parts])
          for name in ("range_index", "start", "length", "shard", "offset"))
    )  # fmt: skip


def _owned_by(held: ShardMap, part: Fragments) -> Fragments:
    owners = held.owners(part.start // held.stripe_words)
    return Fragments(part.range_index, part.start, part.length, owners, part.offset)
