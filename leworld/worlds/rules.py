"""World ``rules``: which memory regions matter, and where they lie, follows from characteristics drawn at every step.

Dimensions ``[0, N)`` of the characteristics are flags: region i, one of the first 1, 2 or 3 (easy, medium, hard),
matters where flag i is positive. Flags of the other tables look the same and mean nothing. The other dimensions are the
key, and each table finds its record by its own hash of that key. As characteristics are drawn anew at every step,
history tells nothing: only a read does. Where the difficulty is ``wide``, any 3 of all tables matter, and the flags of
the others are negative.

A memory of up to 2 ** 20 words has a record at every slot, and no key comes twice. A wider one holds the records of
``num_keys`` keys a split, and only those keys come.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from leworld import rng
from leworld.memory import check_address_bits
from leworld.rng import derive_seed
from leworld.types import Batch, Ranges, Split
from leworld.worlds import config_checks as checks
from leworld.worlds.base import Keys, WorldSpec
from leworld.worlds.draws import SPLITS, first_keys, pick, stream
from leworld.worlds.dynamics import FIRST_STATE_STD, before, roll_out
from leworld.worlds.slot_world import SlotWorld
from leworld.worlds.slots import DENSE_BITS, RecordSlots, payload_words, slot_bits, table_addresses

WIDE = "wide"
REGIONS = {"easy": 1, "medium": 2, "hard": 3, WIDE: 3}
MIN_FLAG = 0.5


@dataclass(frozen=True)
class RulesConfig:
    """Settings of ``rules``.

    Attributes:
        difficulty: easy, medium or hard: 1, 2 or 3 regions that may matter; wide: 3 of all tables do.
        hash_bits: bits of a table's hash; None takes all slots of the memory.
        num_keys: keys of each split, in a memory of more than 20 address bits; with less every slot is written.
        drive: weight of each relevant record's bits, taken as -1 and +1.
        noise: standard deviation of the noise; the floor is its square.
        decay: share of the state that stays.
    """

    difficulty: str = "easy"
    state_dim: int = 32
    char_dim: int = 32
    num_tables: int = 3
    address_bits: int = 16
    hash_bits: int | None = None
    num_keys: int = 16384
    horizon: int = 8
    drive: float = 0.25
    noise: float = 0.1
    decay: float = 0.8

    def __post_init__(self) -> None:
        checks.one_of("rules", "difficulty", self.difficulty, tuple(REGIONS))
        checks.at_least("rules", 1, state_dim=self.state_dim, horizon=self.horizon, num_keys=self.num_keys)
        checks.at_least("rules", REGIONS[self.difficulty], num_tables=self.num_tables)
        checks.at_least("rules", self.num_tables + 1, char_dim=self.char_dim)
        checks.at_least("rules", 0, drive=self.drive, noise=self.noise)
        checks.between("rules", 0, 1, decay=self.decay)
        check_address_bits(self.address_bits)
        checks.fits_a_page("rules", self.record_words, "take a smaller state_dim")
        checks.between("rules", 1, self.slot_bits, hash_bits=self.used_hash_bits)

    @property
    def record_words(self) -> int:
        """Payload and tag."""
        return payload_words(self.state_dim) + 1

    @property
    def slot_bits(self) -> int:
        """Bits that name a slot."""
        return slot_bits(self.address_bits, self.record_words)

    @property
    def dense(self) -> bool:
        """Whether every slot is written."""
        return self.address_bits <= DENSE_BITS

    @property
    def used_hash_bits(self) -> int:
        """``hash_bits``, or all that the slots have."""
        return self.slot_bits if self.hash_bits is None else self.hash_bits

    @property
    def hash_shape(self) -> tuple[int, int]:
        """Dimensions of a key, and bits of its hash."""
        return self.char_dim - self.num_tables, self.used_hash_bits


class RulesWorld(SlotWorld):
    """See the module. ``rewrite`` changes the dynamics at once, as the dynamics are the memory's content."""

    config: RulesConfig

    def __init__(self, config: RulesConfig, seed: int) -> None:
        super().__init__(config, seed)
        self.split_keys = {} if config.dense else {split: self._draw_keys(split) for split in SPLITS}

    def keys(self, batch_size: int, generator: torch.Generator) -> Keys:
        """Draw fresh characteristics and states, of the distribution of the batches."""
        sequences = -(-batch_size // self.config.horizon)
        keys = first_keys(self._batch(sequences, stream(generator, "keys", self.seed), None), batch_size)
        return replace(keys, tags=self.slots.tags(keys.labels.start))

    def _batch(self, batch_size: int, random: torch.Generator, split: Split | None) -> Batch:
        config = self.config
        characteristics, relevant = self._characteristics(batch_size, random)
        if split in self.split_keys:
            drawn = pick(self.split_keys[split], batch_size * config.horizon, random)
            characteristics[..., config.num_tables :] = drawn.unflatten(0, (batch_size, config.horizon))
        labels = self._labels(characteristics)
        signs = self.slots.signs(labels.start, config.state_dim)
        context = config.drive * (signs * relevant.unsqueeze(-1)).sum(dim=2)
        first = FIRST_STATE_STD * torch.randn(batch_size, config.state_dim, generator=random)
        states = roll_out(first, context, characteristics, config.decay, config.noise, random)
        current = states[:, :-1]
        keyed = torch.ones_like(relevant)
        return Batch(before(current), current, states[:, 1:], characteristics, labels, keyed, relevant, context)

    def _characteristics(self, batch_size: int, random: torch.Generator) -> tuple[Tensor, Tensor]:
        """(B, T, C) characteristics, and (B, T, N) which tables matter: never none."""
        config = self.config
        shape = (batch_size, config.horizon)
        values = torch.randn(*shape, config.char_dim, generator=random)
        tables = torch.arange(config.num_tables)
        positive = torch.randint(2, (*shape, config.num_tables), generator=random).bool()
        regions = REGIONS[config.difficulty]
        # A subset drawn as a number in [1, 2 ** regions) is uniform over the subsets that are not empty.
        subset = torch.randint(1, 2**regions, shape, generator=random).unsqueeze(-1)
        matters = ((subset >> tables) & 1).bool()
        if config.difficulty == WIDE:
            chosen = torch.rand(*shape, config.num_tables, generator=random).topk(regions).indices
            matters = positive = torch.zeros_like(positive).scatter_(-1, chosen, True)
        positive = torch.where(tables < regions, matters, positive)
        size = MIN_FLAG + values[..., : config.num_tables].abs()
        values[..., : config.num_tables] = torch.where(positive, size, -size)
        return values, matters

    def _labels(self, characteristics: Tensor) -> Ranges:
        start = table_addresses(self.placements, characteristics[..., self.config.num_tables :])
        return Ranges(start, torch.full_like(start, self.config.record_words))

    def _draw_keys(self, split: Split) -> Tensor:
        """(num_keys, D) the keys of a split."""
        shape = (self.config.num_keys, self.config.char_dim - self.config.num_tables)
        return torch.randn(shape, generator=rng.generator(self.seed, "rules", "keys", split))

    def _addresses(self, *splits: Split) -> NDArray[np.int64] | None:
        if self.config.dense:
            return None
        keys = torch.cat([self.split_keys[split] for split in splits])
        return table_addresses(self.placements, keys).flatten().numpy()

    def _content(self, version: int) -> RecordSlots:
        config = self.config
        key = derive_seed(self.seed, "rules", version)
        return RecordSlots(key, config.address_bits, payload_words(config.state_dim))

    def _spec(self) -> WorldSpec:
        floor = self.config.noise**2
        return self._slot_spec("rules", horizon=self.config.horizon, floor=floor, floor_no_request=floor)
