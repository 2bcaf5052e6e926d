"""Weights on the wire: a dictionary of tensors as one flat array, which travels several times faster."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

ALIGN_BYTES = 64


@dataclass(frozen=True)
class Entry:
    """Where a tensor lies in the flat array, in bytes, and what it is."""

    name: str
    offset: int
    num_bytes: int
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Packed:
    """Tensors in one array: ``flat`` (bytes,) uint8, and an entry for each."""

    flat: NDArray[np.uint8]
    index: tuple[Entry, ...]


def pack(tensors: Mapping[str, Tensor]) -> Packed:
    """Copy tensors, of any numpy type and on any device, into one array."""
    arrays = {name: tensor.detach().cpu().contiguous().numpy() for name, tensor in tensors.items()}
    index, offset = [], 0
    for name, array in arrays.items():
        index.append(Entry(name, offset, array.nbytes, array.dtype.str, array.shape))
        offset += -(-array.nbytes // ALIGN_BYTES) * ALIGN_BYTES
    flat = np.zeros(offset, np.uint8)
    for entry in index:
        flat[entry.offset : entry.offset + entry.num_bytes] = arrays[entry.name].reshape(-1).view(np.uint8)
    return Packed(flat, tuple(index))


def unpack(packed: Packed) -> dict[str, Tensor]:
    """Inverse of ``pack``: tensors on the CPU that share nothing with the array."""
    return {entry.name: torch.tensor(_array(packed.flat, entry)) for entry in packed.index}


def _array(flat: NDArray[np.uint8], entry: Entry) -> NDArray[np.generic]:
    part = flat[entry.offset : entry.offset + entry.num_bytes]
    return part.view(entry.dtype).reshape(entry.shape)
