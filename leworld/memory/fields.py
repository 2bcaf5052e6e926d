"""Fields of a record: typed values to codes of a few bits and back.

Shapes:
    N: records.  C: elements of a field.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from leworld.errors import ConfigError, DataError
from leworld.memory.protocol import WORD_BITS
from leworld.memory.words import as_zeros_and_ones

Kind = Literal["uint", "quantised", "float16", "bits"]
KINDS: dict[str, int | None] = {"uint": None, "quantised": None, "float16": 16, "bits": 1}
"""Bits an element has, None where the field says it."""


@dataclass(frozen=True)
class Field:
    """One field of a record.

    Attributes:
        name: unique in its schema.
        kind: ``uint`` integers of ``bits`` bits; ``quantised`` reals in ``[low, high]`` in steps of
            ``(high - low) / (2 ** bits - 1)``, clipped; ``float16``; ``bits`` zeros and ones.
        count: C.
        bits: 1..32 an element, for ``uint`` and ``quantised`` only.
        low: one number or C of them, for ``quantised`` only.
        high: as ``low``, and above it.
    """

    name: str
    kind: Kind
    count: int = 1
    bits: int | None = None
    low: float | tuple[float, ...] | None = None
    high: float | tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ConfigError(f"field {self.name!r} of kind {self.kind!r}: use one of {', '.join(KINDS)}")
        if self.count < 1:
            raise ConfigError(f"field {self.name!r} of {self.count} elements: at least 1 is needed")
        object.__setattr__(self, "bits", self._checked_bits())
        quantised = self.kind == "quantised"
        for side in ("low", "high"):
            if (getattr(self, side) is not None) != quantised:
                raise ConfigError(
                    f"field {self.name!r} of kind {self.kind}: low and high are for quantised fields, which need both"
                )
            if quantised:
                object.__setattr__(self, side, self._checked_bound(side))
        if quantised and not (np.isfinite(self._span) & (self._span > 0)).all():
            raise ConfigError(f"field {self.name!r}: low {self.low} must be below high {self.high}, both finite")

    @property
    def width(self) -> int:
        """Bits an element has."""
        assert self.bits is not None
        return self.bits

    @property
    def step(self) -> NDArray[np.float64]:
        """() or (C,) from one value of a quantised field to the next."""
        return self._span / ((1 << self.width) - 1)

    def encode(self, values: NDArray[Any]) -> NDArray[np.uint32]:
        """(N, C) values to codes below ``2 ** width``."""
        return {
            "uint": self._encode_uint,
            "quantised": self._encode_quantised,
            "float16": self._encode_float16,
            "bits": self._encode_bits,
        }[self.kind](values)

    def decode(self, codes: NDArray[np.uint32]) -> NDArray[Any]:
        """(N, C) codes to values: int64, float64 for ``quantised``, float32 for ``float16``, uint8 for ``bits``."""
        if self.kind == "uint":
            return codes.astype(np.int64)
        if self.kind == "quantised":
            return np.asarray(self.low, np.float64) + codes * self.step
        if self.kind == "float16":
            return codes.astype(np.uint16).view(np.float16).astype(np.float32)
        return codes.astype(np.uint8)

    @property
    def _span(self) -> NDArray[np.float64]:
        with np.errstate(over="ignore", invalid="ignore"):
            return np.asarray(self.high, np.float64) - np.asarray(self.low, np.float64)

    def _checked_bits(self) -> int:
        fixed = KINDS[self.kind]
        if fixed is not None and self.bits not in (None, fixed):
            raise ConfigError(
                f"field {self.name!r} of kind {self.kind} has {fixed} bits an element, not {self.bits}; leave bits out"
            )
        bits = fixed if fixed is not None else self.bits
        if bits is None or not 1 <= bits <= WORD_BITS:
            raise ConfigError(f"field {self.name!r} of {bits} bits an element: use 1 to {WORD_BITS}")
        return bits

    def _checked_bound(self, side: str) -> float | tuple[float, ...]:
        bound = np.asarray(getattr(self, side), np.float64)
        if bound.shape not in ((), (self.count,)):
            raise ConfigError(f"field {self.name!r}: {side} of shape {bound.shape}, give one number or {self.count}")
        return tuple(bound.tolist()) if bound.ndim else float(bound)

    def _encode_uint(self, values: NDArray[Any]) -> NDArray[np.uint32]:
        if values.dtype.kind not in "iub":
            raise DataError(f"field {self.name!r} of type {values.dtype}: integers are needed; round the values first")
        limit = (1 << self.width) - 1
        bad = (values < 0) | (values > limit)
        if bad.any():
            raise DataError(
                f"field {self.name!r} holds {values[bad][0]}, outside [0, {limit}] of {self.width} bits; widen bits"
            )
        return values.astype(np.uint32)

    def _encode_quantised(self, values: NDArray[Any]) -> NDArray[np.uint32]:
        low, high = np.asarray(self.low, np.float64), np.asarray(self.high, np.float64)
        clipped = np.clip(self._reals(values), low, high)
        return np.rint((clipped - low) / self._span * ((1 << self.width) - 1)).astype(np.uint32)

    def _encode_float16(self, values: NDArray[Any]) -> NDArray[np.uint32]:
        reals = self._reals(values)
        with np.errstate(over="ignore"):
            halves = reals.astype(np.float16)
        bad = np.isinf(halves) & np.isfinite(reals)
        if bad.any():
            raise DataError(
                f"field {self.name!r} holds {reals[bad][0]}, outside float16's 65504; rescale it or use quantised"
            )
        return np.ascontiguousarray(halves).view(np.uint16).astype(np.uint32)

    def _encode_bits(self, values: NDArray[Any]) -> NDArray[np.uint32]:
        try:
            return as_zeros_and_ones(values).astype(np.uint32)
        except DataError as error:
            raise DataError(f"field {self.name!r}: {error}") from None

    def _reals(self, values: NDArray[Any]) -> NDArray[np.float64]:
        if values.dtype.kind not in "iubf":
            raise DataError(f"field {self.name!r} of type {values.dtype}: numbers are needed")
        reals = values.astype(np.float64)
        if np.isnan(reals).any():
            row = int(np.isnan(reals).any(1).argmax())
            raise DataError(f"field {self.name!r} of record {row} is NaN; mend or drop that record")
        return reals
