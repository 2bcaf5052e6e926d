"""How a transition becomes a memory record: 8 bits a dimension, and a tag that names its body.

Shapes:
    M: records.  S: state with its action.  Y: predicted state.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from leworld.memory import Field, Schema

VALUE_BITS = 8
TAG_BITS = 8
MARGIN = 0.05
"""Share by which the bounds seen in training are widened; what lies outside is clipped."""

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Bounds:
    """Per dimension, what the quantiser covers: ``low`` and ``high``."""

    low: tuple[float, ...]
    high: tuple[float, ...]

    @classmethod
    def of(cls, values: Floats) -> Bounds:
        """The range of ``values`` (..., D), widened; a constant dimension gets room too."""
        flat = values.reshape(-1, values.shape[-1]).astype(np.float64)
        low, high = flat.min(axis=0), flat.max(axis=0)
        room = np.maximum(MARGIN * (high - low), 1e-6)
        return cls(tuple((low - room).tolist()), tuple((high + room).tolist()))


def transition_schema(inputs: Floats, deltas: Floats) -> Schema:
    """The record of transitions like these: inputs, changes of the state, tag."""
    fields = [_quantised("inputs", inputs), _quantised("deltas", deltas)]
    return Schema((*fields, Field("tag", "uint", 1, bits=TAG_BITS)))


def _quantised(name: str, values: Floats) -> Field:
    bounds = Bounds.of(values)
    return Field(name, "quantised", values.shape[-1], bits=VALUE_BITS, low=bounds.low, high=bounds.high)
