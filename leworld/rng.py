"""Random generators that depend on their purpose, not on earlier draws.

A step's generator follows from (seed, phase, step) alone, so a resumed run draws what an unbroken run draws.
"""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor


def derive_seed(seed: int, *path: str | int) -> int:
    """A 63-bit seed for one purpose: ``derive_seed(0, "joint", 17)``."""
    digest = hashlib.blake2b(repr((seed, *path)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def generator(seed: int, *path: str | int) -> torch.Generator:
    """A CPU generator for one purpose."""
    return torch.Generator().manual_seed(derive_seed(seed, *path))


def derangement(count: int, generator: torch.Generator) -> Tensor:
    """(count,) a permutation that moves every element, if count is above 1."""
    order = torch.randperm(count, generator=generator)
    moved = torch.empty_like(order)
    moved[order] = order.roll(1)
    return moved
