"""The wire of a memory server: what clients ask, what it answers. Nothing is ever unpickled.

A request is a ZeroMQ message of up to four frames; an answer has up to three::

    request   msgpack map   start, uint32 each   length, uint16 each   words, uint32 each
    answer    msgpack map   words, uint32 each   (log, diff: further arrays)

All integers are little-endian. The map of a request has v (1), op, id, token and arguments; that of an answer v, id and
content, which is what was asked for, or error and message.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import msgpack
import numpy as np
from numpy.typing import NDArray

from leworld.errors import (
    ConfigError,
    DamageError,
    DataError,
    LeWorldError,
    MovedError,
    NotPrimaryError,
    RangeError,
    RightsError,
    StoreError,
)
from leworld.memory import Words
from leworld.memory.ranges import Ints

VERSION = 1
MAX_MESSAGE_BYTES = 256 << 20
MAX_RANGES = 1 << 16
"""In one message at most, so that an answer of whole pages is well within a message."""
ERRORS = {
    kind.__name__: kind
    for kind in (RangeError, DataError, ConfigError, RightsError, NotPrimaryError, MovedError, DamageError, StoreError)
}


@dataclass(frozen=True)
class Request:
    """What a client asks: ``op`` with ``arguments``, about (R,) ranges and (W,) words where it is about any."""

    op: str
    id: int
    token: str = ""
    arguments: dict[str, Any] = field(default_factory=dict)
    start: Ints = field(default_factory=lambda: np.zeros(0, np.int64))
    length: Ints = field(default_factory=lambda: np.zeros(0, np.int64))
    words: NDArray[np.uint32] = field(default_factory=lambda: np.zeros(0, np.uint32))

    @property
    def blocks(self) -> Words:
        """The words as (R,) blocks."""
        return Words(self.words, np.concatenate([np.zeros(1, np.int64), np.cumsum(self.length)]))


@dataclass(frozen=True)
class Answer:
    """What a server answers: a map and (W,) words."""

    id: int
    content: dict[str, Any] = field(default_factory=dict)
    words: NDArray[np.uint32] = field(default_factory=lambda: np.zeros(0, np.uint32))


def pack_request(request: Request) -> list[Any]:
    """The frames of a request."""
    head = {"v": VERSION, "op": request.op, "id": request.id, "token": request.token, "arguments": request.arguments}
    frames = [_pack(head), request.start.astype("<u4").tobytes(), request.length.astype("<u2").tobytes()]
    return [*frames, np.ascontiguousarray(request.words.astype("<u4", copy=False)).data]


def unpack_request(frames: Sequence[Any]) -> Request:
    """Inverse of ``pack_request``.

    Raises:
        DataError: they are no request.
    """
    head = _head(frames, {"op": str, "id": int, "token": str, "arguments": dict}, "request")
    if len(frames) != 4:
        raise DataError(f"a request of {len(frames)} frames: 4 are needed")
    start, length = _integers(frames[1], "<u4", "starts"), _integers(frames[2], "<u2", "lengths")
    if len(start) > MAX_RANGES:
        raise DataError(f"a request of {len(start)} ranges: send at most {MAX_RANGES} at a time")
    if len(start) != len(length):
        raise DataError(f"a request of {len(start)} starts and {len(length)} lengths: one length a range is needed")
    return Request(head["op"], head["id"], head["token"], head["arguments"], start, length, _words(frames[3]))


def pack_answer(answer: Answer) -> list[Any]:
    """The frames of an answer."""
    head = {"v": VERSION, "id": answer.id, "content": answer.content}
    return [_pack(head), np.ascontiguousarray(answer.words.astype("<u4", copy=False)).data]


def unpack_answer(frames: Sequence[Any]) -> Answer:
    """Inverse of ``pack_answer``.

    Raises:
        DataError: they are no answer.
        LeWorldError: the one that the server answers with.
    """
    head = _head(frames, {"id": int, "content": dict}, "answer")
    if len(frames) != 2:
        raise DataError(f"an answer of {len(frames)} frames: 2 are needed")
    return Answer(head["id"], head["content"], _words(frames[1]))


def error_answer(request_id: int, error: LeWorldError) -> Answer:
    """An answer that says what went wrong."""
    kind = next((name for name, kind in ERRORS.items() if isinstance(error, kind)), "StoreError")
    content: dict[str, Any] = {"error": kind, "message": str(error)}
    if isinstance(error, DamageError):
        content["pages"] = list(error.pages)
    if isinstance(error, NotPrimaryError):
        content["address"] = error.address
    return Answer(request_id, content)


def raise_error(answer: Answer) -> None:
    """Raise what an answer says went wrong."""
    if "error" not in answer.content:
        return
    message = str(answer.content.get("message"))
    if answer.content["error"] == "NotPrimaryError":
        raise NotPrimaryError(message, str(answer.content.get("address", "")))
    if answer.content["error"] == "DamageError":
        raise DamageError(message, tuple(answer.content.get("pages", ())))
    raise ERRORS.get(answer.content["error"], StoreError)(message)


def _pack(content: dict[str, Any]) -> bytes:
    return msgpack.Packer().pack(content)


def _head(frames: Sequence[Any], fields: dict[str, type], what: str) -> dict[str, Any]:
    if not frames:
        raise DataError(f"a {what} without frames")
    try:
        head = msgpack.unpackb(bytes(frames[0]))
    except (ValueError, TypeError) as error:
        raise DataError(f"a {what} that cannot be read ({error})") from None
    if not isinstance(head, dict) or head.get("v") != VERSION:
        raise DataError(f"a {what} of another version: this program speaks {VERSION}")
    for name, kind in fields.items():
        if type(head.get(name)) is not kind:
            raise DataError(f"a {what} without {name} of type {kind.__name__}")
    return head


def _integers(frame: Any, kind: str, name: str) -> Ints:
    raw = memoryview(frame)
    if raw.nbytes % np.dtype(kind).itemsize:
        raise DataError(f"{raw.nbytes} bytes of {name}: whole numbers are needed")
    return np.frombuffer(raw, kind).astype(np.int64)


def _words(frame: Any) -> NDArray[np.uint32]:
    raw = memoryview(frame)
    if raw.nbytes % 4:
        raise DataError(f"{raw.nbytes} bytes of words: whole words are needed")
    return np.frombuffer(raw, "<u4")
