"""Batched reads: ranges become bits, and each distinct range is read and encoded once.

In a batch of sequences most samples read the same ranges, so only distinct ones cost work.

Shapes:
    U: distinct ranges.  M: records in the longest of them.  R: words in a record.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from leworld.memory import PAGE_WORDS, Reader, unpack_bits
from leworld.types import Ranges, _Record


@dataclass(frozen=True)
class Reads(_Record):
    """Distinct ranges, and which samples read them.

    Attributes:
        bits: (W, 32) float in {0, 1}, the words of all distinct ranges, packed.
        row: (W,) int64, the range of each word; ``column`` (W,) int64, its position there.
        column: see ``row``.
        valid: (U, M) bool, True if a record has at least one word.
        index: ranges' shape, int64, the distinct range of each; a range without words if the length was 0.
    """

    bits: Tensor
    row: Tensor
    column: Tensor
    valid: Tensor
    index: Tensor


def read_ranges(memory: Reader, ranges: Ranges, record_words: int, device: torch.device | str = "cpu") -> Reads:
    """Read distinct ranges in one call to the memory.

    Args:
        memory: any memory.
        ranges: any shape.
        record_words: R; a range is split into records of R words from its start; the last may be short.
        device: of the bits.
    """
    packed, index = torch.unique(ranges.start * (PAGE_WORDS + 1) + ranges.length, return_inverse=True)
    start, length = packed // (PAGE_WORDS + 1), packed % (PAGE_WORDS + 1)
    words = memory.read(start.cpu().numpy(), length.cpu().numpy())
    # A copy in torch's memory: rounding of products may depend on the alignment of numpy's.
    bits = torch.tensor(unpack_bits(words.words))
    length = length.cpu()
    row = torch.repeat_interleave(torch.arange(len(length)), length)
    column = torch.arange(len(row)) - torch.from_numpy(words.offsets[:-1].copy())[row]
    records = (length + record_words - 1) // record_words
    num_records = max(int(records.max()), 1)
    valid = torch.arange(num_records) < records.unsqueeze(1)
    return Reads(bits, row, column, valid, index).to(device)
