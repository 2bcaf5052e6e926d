"""World ``seed``: the generator that this system began with, kept to reproduce and explain its figures.

A sequence has one vector of characteristics and 1, 2 or 3 random ranges of a memory filled with structured patterns.
Two quirks are kept. The original writes the whole sequence anew for each range, so only the last range matters. And the
ranges are drawn apart from everything that a model sees, so no input tells an address: ``keyed`` is False everywhere.

So the state decays towards a point that can only be guessed. Over the first 5 steps, which the original evaluates,
predicting zero costs about 0.41 and copying the last state 0.036; over all 9 steps 0.34 and 0.027. The floor is 0.01.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from leworld import rng
from leworld.errors import ConfigError
from leworld.memory import PAGE_WORDS, Memory, Receipt, unpack_bits
from leworld.memory.fill import fill_random, structured_words
from leworld.types import Batch, Ranges, Split
from leworld.worlds import config_checks as checks
from leworld.worlds.base import Keys, Stored, WorldSpec, linear_spec
from leworld.worlds.draws import SPLITS, pick, stream
from leworld.worlds.dynamics import before, roll_out, tile
from leworld.worlds.rules import REGIONS

DECAY, DRIVE, NOISE = 0.8, 0.15, 0.1
MIN_LENGTH, MAX_LENGTH = 16, 128
ADDRESS_BITS = 16


@dataclass(frozen=True)
class SeedConfig:
    """Settings of ``seed``.

    Attributes:
        num_train: sequences in all; ``num_valid`` and ``num_test`` likewise.
        horizon: transitions of a sequence, one less than its states.
        difficulty: easy, medium or hard: 1, 2 or 3 ranges, the last of which matters.
    """

    num_train: int = 100
    num_valid: int = 30
    num_test: int = 30
    horizon: int = 9
    state_dim: int = 64
    char_dim: int = 32
    difficulty: str = "medium"
    num_tables: int = 3
    address_bits: int = ADDRESS_BITS

    def __post_init__(self) -> None:
        checks.one_of("seed", "difficulty", self.difficulty, tuple(REGIONS))
        checks.at_least("seed", 1, num_train=self.num_train, num_valid=self.num_valid, num_test=self.num_test)
        checks.at_least("seed", 1, horizon=self.horizon, state_dim=self.state_dim, char_dim=self.char_dim)
        checks.at_least("seed", REGIONS[self.difficulty], num_tables=self.num_tables)
        if self.address_bits != ADDRESS_BITS:
            raise ConfigError(f"seed: address_bits is {self.address_bits}, but its memory has 64 K words: use 16.")


class SeedWorld:
    """See the module. ``context`` is the true drive, 0.15 times the mean bits of the last range as -1 to 1."""

    def __init__(self, config: SeedConfig, seed: int) -> None:
        self.config = config
        self.seed = seed
        words = np.random.default_rng(rng.derive_seed(seed, "seed", "memory"))
        self._words = structured_words(2**config.address_bits, words)
        counts = (config.num_train, config.num_valid, config.num_test)
        self._sequences = {split: self._draw(split, count) for split, count in zip(SPLITS, counts, strict=True)}
        self.spec = self._spec()

    def populate(self, memory: Memory, split: Split) -> list[Receipt]:
        """Write the four structured regions once, for "train": all splits share one memory."""
        if split != "train":
            return []
        pages = self._words.reshape(-1, PAGE_WORDS)
        return [memory.write(np.arange(len(pages), dtype=np.int64) * PAGE_WORDS, pages)]

    def outdate(self, memory: Memory, split: Split) -> None:
        """Fill the memory with random bits: another content than the one that the dynamics follow."""
        fill_random(memory, np.random.default_rng(self.seed))

    def batch(self, split: Split, batch_size: int, generator: torch.Generator) -> Batch:
        """Draw from the split's fixed set of sequences, with repetition."""
        sequences = self._sequences[split]
        chosen = pick(torch.arange(len(sequences.current)), batch_size, stream(generator, split, self.seed))
        return sequences.map(lambda tensor: tensor[chosen])

    def keys(self, batch_size: int, generator: torch.Generator) -> Keys:
        """Draw characteristics, first states and ranges; the ranges follow from nothing, as in the batches."""
        random = stream(generator, "keys", self.seed)
        first = torch.randn(batch_size, self.config.state_dim, generator=random)
        characteristics = torch.randn(batch_size, self.config.char_dim, generator=random)
        return Keys(first, first, characteristics, self._ranges(batch_size, random))

    def stored(self, world: Tensor) -> Stored | None:
        """None: memory holds patterns here, not transitions."""
        return None

    def _draw(self, split: Split, count: int) -> Batch:
        """The split's sequences, as one batch."""
        config, random = self.config, rng.generator(self.seed, "seed", split)
        steps = (1, config.horizon, 1)
        characteristics = torch.randn(count, 1, config.char_dim, generator=random).repeat(steps)
        ranges = self._ranges(count, random)
        labels = ranges.map(lambda tensor: tensor.unsqueeze(1).repeat(steps))
        context = self._drive(ranges).unsqueeze(1).repeat(steps)
        first = torch.randn(count, config.state_dim, generator=random)
        states = roll_out(first, context, characteristics, DECAY, NOISE, random)
        current = states[:, :-1]
        keyed = torch.zeros(labels.start.shape, dtype=torch.bool)
        relevant = keyed.clone()
        relevant[..., REGIONS[config.difficulty] - 1] = True
        return Batch(before(current), current, states[:, 1:], characteristics, labels, keyed, relevant, context)

    def _ranges(self, count: int, random: torch.Generator) -> Ranges:
        """(count, N) ranges; tables past the difficulty's number have length 0."""
        shape = (count, self.config.num_tables)
        start = torch.randint(2**self.config.address_bits - PAGE_WORDS + 1, shape, generator=random)
        length = torch.randint(MIN_LENGTH, MAX_LENGTH + 1, shape, generator=random)
        used = torch.arange(self.config.num_tables) < REGIONS[self.config.difficulty]
        return Ranges(start * used, length * used)

    def _drive(self, ranges: Ranges) -> Tensor:
        """(count, S) drive of the last range that is used."""
        last = REGIONS[self.config.difficulty] - 1
        starts, lengths = ranges.start[:, last].tolist(), ranges.length[:, last].tolist()
        spans = zip(starts, lengths, strict=True)
        means = np.stack([_mean_bits(self._words[start : start + length]) for start, length in spans])
        return DRIVE * tile(torch.tensor(2 * means - 1), self.config.state_dim)

    def _spec(self) -> WorldSpec:
        return linear_spec(
            "seed",
            self.config,
            record_words=1,
            read_words=MAX_LENGTH,
            horizon=self.config.horizon,
            floor=NOISE**2,
            floor_no_request=NOISE**2,
        )


def _mean_bits(words: NDArray[np.uint32]) -> NDArray[np.float32]:
    return unpack_bits(words).astype(np.float32).mean(axis=0)
