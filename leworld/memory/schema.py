"""Records: typed fields to a whole number of words and back.

Fields are laid out in order, the least significant bit first. An element of 8, 16 or 32 bits starts at a multiple
of its width, so it never crosses a word border; elements of other widths may.

Shapes:
    N: records.  C: elements of a field.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from leworld.errors import ConfigError, DataError
from leworld.memory.fields import Field
from leworld.memory.protocol import PAGE_WORDS, WORD_BITS
from leworld.memory.words import as_words, unpack_bits


@dataclass(frozen=True)
class Schema:
    """The fields of a record, in the order they are laid out.

    Attributes:
        fields: at least one.
        record_words: pads each record to so many words; 0: as few as hold the fields.
    """

    fields: tuple[Field, ...]
    record_words: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "fields", tuple(self.fields))
        names = [field.name for field in self.fields]
        if not names or len(set(names)) < len(names):
            raise ConfigError(f"schema with fields {names}: at least one is needed, each name once")
        needed = -(-self._layout[-1][1] // WORD_BITS)
        if max(needed, self.record_words) > PAGE_WORDS or 0 != self.record_words < needed:
            raise ConfigError(
                f"schema of {needed} words with record_words {self.record_words}: use 0 or {needed} to {PAGE_WORDS},"
                f" and no more than {PAGE_WORDS} words of fields"
            )

    @property
    def num_words(self) -> int:
        """Words a record has."""
        return self.record_words or -(-self._layout[-1][1] // WORD_BITS)

    def pack(self, values: Mapping[str, ArrayLike]) -> NDArray[np.uint32]:
        """Lay fields out in words.

        Args:
            values: (N, C) of each field; (N,) too where C is 1.

        Returns:
            (N, num_words) uint32.

        Raises:
            DataError: a field is missing, unknown, of another shape, NaN, or too large for its bits.
        """
        arrays = self._arrays(values)
        num_records = len(arrays[0])
        bits = np.zeros((num_records, self.num_words * WORD_BITS), np.uint8)
        for field, array, (begin, end) in zip(self.fields, arrays, self._layout, strict=True):
            codes = field.encode(array)
            bits[:, begin:end] = unpack_bits(codes, np.uint8)[:, :, : field.width].reshape(num_records, end - begin)
        return np.packbits(bits, axis=1, bitorder="little").view("<u4").astype(np.uint32, copy=False)

    def unpack(self, words: NDArray[np.uint32]) -> dict[str, NDArray[Any]]:
        """Inverse of ``pack``: exact but for ``float16`` rounding and ``quantised``, which is within half a step.

        Args:
            words: (N, num_words) uint32.

        Returns:
            (N, C) of each field; types as ``Field.decode`` says.

        Raises:
            DataError: the words are of another shape or type.
        """
        words = as_words(words)
        if words.ndim != 2 or words.shape[1] != self.num_words:
            raise DataError(f"words of shape {words.shape}: records of (N, {self.num_words}) are needed")
        bits = unpack_bits(words, np.uint8).reshape(len(words), self.num_words * WORD_BITS)
        return {
            field.name: field.decode(_codes(bits[:, begin:end].reshape(len(words), field.count, field.width)))
            for field, (begin, end) in zip(self.fields, self._layout, strict=True)
        }

    def first_bit(self, name: str) -> int:
        """Where a field begins in a record."""
        return self._layout[[field.name for field in self.fields].index(name)][0]

    def linear(self, names: Sequence[str]) -> NDArray[np.float64]:
        """The linear map from a record's bits to the values of some fields.

        Args:
            names: fields of any kind but ``float16``, which is not linear in its bits.

        Returns:
            (num_words * 32 + 1, elements of these fields): one row a bit, and the values of a record of zeros last.

        Raises:
            ConfigError: a field is of kind ``float16``.
        """
        columns = []
        for field, (begin, _) in zip(self.fields, self._layout, strict=True):
            if field.name not in names:
                continue
            if field.kind == "float16":
                raise ConfigError(f"field {field.name!r} of kind float16 is not linear in its bits: use quantised")
            low, step = (field.low, field.step) if field.kind == "quantised" else (0.0, 1.0)
            column = np.zeros((self.num_words * WORD_BITS + 1, field.count))
            for element in range(field.count):
                first = begin + element * field.width
                column[first : first + field.width, element] = 2.0 ** np.arange(field.width)
            column *= step
            column[-1] = low
            columns.append(column)
        return np.concatenate(columns, axis=1)

    @cached_property
    def _layout(self) -> list[tuple[int, int]]:
        """First bit and end of each field."""
        layout, end = [], 0
        for field in self.fields:
            align = field.width if field.width in (8, 16, 32) else 1
            begin = -(-end // align) * align
            end = begin + field.count * field.width
            layout.append((begin, end))
        return layout

    def _arrays(self, values: Mapping[str, ArrayLike]) -> list[NDArray[Any]]:
        names = [field.name for field in self.fields]
        for name in values:
            if name not in names:
                nearest = get_close_matches(str(name), names, n=1) or names
                raise DataError(
                    f"unknown field {name!r}: the schema has {', '.join(names)}; did you mean {nearest[0]!r}?"
                )
        for name in names:
            if name not in values:
                raise DataError(f"field {name!r} is missing: give all of {', '.join(names)}")
        arrays = [_columns(field, np.asarray(values[field.name])) for field in self.fields]
        if len({len(array) for array in arrays}) > 1:
            counts = ", ".join(f"{name} {len(array)}" for name, array in zip(names, arrays, strict=True))
            raise DataError(f"fields of different numbers of records ({counts}): give the same number of each")
        return arrays


def _columns(field: Field, array: NDArray[Any]) -> NDArray[Any]:
    if array.ndim == 1 and field.count == 1:
        array = array[:, None]
    if array.ndim != 2 or array.shape[1] != field.count:
        raise DataError(f"field {field.name!r} of shape {array.shape}: (N, {field.count}) is needed")
    return array


def _codes(bits: NDArray[np.uint8]) -> NDArray[np.uint32]:
    """(N, C, n) bits, least significant first, to (N, C) codes."""
    return (bits.astype(np.uint32) << np.arange(bits.shape[-1], dtype=np.uint32)).sum(-1, dtype=np.uint32)
