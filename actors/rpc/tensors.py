"""Records on the wire: numpy arrays instead of tensors, which Ray would pickle one by one through files in memory."""

from __future__ import annotations

from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeVar

import numpy as np
import torch

from leworld.types import Credit, Proposals, Query, Ranges

Record = TypeVar("Record", Query, Proposals, Credit, Ranges)


def to_wire(record: Record) -> Record:
    """The same record with an array for each tensor."""
    return record.map(lambda tensor: tensor.detach().cpu().contiguous().numpy())


def from_wire(record: Record) -> Record:
    """Inverse of ``to_wire``.

    Arrays that Ray delivers are read-only and lie where it put them. Copies are torch's own: writable and aligned as
    torch aligns, so that products take the same path to the bit as on tensors that never travelled.
    """
    return _from_wire(record)


def _from_wire(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return torch.tensor(value)
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{field.name: _from_wire(getattr(value, field.name)) for field in fields(value)})
    return value
