"""Rights: who may read and who may write which addresses.

To whoever may not read them, words do not exist: they read as zero, as those do that were never written. So whatever a
model proposes, nothing of another's words reaches it, and it cannot tell whether there are any.

Shapes:
    R: ranges.  W: words.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from leworld.errors import RightsError, StoreError
from leworld.memory.protocol import Reader, Words
from leworld.memory.ranges import Ints, check_ranges, expand
from leworld.store.layout import Layout, read_map, write_map


@dataclass(frozen=True)
class Grant:
    """Addresses ``[first, stop)`` are ``owner``'s: only the owner writes, only the owner and ``readers`` read."""

    first: int
    stop: int
    owner: str
    readers: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"[{self.first}, {self.stop}) to {self.owner or 'nobody'}"


class Rights:
    """The grants of a memory, which do not overlap; what is in none is open to everyone."""

    def __init__(self, grants: Iterable[Grant], num_words: int) -> None:
        """Check grants.

        Raises:
            StoreError: one is outside the memory, empty, nobody's, or overlaps another.
        """
        self.grants = sorted(grants, key=lambda grant: grant.first)
        previous = 0
        for grant in self.grants:
            if not 0 <= grant.first < grant.stop <= num_words or not grant.owner:
                raise StoreError(f"grant {grant}: addresses within [0, {num_words}) and an owner are needed")
            if grant.first < previous:
                raise StoreError(f"grant {grant} overlaps another: take that one back first")
            previous = grant.stop

    def may_read(self, who: str, start: Ints, length: Ints) -> np.ndarray:
        """(R,) bool, where no word of a range is kept from someone."""
        return ~_overlaps([g for g in self.grants if who != g.owner and who not in g.readers], start, length)

    def may_write(self, who: str, start: Ints, length: Ints) -> np.ndarray:
        """(R,) bool, where no word of a range is someone else's."""
        return ~_overlaps([g for g in self.grants if who != g.owner], start, length)

    def check_write(self, who: str, start: Ints, length: Ints) -> None:
        """Raise RightsError unless someone may write all of the ranges."""
        wrong = np.flatnonzero(~self.may_write(who, start, length))
        if len(wrong):
            first = int(wrong[0])
            raise RightsError(
                f"range {first} (start {start[first]}, length {length[first]}) is not {who or 'nobody'}'s to write:"
                " ask its owner"
            )


class Guarded:
    """A ``Reader`` for someone: what they may not read is zeros."""

    def __init__(self, memory: Reader, rights: Rights, who: str) -> None:
        self.address_bits = memory.address_bits
        self._memory, self._rights, self._who = memory, rights, who

    def read(self, start: ArrayLike, length: ArrayLike) -> Words:
        """Read R ranges; one that holds a single word that is kept from the reader is zeros altogether."""
        start, length = check_ranges(start, length, 1 << self.address_bits)
        allowed = self._rights.may_read(self._who, start, length)
        found = self._memory.read(start, np.where(allowed, length, 0))
        if allowed.all():
            return found
        offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(length)])
        words = np.zeros(offsets[-1], np.uint32)
        words[expand(offsets[:-1][allowed], length[allowed])[0]] = found.words
        return Words(words, offsets)


def load_rights(layout: Layout, num_words: int) -> Rights:
    """The rights that a memory on disk has; without a file everyone may do everything.

    Raises:
        StoreError: the file is damaged: nothing is readable then, rather than everything.
    """
    found = read_map(layout.rights, {"grants": list})
    return Rights([] if found is None else [_parse(row, layout) for row in found["grants"]], num_words)


def save_rights(layout: Layout, rights: Rights) -> None:
    """Put rights on disk."""
    write_map(layout.rights, {"grants": [[g.first, g.stop, g.owner, list(g.readers)] for g in rights.grants]})


def _parse(row: Any, layout: Layout) -> Grant:
    try:
        first, stop, owner, readers = row
        return Grant(int(first), int(stop), str(owner), tuple(str(reader) for reader in readers))
    except (TypeError, ValueError):
        raise StoreError(f"{layout.rights}: is damaged; restore it from a replica") from None


def _overlaps(kept: list[Grant], start: Ints, length: Ints) -> np.ndarray:
    """(R,) bool, where a range of at least one word overlaps one of the disjoint, ascending grants."""
    if not kept:
        return np.zeros(len(start), np.bool_)
    first, stop = np.array([g.first for g in kept]), np.array([g.stop for g in kept])
    # The only one that can overlap is the first that ends after the range's begin.
    index = np.searchsorted(stop, start, side="right")
    inside = index < len(stop)
    return inside & (first[index.clip(max=len(stop) - 1)] < start + length) & (length > 0)
