"""Streams of random numbers that no two splits share, and the shared ways to draw from them."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from leworld import rng
from leworld.types import Batch, Split
from leworld.worlds.base import Keys

SPLITS: tuple[Split, ...] = ("train", "valid", "test")


def stream(generator: torch.Generator, name: Split | Literal["keys"], seed: int) -> torch.Generator:
    """A generator of one split alone.

    Generators of one seed may be handed in for train and for test: without this they would draw the same samples.

    Args:
        generator: advanced by one draw.
        name: the split, or "keys" for pre-training.
        seed: of the world.
    """
    drawn = int(torch.randint(2**62, (1,), generator=generator))
    return rng.generator(seed, "world", name, drawn)


def pick(choices: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """(count,) elements of ``choices`` (n,), uniformly and with repetition."""
    return choices[torch.randint(len(choices), (count,), generator=generator)]


def first_keys(batch: Batch, count: int) -> Keys:
    """The first ``count`` samples of a batch with time folded, as keys: same states, same addresses."""
    flat = batch.fold_time().map(lambda tensor: tensor[:count, 0])
    return Keys(flat.past, flat.current, flat.characteristics, flat.labels)
