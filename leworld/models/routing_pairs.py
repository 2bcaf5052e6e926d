"""Routing pairs: which SLMs get which samples, as a list.

Shapes:
    B: batch.  A: SLMs asked about a sample.  P = B * A: pairs.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from leworld.types import _Record

R = TypeVar("R", bound=_Record)


@dataclass(frozen=True)
class Pairs:
    """Pairs of a sample and an SLM, ordered by SLM and then by sample.

    Attributes:
        row: (P,) int64 sample.
        slm: (P,) int64 place of the SLM among those of a fleet, ascending.
        place: (P,) int64 where the pair stands in (B, A), row by row.
        shape: (B, A).
        samples: number of predicted samples in all processes; the mean of a loss is over them.
    """

    row: Tensor
    slm: Tensor
    place: Tensor
    shape: tuple[int, int]
    samples: int

    @classmethod
    def all(cls, batch: int, num_slms: int, device: torch.device | str = "cpu") -> Pairs:
        """Every SLM with every sample."""
        slm = torch.arange(num_slms, device=device).repeat_interleave(batch)
        row = torch.arange(batch, device=device).repeat(num_slms)
        return cls(row, slm, row * num_slms + slm, (batch, num_slms), batch)

    @classmethod
    def of(cls, shortlist: Tensor) -> Pairs:
        """From the (B, A) int64 SLMs that each sample asks, without repeats in a row."""
        slm, place = torch.sort(shortlist.flatten(), stable=True)
        return cls(place // shortlist.shape[1], slm, place, (shortlist.shape[0], shortlist.shape[1]), len(shortlist))

    @classmethod
    def listed(cls, row: Tensor, slm: Tensor, samples: int) -> Pairs:
        """Pairs as listed, (P,) each, in a single column: B is P."""
        return cls(row, slm, torch.arange(len(row), device=row.device), (len(row), 1), samples)

    def runs(self) -> Iterator[tuple[int, slice]]:
        """Each SLM with at least one pair, and where its pairs are."""
        slms, counts = torch.unique_consecutive(self.slm, return_counts=True)
        first = 0
        for slm, count in zip(slms.tolist(), counts.tolist(), strict=True):
            yield slm, slice(first, first + count)
            first += count

    def take(self, record: R) -> R:
        """Turn a record of (B, A, ...) into one of (P, ...)."""
        return record.map(lambda x: x.flatten(0, 1)[self.place])

    def put(self, record: R) -> R:
        """Inverse of ``take``."""
        return record.map(lambda x: torch.empty_like(x).index_copy_(0, self.place, x).unflatten(0, self.shape))


def rows_of(weight: Tensor, shortlist: Tensor | None) -> Tensor:
    """The (N, ...) weights of all SLMs, or the (B, A, ...) of those on the shortlist."""
    return weight if shortlist is None else weight[shortlist]


def apply_own(weight: Tensor, x: Tensor, shortlist: Tensor) -> Tensor:
    """Each SLM's own linear map, as one batched product over the SLMs that any sample asks.

    Args:
        weight: (Y, N * E), the maps of N SLMs side by side.
        x: (B, A, E).
        shortlist: (B, A) int64, the SLM of each column.

    Returns:
        (B, Y), the sum over A.
    """
    pairs, width = Pairs.of(shortlist), x.shape[-1]
    slms, which, counts = torch.unique_consecutive(pairs.slm, return_inverse=True, return_counts=True)
    first = counts.cumsum(0) - counts
    column = torch.arange(len(which), device=which.device) - first[which]
    listed = x.flatten(0, 1)[pairs.place]
    padded = x.new_zeros(len(slms), int(counts.max()), width).index_put((which, column), listed)
    maps = weight.unflatten(1, (-1, width))[:, slms].permute(1, 2, 0)
    return x.new_zeros(len(x), len(weight)).index_add(0, pairs.row, (padded @ maps)[which, column])
