"""How transitions of a body become words at addresses: all that is needed to write a new body, without the data.

Shapes:
    B: bodies.  N: tables.  M: records of a body.  S: state with its action.  Y: state, the leading dimensions of S.
    C: characteristics.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from leworld.memory import HashPlacement, Schema
from leworld.memory.fields import Field
from leworld.worlds.page_plan import way_words
from leworld.worlds.slots import table_addresses
from leworld.worlds.trajectory_data import Moments
from leworld.worlds.transition_records import TAG_BITS

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class TransitionFormat:
    """Units, record layout and placement of a world of trajectories.

    Attributes:
        inputs: units of the state with its action.
        characteristics: units of the source's characteristics; None where they are used as they are.
        schema: the layout of a record.
        num_tables: N.
        num_records: M, a multiple of N.
        char_dim: C.
        address_bits: of the memory.
        seed: of the placement.
    """

    inputs: Moments
    characteristics: Moments | None
    schema: Schema
    num_tables: int
    num_records: int
    char_dim: int
    address_bits: int
    seed: int

    @property
    def block_words(self) -> int:
        """Words of the block that a table keeps of a body."""
        return self.schema.num_words * (self.num_records // self.num_tables)

    @cached_property
    def placements(self) -> tuple[HashPlacement, ...]:
        """One hash a table; their keys are ``placement_keys``."""
        return tuple(self._placement(table) for table in range(self.num_tables))

    @cached_property
    def _tag_hash(self) -> HashPlacement:
        return HashPlacement(self.char_dim + 1, 1, 1, 8, self.seed)

    def home(self, characteristics: Tensor) -> Tensor:
        """(..., C) to the (..., N) addresses that the blocks hash to."""
        return table_addresses(self.placements, placement_keys(characteristics))

    def tags(self, characteristics: Tensor) -> Tensor:
        """(n, C) to (n,) int64 tags."""
        return self._tag_hash.tag(placement_keys(characteristics), TAG_BITS)

    def pack(self, tags: Ints, inputs: Tensor, following: Tensor) -> NDArray[np.uint32]:
        """Records of transitions, in these units: ``tags`` (...,), ``inputs`` (..., S) and ``following`` (..., Y), to
        (..., words of a record)."""
        deltas = following - inputs[..., : following.shape[-1]]
        rows = {
            "inputs": inputs.reshape(-1, inputs.shape[-1]).numpy(),
            "deltas": deltas.reshape(-1, deltas.shape[-1]).numpy(),
            "tag": tags.reshape(-1)[:, None],
        }
        return self.schema.pack(rows).reshape(*tags.shape, -1)

    def block(self, characteristics: Tensor, inputs: Tensor, following: Tensor) -> NDArray[np.uint32]:
        """(N, block words) of a body of (C,) with m <= M transitions, spread over the tables in their order.

        The rest of a block is records that carry another tag than the body's, so that no read of it is believed.
        """
        tag = int(self.tags(characteristics.unsqueeze(0)))
        shape = (self.num_tables, self.num_records // self.num_tables)
        tags = np.full(shape, tag ^ ((1 << TAG_BITS) - 1), np.int64)
        values = torch.zeros(*shape, inputs.shape[-1] + following.shape[-1])
        for table, part in enumerate(torch.cat([inputs, following], dim=-1).tensor_split(self.num_tables)):
            values[table, : len(part)] = part
            tags[table, : len(part)] = tag
        inputs, following = values.tensor_split([inputs.shape[-1]], dim=-1)
        return self.pack(tags, inputs, following).reshape(self.num_tables, -1)

    def to_json(self) -> dict[str, Any]:
        """Plain values; ``from_json`` gives the same bits."""
        plain = {
            name: getattr(self, name) for name in ("num_tables", "num_records", "char_dim", "address_bits", "seed")
        }
        units = {name: _plain_moments(getattr(self, name)) for name in ("inputs", "characteristics")}
        return {**plain, **units, "fields": [asdict(field) for field in self.schema.fields]}

    @classmethod
    def from_json(cls, given: Mapping[str, Any]) -> TransitionFormat:
        """Inverse of ``to_json``.

        Raises:
            KeyError, TypeError, ValueError: it is something else.
        """
        units = {name: _moments(given[name]) for name in ("inputs", "characteristics")}
        schema = Schema(tuple(Field(**{name: _hashable(x) for name, x in field.items()}) for field in given["fields"]))
        rest = {name: value for name, value in given.items() if name not in ("fields", *units)}
        return cls(schema=schema, **units, **rest)

    def _placement(self, table: int) -> HashPlacement:
        way = way_words(self.block_words)
        return HashPlacement(
            key_dim=self.char_dim + 1,
            hash_bits=self.address_bits - (way.bit_length() - 1),
            align_words=way,
            address_bits=self.address_bits,
            seed=self.seed,
            table=table,
        )


def placement_keys(characteristics: Tensor) -> Tensor:
    """(..., C) to (..., C + 1): with a constant added, few characteristics still reach many pages.

    Planes through the origin cut a line into two parts, whatever their number; planes off it make one part more than
    there are planes.
    """
    return functional.pad(characteristics, (0, 1), value=1.0)


def _plain_moments(moments: Moments | None) -> dict[str, list[float]] | None:
    return None if moments is None else {"mean": moments.mean.tolist(), "std": moments.std.tolist()}


def _moments(given: Mapping[str, list[float]] | None) -> Moments | None:
    if given is None:
        return None
    return Moments(*(torch.tensor(given[name], dtype=torch.float64) for name in ("mean", "std")))


def _hashable(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
