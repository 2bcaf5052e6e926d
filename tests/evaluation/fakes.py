"""A tiny world whose answers are known, for the tests of evaluation.

The next state is ``current + gain of the body``; eight bodies in each split; the characteristics are a code
of the body.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from leworld.memory import Memory, Receipt
from leworld.types import Batch, Ranges, Split
from leworld.worlds.base import Keys, Stored, WorldSpec

BODIES = 8
FIRST_BODY = {"train": 0, "valid": BODIES, "test": 2 * BODIES}
STATE, TARGET, CHARS, STORED = 3, 2, 5, 6


@dataclass
class FakeWorld:
    """``told`` gives the oracle a context, ``remembers`` the neighbours their transitions; ``lawful`` gains are
    linear in the codes."""

    told: bool = True
    remembers: bool = True
    residual: bool = True
    lawful: bool = False
    horizon: int = 4

    def __post_init__(self) -> None:
        random = torch.Generator().manual_seed(7)
        self.codes = torch.randn(3 * BODIES, CHARS, generator=random)
        self.gains = torch.randn(3 * BODIES, TARGET, generator=random)
        if self.lawful:
            self.gains = self.codes @ torch.randn(CHARS, TARGET, generator=random)
        self.inputs = torch.randn(3 * BODIES, STORED, STATE, generator=random)
        self.spec = WorldSpec(
            name="fake",
            state_dim=STATE,
            target_dim=TARGET,
            char_dim=CHARS,
            context_dim=TARGET if self.told else 0,
            num_tables=1,
            address_bits=8,
            record_words=1,
            read_words=1,
            horizon=self.horizon,
            residual=self.residual,
            scale=torch.tensor([0.5, 2.0]),
        )

    def populate(self, memory: Memory, split: Split) -> list[Receipt]:
        """Nothing: the tests of evaluation read no memory."""
        return []

    def keys(self, batch_size: int, generator: torch.Generator) -> Keys:
        """First steps of training batches."""
        first = self.batch("train", batch_size, generator).at(0)
        return Keys(first.past, first.current, first.characteristics, first.labels)

    def batch(self, split: Split, batch_size: int, generator: torch.Generator) -> Batch:
        """Walk on from a random state, by the gain of a random body of the split."""
        body = FIRST_BODY[split] + torch.randint(BODIES, (batch_size,), generator=generator)
        noise = torch.randn(batch_size, self.horizon + 1, STATE, generator=generator)
        world = body.unsqueeze(1).expand(-1, self.horizon).clone()
        current = noise[:, 1:]
        zeros = torch.zeros(batch_size, self.horizon, 1, dtype=torch.int64)
        return Batch(
            past=noise[:, :-1],
            current=current,
            target=current[..., :TARGET] + self.gains[world],
            characteristics=self.codes[world],
            labels=Ranges(zeros, zeros + 1),
            keyed=zeros == 0,
            context=self.gains[world] if self.told else None,
            world=world,
        )

    def stored(self, world: Tensor) -> Stored | None:
        """Six transitions a body, without noise."""
        if not self.remembers:
            return None
        inputs = self.inputs[world]
        return Stored(inputs, inputs[..., :TARGET] + self.gains[world].unsqueeze(1))
