"""Partition: which shard holds a page, by rendezvous hashing, and ranges cut to what each shard holds.

Source: Thaler and Ravishankar 1998, https://doi.org/10.1109/90.663936; the mixer is splitmix64,
Steele et al. 2014, https://doi.org/10.1145/2660193.2660195

Shapes:
    P: pages.  R: ranges.  F: fragments, each within one page.  W: words.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from leworld.errors import ConfigError
from leworld.memory.protocol import PAGE_WORDS
from leworld.memory.ranges import Ints, expand, split_at_pages


@dataclass(frozen=True)
class Fragments:
    """Parts of ranges, each in one page and so on one shard, in the order of the ranges.

    Attributes:
        range_index: (F,) which range it is part of.
        start: (F,) address of its first word.
        length: (F,) 1..256.
        shard: (F,) index into the partition's ``shard_ids``.
        offset: (F,) where it begins among the W words of all ranges.
    """

    range_index: Ints
    start: Ints
    length: Ints
    shard: Ints
    offset: Ints

    def of(self, shard: int) -> Fragments:
        """Those of one shard, in the same order: the later write still comes last."""
        keep = self.shard == shard
        parts = (self.range_index, self.start, self.length, self.shard, self.offset)
        return Fragments(*(part[keep] for part in parts))

    def gather(self, words: NDArray[np.uint32]) -> NDArray[np.uint32]:
        """Take from the (W,) words of all ranges those of these fragments, one after another."""
        return words[expand(self.offset, self.length)[0]]

    def scatter(self, out: NDArray[np.uint32], words: NDArray[np.uint32]) -> None:
        """Put the words of these fragments where they belong in ``out`` (W,): the inverse of ``gather``."""
        out[expand(self.offset, self.length)[0]] = words


class Partition:
    """Pages to shards: a shard more takes 1/n of the pages, and only it takes any.

    Attributes:
        shard_ids: in ``[0, 2 ** 63)``; their order is of no matter to which shard has a page.
    """

    def __init__(self, shard_ids: Sequence[int]) -> None:
        ids = tuple(int(shard_id) for shard_id in shard_ids)
        if not ids or len(set(ids)) < len(ids) or min(ids) < 0 or max(ids) >= 1 << 63:
            raise ConfigError(f"shard ids {list(ids)}: at least one is needed, each once and in [0, 2**63)")
        self.shard_ids = ids
        self._salts = splitmix64(np.array(ids, np.uint64))

    def shard_of(self, pages: Ints) -> Ints:
        """(P,) page numbers to (P,) indices into ``shard_ids``."""
        keys = np.asarray(pages).astype(np.uint64)
        best, shard = splitmix64(keys ^ self._salts[0]), np.zeros(len(keys), np.int64)
        for index, salt in enumerate(self._salts[1:], start=1):
            # The mixer is one to one and the salts differ, so no two shards ever tie for a page.
            score = splitmix64(keys ^ salt)
            shard[score > best] = index
            best = np.maximum(best, score)
        return shard

    def fragments(self, start: Ints, length: Ints) -> Fragments:
        """Cut (R,) ranges, known to be in the memory, into what each shard holds of them."""
        range_index, fragment_start, fragment_length = split_at_pages(start, length)
        offset = np.cumsum(fragment_length) - fragment_length
        shard = self.shard_of(fragment_start // PAGE_WORDS)
        return Fragments(range_index, fragment_start, fragment_length, shard, offset)


def splitmix64(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Mix (P,) 64-bit integers one to one; unsigned products wrap, as they must."""
    mixed = values + np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))
