"""Words and their bits: 32 bits a word, least significant bit first."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from leworld.errors import DataError
from leworld.memory.crc import crc32
from leworld.memory.protocol import WORD_BITS


def unpack_bits(words: NDArray[np.uint32], dtype: DTypeLike = np.float32) -> NDArray[Any]:
    """Spread words into bits.

    Args:
        words: (...) uint32.
        dtype: of the result; float32 for models, uint8 for counting.

    Returns:
        (..., 32) of zeros and ones, least significant bit first.

    Raises:
        DataError: ``words`` are not uint32.
    """
    little = as_words(words).astype("<u4", copy=False)
    octets = np.ascontiguousarray(little)[..., None].view(np.uint8).reshape(*little.shape, 4)
    return np.unpackbits(octets, axis=-1, bitorder="little").astype(dtype, copy=False)


def pack_bits(bits: ArrayLike) -> NDArray[np.uint32]:
    """Gather bits into words: the inverse of ``unpack_bits``.

    Args:
        bits: (..., 32) of zeros and ones of any type.

    Returns:
        (...) uint32.

    Raises:
        DataError: the last axis is not 32, or a value is neither 0 nor 1.
    """
    bits = np.asarray(bits)
    if bits.ndim == 0 or bits.shape[-1] != WORD_BITS:
        raise DataError(f"bits of shape {bits.shape}: the last axis must be {WORD_BITS}, one word")
    octets = np.packbits(as_zeros_and_ones(bits), axis=-1, bitorder="little")
    return np.ascontiguousarray(octets).view("<u4")[..., 0].astype(np.uint32, copy=False)


def as_words(words: ArrayLike) -> NDArray[np.uint32]:
    """Refuse anything but uint32: a silent cast would wrap negative numbers and cut wide ones."""
    array = np.asarray(words)
    if array.dtype != np.uint32:
        raise DataError(
            f"words of type {array.dtype}: uint32 is needed; pack fields with Schema.pack or bits with pack_bits"
        )
    return array


def as_zeros_and_ones(bits: NDArray[Any]) -> NDArray[np.uint8]:
    """Bits of any type as uint8; DataError where a value is neither 0 nor 1."""
    if bits.dtype != np.bool_ and not ((bits == 0) | (bits == 1)).all():
        bad = bits[~((bits == 0) | (bits == 1))].flat[0]
        raise DataError(f"bit value {bad}: only 0 and 1 are bits; threshold the values first")
    return bits.astype(np.uint8)


def checksum(words: NDArray[np.uint32]) -> int:
    """CRC-32 of words as little-endian bytes in C order, so that every machine finds the same."""
    return crc32(as_bytes(words))


def as_bytes(words: NDArray[np.uint32]) -> memoryview:
    """Words as little-endian bytes in C order, without a copy where they lie so."""
    return np.ascontiguousarray(words.astype("<u4", copy=False)).reshape(-1).view(np.uint8).data
