"""What a world is: where transitions come from, what is written to memory, and what is known of the answer.

Shapes: see ``leworld.types``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from leworld.memory import Memory, Receipt
from leworld.types import Batch, Ranges, Split, _Record


@dataclass(frozen=True)
class WorldSpec:
    """Sizes and units of a world; the model takes its input and output sizes from here.

    Attributes:
        state_dim: S, state and action together.
        target_dim: Y, the leading dimensions of the state that are predicted.
        char_dim: C.
        context_dim: P of the oracle's context, 0 where there is none.
        num_tables: N, tables of the memory, one an SLM.
        address_bits: width of the memory's addresses.
        record_words: words a record has; the reader encodes record by record.
        read_words: the longest range that a label names.
        horizon: T of a batch.
        residual: True if a prediction is the current state plus a change.
        scale: (Y,) unit of the error: an MSE is the mean of ``((prediction - target) / scale) ** 2``.
        decode: (record_words * 32 + 1, S + Y) the linear map from a record's bits to the transition that it holds:
            state with its action, and the change in units of ``scale``; what a record of zeros holds comes last. None
            where records are no transitions.
        tag: first bit and number of bits of the tag in a record, by which the store tells whose it is; (0, 0): none.
        floor: the MSE that no model can beat, where it is known.
        floor_no_request: the floor of a model that may not ask, where it is known.
    """

    name: str
    state_dim: int
    target_dim: int
    char_dim: int
    context_dim: int
    num_tables: int
    address_bits: int
    record_words: int
    read_words: int
    horizon: int
    residual: bool
    scale: Tensor
    decode: Tensor | None = None
    tag: tuple[int, int] = (0, 0)
    floor: float | None = None
    floor_no_request: float | None = None


def linear_spec(name: str, config: Any, **more: Any) -> WorldSpec:
    """The spec of a world of linear dynamics (``leworld.worlds.dynamics``): sizes from its config, and ``more``."""
    return WorldSpec(
        name=name,
        state_dim=config.state_dim,
        target_dim=config.state_dim,
        char_dim=config.char_dim,
        context_dim=config.state_dim,
        num_tables=config.num_tables,
        address_bits=config.address_bits,
        residual=True,
        scale=torch.ones(config.state_dim),
        **more,
    )


@dataclass(frozen=True)
class Keys(_Record):
    """Fresh keys of a world and where its placement puts them: the free labels of pre-training.

    ``past``, ``current`` (B, S); ``characteristics`` (B, C); ``labels`` (B, N); ``tags`` (B, N) int64 of the records
    there, where the world's records have tags.
    """

    past: Tensor
    current: Tensor
    characteristics: Tensor
    labels: Ranges
    tags: Tensor | None = None


@dataclass(frozen=True)
class Stored:
    """The transitions that the memory holds for the world of each sample, as exact kNN may use them.

    ``inputs`` (B, M, S); ``targets`` (B, M, Y), in the order they were written.
    """

    inputs: Tensor
    targets: Tensor


class World(Protocol):
    """A source of transitions whose splits are by world: no test world is ever trained on."""

    spec: WorldSpec

    def populate(self, memory: Memory, split: Split) -> list[Receipt]:
        """Write what the memory is to know of the worlds of a split."""
        ...

    def outdate(self, memory: Memory, split: Split) -> None:
        """Write what the memory would still hold had the worlds of a split changed since: a control."""
        ...

    def batch(self, split: Split, batch_size: int, generator: torch.Generator) -> Batch:
        """Draw ``batch_size`` sequences of ``spec.horizon`` transitions."""
        ...

    def keys(self, batch_size: int, generator: torch.Generator) -> Keys:
        """Draw fresh keys, never those of a valid or test world, with their addresses."""
        ...

    def stored(self, world: Tensor) -> Stored | None:
        """The transitions in memory of worlds ``world`` (B,) (``Batch.world``), or None where there are none."""
        ...


@runtime_checkable
class Rewritable(Protocol):
    """A world whose dynamics can change together with its memory, while its keys and addresses stay."""

    def rewrite(self, memory: Memory, version: int) -> Receipt:
        """Write the memory of other dynamics over all that was written, and live by them; 0 restores the first."""
        ...
