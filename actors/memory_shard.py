"""Memory shard: the pages of one part of the memory. Made remote in ``actors.launch``."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from actors.errors import ActorError
from actors.processes import ProcessStat, own_stat
from leworld.memory import Snapshot, Words, WordStore


class MemoryShard:
    """One shard's words, kept by their addresses in the whole memory.

    Every write of the memory reaches every shard, if only as a number: so a shard knows whether it missed one.
    """

    def __init__(self, shard_id: int, address_bits: int) -> None:
        self.name = f"memory shard {shard_id}"
        self.store = WordStore(address_bits)

    def read(self, start: NDArray[np.int64], length: NDArray[np.int64]) -> NDArray[np.uint32]:
        """(W,) words of (F,) fragments, one after another."""
        return self.store.read(start, length).words

    def write(
        self, sequence: int, start: NDArray[np.int64], length: NDArray[np.int64], words: NDArray[np.uint32]
    ) -> int:
        """Write this shard's (F,) fragments of write number ``sequence``, in their order.

        Raises:
            ActorError: it is not the next write: someone else wrote meanwhile.
        """
        if sequence != self.store.sequence + 1:
            raise ActorError(
                self.name,
                f"was sent write {sequence} after write {self.store.sequence}",
                "another writer is at work; make a new client, and let one write at a time",
            )
        offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(length)])
        self.store.write_ragged(start, Words(words, offsets))
        return self.store.sequence

    def sequence(self) -> int:
        """Number of the last write of the memory."""
        return self.store.sequence

    def snapshot(self) -> Snapshot:
        """The pages of this shard."""
        return self.store.snapshot()

    def restore(self, snapshot: Snapshot) -> int:
        """Hold these pages and nothing else."""
        self.store.restore(snapshot)
        return self.store.sequence

    def process(self) -> ProcessStat:
        """Its process and that one's peak memory."""
        return own_stat(self.name)
