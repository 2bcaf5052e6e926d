"""Plain ways to do what the worlds do, for the tests to compare with."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from leworld.memory import WordStore
from leworld.types import Batch, Ranges
from leworld.worlds.base import World


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def populated(world: World) -> WordStore:
    memory = WordStore(world.spec.address_bits)
    for split in ("train", "valid", "test"):
        world.populate(memory, split)
    return memory


def read_one(memory: WordStore, start: int, length: int) -> np.ndarray:
    return memory.read(np.array([start]), np.array([length])).words


def plain_signs(word: int, dim: int = 32) -> Tensor:
    return torch.tensor([1.0 if word >> bit & 1 else -1.0 for bit in range(dim)])


def plain_tile(values: Tensor, dim: int) -> Tensor:
    return torch.stack([values[..., index % values.shape[-1]] for index in range(dim)], dim=-1)


def linear_residual(batch: Batch, decay: float) -> Tensor:
    """What is left of the targets of a synthetic world once its rule and its true drive are taken away."""
    assert batch.context is not None
    push = batch.context + 0.05 * plain_tile(batch.characteristics, batch.target.shape[-1])
    return batch.target - decay * batch.current - push


def assert_same(first: object, second: object) -> None:
    """Two batches or keys are equal to the bit."""
    for name, value in vars(first).items():
        other = vars(second)[name]
        if isinstance(value, Tensor):
            assert torch.equal(value, other), name
        elif isinstance(value, Ranges):
            assert_same(value, other)
        else:
            assert value is None
            assert other is None
