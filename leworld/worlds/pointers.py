"""World ``pointers``: the words read at one step hold the address that the next step needs.

Every record names another; all of them form one cycle. The first address is a hash of the characteristics, every
later one is the pointer in the record before it. A model that cannot follow it is lost after one step.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from leworld.errors import ConfigError
from leworld.rng import derive_seed
from leworld.types import Batch, Ranges, Split
from leworld.worlds import config_checks as checks
from leworld.worlds.base import Keys, WorldSpec
from leworld.worlds.draws import stream
from leworld.worlds.dynamics import FIRST_STATE_STD, before, roll_out
from leworld.worlds.slot_world import SlotWorld
from leworld.worlds.slots import RecordSlots, payload_words, slot_bits, table_addresses

ADDRESS_BITS = 16


@dataclass(frozen=True)
class PointersConfig:
    """Settings of ``pointers``.

    Attributes:
        depth: records in a chain, and transitions in a sequence.
        drive: weight of a record's bits, taken as -1 and +1.
        noise: standard deviation of the noise; the floor is its square.
        decay: share of the state that stays.
    """

    depth: int = 8
    state_dim: int = 32
    char_dim: int = 32
    num_tables: int = 3
    address_bits: int = ADDRESS_BITS
    drive: float = 0.25
    noise: float = 0.1
    decay: float = 0.8

    def __post_init__(self) -> None:
        checks.at_least("pointers", 1, depth=self.depth, state_dim=self.state_dim, char_dim=self.char_dim)
        checks.at_least("pointers", 1, num_tables=self.num_tables)
        checks.at_least("pointers", 0, drive=self.drive, noise=self.noise)
        checks.between("pointers", 0, 1, decay=self.decay)
        if self.address_bits != ADDRESS_BITS:
            raise ConfigError(f"pointers: address_bits is {self.address_bits}, but a pointer has 16 bits: use 16.")
        checks.fits_a_page("pointers", self.record_words, "take a smaller state_dim")

    @property
    def record_words(self) -> int:
        """Payload, and the word of tag and pointer."""
        return payload_words(self.state_dim) + 1

    @property
    def slot_bits(self) -> int:
        """Bits that name a slot."""
        return slot_bits(self.address_bits, self.record_words)

    @property
    def hash_shape(self) -> tuple[int, int]:
        """Dimensions of a key, and bits of its hash."""
        return self.char_dim, self.slot_bits


class PointersWorld(SlotWorld):
    """See the module.

    Without a request the first address is known and the later ``depth - 1`` are not, and their drive has variance
    ``drive ** 2`` a dimension. So the floor without requests is ``noise ** 2 + drive ** 2 * (depth - 1) / depth``.
    """

    config: PointersConfig

    def keys(self, batch_size: int, generator: torch.Generator) -> Keys:
        """Draw fresh first steps: only there an address follows from the characteristics."""
        first = self._batch(batch_size, stream(generator, "keys", self.seed), None).at(0)
        tags = self.slots.tags(first.labels.start)
        return Keys(first.past, first.current, first.characteristics, first.labels, tags)

    def _batch(self, batch_size: int, random: torch.Generator, split: Split | None) -> Batch:
        config = self.config
        once = torch.randn(batch_size, config.char_dim, generator=random)
        characteristics = once.unsqueeze(1).repeat(1, config.depth, 1)
        labels = self._labels(once)
        context = config.drive * self.slots.signs(labels.start[..., 0], config.state_dim)
        first = FIRST_STATE_STD * torch.randn(batch_size, config.state_dim, generator=random)
        states = roll_out(first, context, characteristics, config.decay, config.noise, random)
        current = states[:, :-1]
        relevant = torch.zeros(labels.start.shape, dtype=torch.bool)
        relevant[..., 0] = True
        keyed = torch.ones_like(relevant)
        keyed[:, 1:, 0] = False
        return Batch(before(current), current, states[:, 1:], characteristics, labels, keyed, relevant, context)

    def _labels(self, characteristics: Tensor) -> Ranges:
        """(B, C) to (B, T, N): the chain in table 0, and in the others a record that never matters."""
        start = table_addresses(self.placements, characteristics)
        start = start.unsqueeze(1).repeat(1, self.config.depth, 1)
        for t in range(1, self.config.depth):
            start[:, t, 0] = self.slots.next_address(start[:, t - 1, 0])
        return Ranges(start, torch.full_like(start, self.config.record_words))

    def _content(self, version: int) -> RecordSlots:
        config = self.config
        key = derive_seed(self.seed, "pointers", version)
        order = np.random.default_rng(key).permutation(2**config.slot_bits).astype(np.uint32)
        following = np.empty_like(order)
        # One cycle through all slots: no chain meets a record twice.
        following[order] = np.roll(order, -1)
        return RecordSlots(key, config.address_bits, payload_words(config.state_dim), following)

    def _spec(self) -> WorldSpec:
        config, floor = self.config, self.config.noise**2
        no_request = floor + config.drive**2 * (config.depth - 1) / config.depth
        return self._slot_spec("pointers", horizon=config.depth, floor=floor, floor_no_request=no_request)
