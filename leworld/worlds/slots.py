"""A record at every aligned slot of a memory: payload words, then one word of tag and pointer.

The tag is the slot's own index, so a reader can tell whose record it has got.

Shapes:
    L: slots.  P: payload words of a record.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from leworld.errors import ConfigError
from leworld.memory import WORD_BITS, HashPlacement, Memory, Receipt, unpack_bits

MAX_WORDS = 2**20
_LOW_HALF = np.uint32(0xFFFF)


def payload_words(state_dim: int) -> int:
    """Words that hold one bit a state dimension."""
    return -(-state_dim // WORD_BITS)


def slot_words(record_words: int) -> int:
    """The distance between slots: the next power of two."""
    return 1 << (record_words - 1).bit_length()


def check_dense(world: str, address_bits: int) -> None:
    """Refuse a memory too wide to write whole."""
    if 2**address_bits > MAX_WORDS:
        raise ConfigError(
            f"{world}: address_bits {address_bits} is {2**address_bits} words, above {MAX_WORDS}, "
            "and this world writes every slot: keep address_bits 16."
        )


@dataclass(frozen=True)
class Slots:
    """``words`` (L, P + 1) uint32, the record of each slot; slot l lies at address ``l * stride``."""

    words: NDArray[np.uint32]
    stride: int

    @property
    def record_words(self) -> int:
        """Payload and tag."""
        return self.words.shape[1]

    def signs(self, address: Tensor, dim: int) -> Tensor:
        """(...,) record addresses to (..., dim) float32: the first payload bits as -1 and +1."""
        payload = self.words[address.numpy() // self.stride, :-1]
        bits = unpack_bits(payload).reshape(*payload.shape[:-1], -1)[..., :dim]
        return torch.tensor(2 * bits.astype(np.float32) - 1)

    def following(self, address: Tensor) -> Tensor:
        """(...,) record addresses to the (...,) addresses that their pointers name."""
        pointer = self.words[address.numpy() // self.stride, -1] >> np.uint32(16)
        return torch.from_numpy(pointer.astype(np.int64) * self.stride)

    def write(self, memory: Memory) -> Receipt:
        """Write every record."""
        return memory.write(np.arange(len(self.words), dtype=np.int64) * self.stride, self.words)


def random_slots(address_bits: int, payload: int, high_half: NDArray[np.uint32], random: np.random.Generator) -> Slots:
    """Random payloads; each tag word is the slot's index below and ``high_half`` (L,) above."""
    count = len(high_half)
    words = random.integers(2**WORD_BITS, size=(count, payload + 1), dtype=np.uint32)
    words[:, -1] = (np.arange(count, dtype=np.uint32) & _LOW_HALF) | (high_half << np.uint32(16))
    return Slots(words, 2**address_bits // count)


def table_addresses(placements: tuple[HashPlacement, ...], keys: Tensor) -> Tensor:
    """(..., D) keys to (..., N) addresses, one a table."""
    flat = keys.reshape(-1, keys.shape[-1])
    columns = torch.stack([placement.address(flat) for placement in placements], dim=-1)
    return columns.reshape(*keys.shape[:-1], len(placements))
