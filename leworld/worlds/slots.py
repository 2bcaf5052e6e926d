"""A record at every aligned slot of a memory: payload words, then one word of tag and pointer.

The tag is the slot's own index, so a reader can tell whose record it has got. A record is a function of its slot, so
that memories of any width can be had without holding them.

Source of the hash: SplitMix64, Steele et al. 2014, https://doi.org/10.1145/2660193.2660195

Shapes:
    L: slots.  P: payload words of a record.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from leworld.memory import WORD_BITS, HashPlacement, Memory, Receipt, unpack_bits

DENSE_BITS = 20
"""Up to here every slot of a memory is written; wider ones hold only what was asked for."""
TAG_BITS = 16
_LOW_HALF = np.uint32(0xFFFF)
_GAMMA = np.uint64(0x9E3779B97F4A7C15)


def payload_words(state_dim: int) -> int:
    """Words that hold one bit a state dimension."""
    return -(-state_dim // WORD_BITS)


def slot_words(record_words: int) -> int:
    """The distance between slots: the next power of two."""
    return 1 << (record_words - 1).bit_length()


def slot_bits(address_bits: int, record_words: int) -> int:
    """Bits that name a slot of a memory."""
    return address_bits - slot_words(record_words).bit_length() + 1


@dataclass(frozen=True)
class RecordSlots:
    """The record of every slot; slot l lies at address ``l * stride``.

    Attributes:
        key: chooses the content; another key, another content.
        address_bits: of the memory.
        payload: P.
        following: (L,) uint32 the slot that each record names, in the upper half of its tag word; random where None.
    """

    key: int
    address_bits: int
    payload: int
    following: NDArray[np.uint32] | None = None

    @property
    def stride(self) -> int:
        """Words from a slot to the next."""
        return slot_words(self.payload + 1)

    @property
    def count(self) -> int:
        """L."""
        return 2**self.address_bits // self.stride

    def words(self, slot: NDArray[np.int64]) -> NDArray[np.uint32]:
        """(...,) slots to their records, (..., P + 1) uint32."""
        number = slot.astype(np.uint64)[..., None] * np.uint64(self.payload + 1)
        words = random_words(self.key, number + np.arange(self.payload + 1, dtype=np.uint64))
        upper = words[..., -1] & ~_LOW_HALF if self.following is None else self.following[slot] << np.uint32(16)
        words[..., -1] = upper | (slot.astype(np.uint32) & _LOW_HALF)
        return words

    def signs(self, address: Tensor, dim: int) -> Tensor:
        """(...,) record addresses to (..., dim) float32: the first payload bits as -1 and +1."""
        payload = self.words(address.numpy() // self.stride)[..., :-1]
        bits = unpack_bits(payload).reshape(*payload.shape[:-1], -1)[..., :dim]
        return torch.tensor(2 * bits.astype(np.float32) - 1)

    def tags(self, address: Tensor) -> Tensor:
        """(...,) record addresses to the (...,) tags of their records."""
        return (address // self.stride) & int(_LOW_HALF)

    def next_address(self, address: Tensor) -> Tensor:
        """(...,) record addresses to the (...,) addresses that their pointers name."""
        pointer = self.words(address.numpy() // self.stride)[..., -1] >> np.uint32(16)
        return torch.from_numpy(pointer.astype(np.int64) * self.stride)

    def write(self, memory: Memory, address: NDArray[np.int64] | None = None) -> Receipt:
        """Write the records at ``address`` (R,); None writes every slot."""
        slot = np.arange(self.count) if address is None else np.unique(address) // self.stride
        return memory.write(slot * self.stride, self.words(slot))


def random_words(key: int, number: NDArray[np.uint64]) -> NDArray[np.uint32]:
    """(...,) numbers to as many random words: the upper halves of SplitMix64's outputs, in any order."""
    z = np.uint64(key) + (number + np.uint64(1)) * _GAMMA
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return ((z ^ (z >> np.uint64(31))) >> np.uint64(32)).astype(np.uint32)


def table_addresses(placements: tuple[HashPlacement, ...], keys: Tensor) -> Tensor:
    """(..., D) keys to (..., N) addresses, one a table."""
    flat = keys.reshape(-1, keys.shape[-1])
    columns = torch.stack([placement.address(flat) for placement in placements], dim=-1)
    return columns.reshape(*keys.shape[:-1], len(placements))
