"""What every bit memory is: ranges of packed 32-bit words, read and written exactly.

Shapes:
    R: ranges.  W: words read in all, the sum of the lengths.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

WORD_BITS = 32
PAGE_WORDS = 256
"""Words in a page, and the longest read."""


@dataclass(frozen=True)
class Words:
    """Ragged words: range r is ``words[offsets[r]:offsets[r + 1]]``.

    ``words`` (W,) uint32; ``offsets`` (R + 1,) int64.
    """

    words: NDArray[np.uint32]
    offsets: NDArray[np.int64]


class Receipt(NamedTuple):
    """Proof of a write: what was set, as which write of this memory, and the checksum of its words."""

    sequence: int
    start: NDArray[np.int64]
    length: NDArray[np.int64]
    crc32: int


@dataclass(frozen=True)
class Snapshot:
    """The pages that were ever written: ``pages`` (P,) int64 ascending, ``words`` (P, 256) uint32."""

    address_bits: int
    sequence: int
    pages: NDArray[np.int64]
    words: NDArray[np.uint32]


class Reader(Protocol):
    """What a model needs of a memory of ``2 ** address_bits`` words; what was never written reads as zero."""

    address_bits: int

    def read(self, start: NDArray[np.int64], length: NDArray[np.int64]) -> Words:
        """Read R ranges.

        Args:
            start: (R,) in ``[0, 2 ** address_bits)``.
            length: (R,) in ``[0, 256]``; a range past the end is an error.

        Raises:
            RangeError: a range is outside the memory.
        """
        ...


class Memory(Reader, Protocol):
    """A memory that can be written, copied and set back."""

    def write(self, start: NDArray[np.int64], words: NDArray[np.uint32]) -> Receipt:
        """Write R blocks of one length; where blocks overlap the later row wins.

        Args:
            start: (R,).
            words: (R, L) with ``1 <= L <= 256``.

        Raises:
            RangeError: a block is outside the memory; nothing is written then.
        """
        ...

    def snapshot(self) -> Snapshot:
        """Copy every page that was ever written."""
        ...

    def restore(self, snapshot: Snapshot) -> None:
        """Replace the whole content by a snapshot's.

        Raises:
            CheckpointError: the snapshot is of another width.
        """
        ...
