"""Placement: at which address a record goes, known for everything that was ever written.

Source: sign projections, Charikar 2002, https://doi.org/10.1145/509907.509965

Shapes:
    N: records.  K: key dimensions.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from leworld.errors import ConfigError, DataError, RangeError
from leworld.memory.protocol import PAGE_WORDS
from leworld.memory.ranges import MAX_ADDRESS_BITS, Ints, check_address_bits
from leworld.rng import derive_seed


@dataclass(frozen=True)
class HashPlacement:
    """Keys of one direction share an address: the signs of a fixed random projection, as a number.

    ``address = value * align_words`` with ``value`` of ``hash_bits`` bits. Every table has a projection of its own.

    Attributes:
        key_dim: K.
        hash_bits: bits of the value.
        align_words: a power of two up to 256; words from one address to the next.
        address_bits: of the memory; ``hash_bits + log2(align_words)`` must not exceed it.
        seed: of the projection, with ``table``.
        table: which of the memory's tables.
    """

    key_dim: int
    hash_bits: int
    align_words: int
    address_bits: int
    seed: int
    table: int = 0
    _projection: Tensor = field(init=False, repr=False, compare=False)
    _tag_projection: Tensor = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        self._check()
        object.__setattr__(self, "_projection", self._draw(self.hash_bits, "address"))
        object.__setattr__(self, "_tag_projection", self._draw(MAX_ADDRESS_BITS, "tag"))

    def address(self, keys: Tensor) -> Tensor:
        """(N, K) keys to (N,) int64 addresses.

        Raises:
            DataError: the keys have another shape or hold NaN.
        """
        return _number(self.bits(keys)) * self.align_words

    def bits(self, keys: Tensor) -> Tensor:
        """(N, K) keys to (N, hash_bits) uint8, the least significant bit of the value first."""
        return self._signs(keys, self._projection)

    def tag(self, keys: Tensor, num_bits: int) -> Tensor:
        """(N,) int64 of ``num_bits`` bits, by a projection independent of the address; tells apart what shares one.

        Raises:
            ConfigError: ``num_bits`` is not in 1..32.
        """
        if not 1 <= num_bits <= MAX_ADDRESS_BITS:
            raise ConfigError(f"tag of {num_bits} bits: use 1 to {MAX_ADDRESS_BITS}")
        return _number(self._signs(keys, self._tag_projection[:, :num_bits]))

    def _check(self) -> None:
        check_address_bits(self.address_bits)
        if self.align_words not in {1 << bit for bit in range(PAGE_WORDS.bit_length())}:
            raise ConfigError(
                f"align_words {self.align_words} is not a power of two up to {PAGE_WORDS}; use such a one"
            )
        room = self.address_bits - (self.align_words.bit_length() - 1)
        if not 1 <= self.hash_bits <= room:
            raise ConfigError(
                f"hash_bits {self.hash_bits} is not in 1..{room}, which {self.address_bits} address bits leave with"
                f" align_words {self.align_words}; lower it or widen address_bits"
            )
        if self.key_dim < 1 or self.seed < 0 or self.table < 0:
            raise ConfigError(
                f"key_dim {self.key_dim}, seed {self.seed}, table {self.table}: use a key_dim from 1, the others from 0"
            )

    def _draw(self, num_bits: int, purpose: str) -> Tensor:
        generator = np.random.default_rng(derive_seed(self.seed, "placement", self.table, purpose))
        # Drawn bit by bit, so that more hash bits refine an address and do not replace it.
        directions = generator.standard_normal((num_bits, self.key_dim))
        # As many bits as a key has dimensions are at right angles, so independent: addresses spread evenly.
        blocks = np.split(directions, range(self.key_dim, num_bits, self.key_dim))
        columns = [np.linalg.qr(block.T)[0] for block in blocks]
        return torch.from_numpy(np.concatenate(columns, axis=1).copy())

    def _signs(self, keys: Tensor, projection: Tensor) -> Tensor:
        if keys.ndim != 2 or keys.shape[1] != self.key_dim:
            raise DataError(f"keys of shape {tuple(keys.shape)}: (N, {self.key_dim}) is needed")
        if keys.isnan().any():
            raise DataError("keys hold NaN, which has no address; mend or drop those records")
        # In float32 the order of summation, and so the batch size, would turn signs near zero.
        return (keys.detach().double() @ projection.to(keys.device) > 0).to(torch.uint8)


class AppendPlacement:
    """Log order: every record comes right after the one before.

    Attributes:
        next_address: of the next record; give it as ``start`` to go on after a restart.
    """

    def __init__(self, address_bits: int, start: int = 0) -> None:
        self._num_words = 1 << check_address_bits(address_bits)
        if not 0 <= start <= self._num_words:
            raise RangeError(
                f"start {start} is outside the memory of {self._num_words} words; use 0 to {self._num_words}"
            )
        self.next_address = start

    def address(self, num_records: int, record_words: int) -> Ints:
        """Take room for records.

        Returns:
            (N,) int64 addresses, ascending.

        Raises:
            RangeError: they do not fit; no room is taken then.
        """
        if num_records < 0 or not 1 <= record_words <= PAGE_WORDS:
            raise RangeError(
                f"{num_records} records of {record_words} words: use 0 or more, of 1 to {PAGE_WORDS} words"
            )
        end = self.next_address + num_records * record_words
        if end > self._num_words:
            raise RangeError(
                f"{num_records} records of {record_words} words at {self.next_address} need {end} words, the memory has"
                f" {self._num_words}; widen address_bits or start again at 0"
            )
        addresses = self.next_address + np.arange(num_records, dtype=np.int64) * record_words
        self.next_address = end
        return addresses


def _number(bits: Tensor) -> Tensor:
    """(N, n) bits, least significant first, to (N,) int64."""
    return (bits.long() << torch.arange(bits.shape[1], device=bits.device)).sum(1)
