"""Read noise: training replaces and drops reads, so that a wrong read does little harm later.

Shapes: see ``leworld.types``.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from leworld.rng import derangement
from leworld.types import Ranges


@dataclass(frozen=True)
class ReadNoise:
    """How much noise reads get.

    Attributes:
        irrelevant: part of the reads replaced by another sample's.
        dropped: part of the reads not made.
        blind: part of the samples that read nothing at all.
        cut: part of the samples whose reads keep only some first records, as soon after the first writes.
    """

    irrelevant: float
    dropped: float
    blind: float
    cut: float = 0.0


@dataclass(frozen=True)
class NoisyReads:
    """Reads with noise: (B, N) ``ranges``, ``wrong`` bool if they are another sample's, ``kept`` 0 or 1."""

    ranges: Ranges
    wrong: Tensor
    kept: Tensor


def add_read_noise(
    ranges: Ranges, read_noise: ReadNoise, generator: torch.Generator, record_words: int = 1
) -> NoisyReads:
    """Replace and drop reads at random.

    Args:
        ranges: (B, N).
        read_noise: how much.
        generator: on the CPU.
        record_words: words of a record; reads are cut between records.
    """
    batch, device = len(ranges.start), ranges.start.device
    other = derangement(batch, generator).to(device)
    alone, dropped = (torch.rand(ranges.start.shape, generator=generator).to(device) for _ in range(2))
    lost, blind = (torch.rand(batch, 1, generator=generator).to(device) for _ in range(2))
    # Half of the wrong reads come alone; for the other half, all reads of the sample are wrong.
    all_wrong = read_noise.irrelevant / 2
    swap = (lost < all_wrong) | (alone < all_wrong / (1 - all_wrong))
    start = torch.where(swap, ranges.start[other], ranges.start)
    length = torch.where(swap, ranges.length[other], ranges.length)
    if read_noise.cut:
        cut, share = (torch.rand(batch, 1, generator=generator).to(device) for _ in range(2))
        part = (share * (length // record_words + 1)).long() * record_words
        length = torch.where((cut < read_noise.cut) & (length > record_words), part, length)
    kept = (dropped >= read_noise.dropped) & (blind >= read_noise.blind) & (length > 0)
    return NoisyReads(Ranges(start, length), start != ranges.start, kept.float())
