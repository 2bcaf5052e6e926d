"""ShardedMemory: the memory of a system whose pages lie with several shards.

Shapes:
    R: ranges or blocks.  L: words a block.  W: words in all.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from actors.calls import Peers, ask
from actors.errors import ActorError
from leworld.errors import RangeError
from leworld.memory import PAGE_WORDS, Partition, Receipt, Snapshot, Words, check_address_bits, check_ranges, checksum
from leworld.memory.store import check_pages, check_width
from leworld.memory.words import as_words


class ShardedMemory:
    """A ``Memory`` over shards: one message to each shard concerned, a batch; answers and receipts as of ``WordStore``.

    Ranges are checked here, so that a bad one reaches no shard. Any number of clients may read; one may write.

    Attributes:
        address_bits: of the whole memory.
        sequence: number of the last write that this client knows of.
    """

    def __init__(self, shards: Peers, shard_ids: Sequence[int], address_bits: int) -> None:
        """Connect to shards.

        Args:
            shards: the shards, in the order of ``shard_ids``.
            shard_ids: which pages each holds follows from these.
            address_bits: as every shard was made with.

        Raises:
            ActorError: a shard does not answer, or missed a write.
        """
        self.shards = shards
        self.partition = Partition(shard_ids)
        self.address_bits = check_address_bits(address_bits)
        self.sequence = self._common_sequence()

    def read(self, start: NDArray[np.int64], length: NDArray[np.int64]) -> Words:
        """Read R ranges; see ``Memory.read``."""
        start, length = check_ranges(start, length, 1 << self.address_bits)
        offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(length)])
        words = np.zeros(offsets[-1], np.uint32)
        fragments = self.partition.fragments(start, length)
        parts = {int(shard): fragments.of(shard) for shard in np.unique(fragments.shard)}
        answers = ask(self.shards, "read", {shard: (part.start, part.length) for shard, part in parts.items()})
        for shard, part in parts.items():
            part.scatter(words, answers[shard])
        return Words(words, offsets)

    def write(self, start: NDArray[np.int64], words: NDArray[np.uint32]) -> Receipt:
        """Write R blocks of one length; see ``Memory.write``."""
        words = as_words(words)
        if words.ndim != 2 or not 1 <= words.shape[1] <= PAGE_WORDS:
            raise RangeError(
                f"words of shape {words.shape}: blocks (R, L) of 1 to {PAGE_WORDS} words are needed; cut longer ones"
            )
        length = np.full(len(words), words.shape[1], np.int64)
        start, length = check_ranges(start, length, 1 << self.address_bits)
        flat = words.reshape(-1)
        ask(self.shards, "write", self._write_messages(start, length, flat))
        self.sequence += 1
        return Receipt(self.sequence, start.copy(), length, checksum(flat))

    def snapshot(self) -> Snapshot:
        """Copy every page that was ever written; see ``Memory.snapshot``."""
        parts = list(ask(self.shards, "snapshot").values())
        sequence = self._agreed([part.sequence for part in parts])
        pages = np.concatenate([part.pages for part in parts])
        order = np.argsort(pages)
        return Snapshot(self.address_bits, sequence, pages[order], np.concatenate([p.words for p in parts])[order])

    def restore(self, snapshot: Snapshot) -> None:
        """Replace the whole content by a snapshot's, of any number of shards; see ``Memory.restore``."""
        check_width(snapshot, self.address_bits)
        pages, words = check_pages(snapshot)
        shard_of = self.partition.shard_of(pages)
        messages = {}
        for shard in range(len(self.shards.names)):
            own = shard_of == shard
            messages[shard] = (Snapshot(self.address_bits, snapshot.sequence, pages[own], words[own]),)
        ask(self.shards, "restore", messages)
        self.sequence = snapshot.sequence

    def _write_messages(
        self, start: NDArray[np.int64], length: NDArray[np.int64], flat: NDArray[np.uint32]
    ) -> dict[int, tuple[Any, ...]]:
        fragments = self.partition.fragments(start, length)
        messages = {}
        for shard in range(len(self.shards.names)):
            part = fragments.of(shard)
            messages[shard] = (self.sequence + 1, part.start, part.length, part.gather(flat))
        return messages

    def _common_sequence(self) -> int:
        return self._agreed(list(ask(self.shards, "sequence").values()))

    def _agreed(self, sequences: list[int]) -> int:
        """The number of writes that every shard has seen; a shard that lacks one lost words."""
        behind = int(np.argmin(sequences))
        if sequences[behind] != max(sequences):
            raise ActorError(
                self.shards.names[behind],
                f"holds {sequences[behind]} of {max(sequences)} writes",
                "restore the memory from its last snapshot",
            )
        return sequences[behind]
