"""Controls: predictions with the memory zeroed, shuffled, outdated or missed.

Shapes: see ``leworld.types``.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from leworld.memory import PAGE_WORDS, Reader, Words
from leworld.models.system import Redirect
from leworld.rng import derangement
from leworld.types import Ranges


class ZeroedMemory:
    """A reader of the same width whose words are all zero."""

    def __init__(self, memory: Reader) -> None:
        self.memory = memory
        self.address_bits = memory.address_bits

    def read(self, start: NDArray[np.int64], length: NDArray[np.int64]) -> Words:
        """Zeros of the given lengths; raises the same errors as the memory."""
        words = self.memory.read(start, length)
        return replace(words, words=np.zeros_like(words.words))


def shuffled(generator: torch.Generator) -> Redirect:
    """Every sample reads the ranges of another sample of its batch."""

    def redirect(ranges: Ranges) -> Ranges:
        other = derangement(len(ranges.start), generator)
        return Ranges(ranges.start[other], ranges.length[other])

    return redirect


def random_addresses(address_bits: int, generator: torch.Generator) -> Redirect:
    """Every read goes to an address drawn uniformly, at its own length."""

    def redirect(ranges: Ranges) -> Ranges:
        last = (1 << address_bits) - PAGE_WORDS
        return replace(ranges, start=torch.randint(0, last + 1, ranges.start.shape, generator=generator))

    return redirect
