"""Values as msgpack and array frames, the bodies of calls and replies. Nothing is ever unpickled.

A value is a msgpack frame and one frame an array. Where a value holds an array or a record, the msgpack frame has an
extension: of an array its frame's number, type and shape, of a record its class and fields.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from importlib import import_module
from math import prod
from typing import Any

import msgpack
import numpy as np

from leworld.errors import DataError

RECORDS = {
    **dict.fromkeys(("Query", "Proposals", "Credit", "Ranges"), "leworld.types"),
    **dict.fromkeys(("Packed", "Entry"), "actors.rpc.tensor_dict"),
    "ProcessStat": "actors.processes",
}
"""The classes that travel, by the module that has them."""
ARRAY, RECORD, TUPLE = 1, 2, 3
KINDS = "biuf"


def encode(value: Any) -> list[Any]:
    """The frames of a value.

    Raises:
        DataError: it holds a type that cannot be sent.
    """
    arrays: list[np.ndarray] = []

    def extension(part: Any) -> Any:
        if isinstance(part, np.ndarray) and part.dtype.kind in KINDS:
            arrays.append(np.ascontiguousarray(part))
            return msgpack.ExtType(ARRAY, _pack([len(arrays) - 1, part.dtype.str, list(part.shape)]))
        if isinstance(part, tuple):
            return msgpack.ExtType(TUPLE, _pack(list(part)))
        if is_dataclass(part) and RECORDS.get(type(part).__name__) == type(part).__module__:
            known = {field.name: getattr(part, field.name) for field in fields(part)}
            return msgpack.ExtType(RECORD, _pack([type(part).__name__, known]))
        raise DataError(f"a {type(part).__name__} does not travel: send arrays, records or plain values")

    def _pack(part: Any) -> bytes:
        return msgpack.Packer(default=extension, strict_types=True).pack(part)

    head = _pack(value)
    return [head, *(array.reshape(-1).view(np.uint8).data for array in arrays)]


def decode(frames: Sequence[Any]) -> Any:
    """Inverse of ``encode``; arrays are read-only views of the frames.

    Raises:
        DataError: they are not a message.
    """

    def extension(code: int, raw: bytes) -> Any:
        content = _unpack(raw)
        if code == TUPLE:
            return tuple(content)
        if code == RECORD:
            name, known = content
            return getattr(import_module(RECORDS[name]), name)(**known)
        if code == ARRAY:
            return _array(frames, *content)
        raise DataError(f"an extension {code} that is not known")

    def _unpack(raw: Any) -> Any:
        return msgpack.unpackb(raw, ext_hook=extension)

    try:
        return _unpack(bytes(frames[0]))
    except (ValueError, TypeError, KeyError, IndexError, RecursionError) as error:
        raise DataError(f"a message that cannot be read ({type(error).__name__}: {error})") from None


def _array(frames: Sequence[Any], number: int, kind: str, shape: list[int]) -> np.ndarray:
    dtype = np.dtype(kind)
    if dtype.kind not in KINDS or not 0 <= number < len(frames) - 1 or min(shape, default=0) < 0:
        raise DataError(f"an array of type {kind}, shape {shape} in frame {number}")
    raw = memoryview(frames[number + 1])
    if raw.nbytes != dtype.itemsize * prod(shape):
        raise DataError(f"an array of type {kind} and shape {shape} in {raw.nbytes} bytes")
    return np.frombuffer(raw, dtype).reshape(shape)
