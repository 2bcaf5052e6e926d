"""Base of the worlds whose dynamics are the memory's content: every slot has a record, made up at random.

Shapes: see ``leworld.types``.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from leworld.memory import WORD_BITS, HashPlacement, Memory, Receipt
from leworld.types import Batch, Split
from leworld.worlds.base import Stored, WorldSpec, linear_spec
from leworld.worlds.draws import SPLITS, stream
from leworld.worlds.slots import TAG_BITS, RecordSlots, slot_words


class SlotWorld:
    """All splits share one content, and differ in their keys. ``rewrite`` changes the dynamics at once."""

    spec: WorldSpec

    def __init__(self, config: Any, seed: int) -> None:
        self.config = config
        self.seed = seed
        self.version = 0
        self.slots = self._content(0)
        self.placements = tuple(self._placement(table) for table in range(config.num_tables))
        self.spec = self._spec()

    def populate(self, memory: Memory, split: Split) -> list[Receipt]:
        """Write every slot once, for "train"; or in a wide memory the records of the split's keys."""
        address = self._addresses(split)
        return [self.slots.write(memory, address)] if split == "train" or address is not None else []

    def rewrite(self, memory: Memory, version: int) -> Receipt:
        """Write another content, and live by it. Version 0 is the first content."""
        self.slots, self.version = self._content(version), version
        return self.slots.write(memory, self._addresses(*SPLITS))

    def outdate(self, memory: Memory, split: Split) -> None:
        """Write another content than the one that the dynamics follow."""
        self._content(self.version + 1).write(memory, self._addresses(split))

    def batch(self, split: Split, batch_size: int, generator: torch.Generator) -> Batch:
        """Draw sequences; ``context`` is the true drive of each step."""
        return self._batch(batch_size, stream(generator, split, self.seed), split)

    def stored(self, world: Tensor) -> Stored | None:
        """None: memory holds rules here, not transitions."""
        return None

    def _addresses(self, *splits: Split) -> NDArray[np.int64] | None:
        """(R,) where the splits' records lie; None where all slots are written."""
        return None

    def _batch(self, batch_size: int, random: torch.Generator, split: Split | None) -> Batch:
        """Sequences with keys of a split; None draws keys that no split has."""
        raise NotImplementedError

    def _content(self, version: int) -> RecordSlots:
        raise NotImplementedError

    def _placement(self, table: int) -> HashPlacement:
        config, (key_dim, hash_bits) = self.config, self.config.hash_shape
        step = slot_words(config.record_words)
        return HashPlacement(key_dim, hash_bits, step, config.address_bits, self.seed, table)

    def _slot_spec(self, name: str, **more: Any) -> WorldSpec:
        """The spec of a world whose records are a payload of one bit a dimension and a tag."""
        config, words = self.config, self.config.record_words
        tag = (WORD_BITS * (words - 1), min(TAG_BITS, config.slot_bits))
        return linear_spec(name, config, record_words=words, read_words=words, tag=tag, **more)

    def _spec(self) -> WorldSpec:
        raise NotImplementedError
