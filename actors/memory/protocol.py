"""The bodies of a memory's calls and replies: ranges and words as raw frames after the head; see ``rpc.messages``.

::

    request   head   start, uint32 each   length, uint16 each   words, uint32 each
    answer    head   words, uint32 each   (log, diff: further arrays)

All integers are little-endian.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from actors.rpc.messages import Call, Reply, error_content, pack_call, pack_reply, raise_error
from leworld.errors import DataError, LeWorldError
from leworld.memory import Words
from leworld.memory.ranges import Ints

MAX_MESSAGE_BYTES = 256 << 20
MAX_RANGES = 1 << 16
"""In one message at most, so that an answer of whole pages is well within a message."""


@dataclass(frozen=True)
class Request:
    """A call of ``op`` with ``arguments``, and optionally (R,) ranges and (W,) words."""

    op: str
    id: int
    token: str = ""
    arguments: dict[str, Any] = field(default_factory=dict)
    start: Ints = field(default_factory=lambda: np.zeros(0, np.int64))
    length: Ints = field(default_factory=lambda: np.zeros(0, np.int64))
    words: NDArray[np.uint32] = field(default_factory=lambda: np.zeros(0, np.uint32))

    @property
    def blocks(self) -> Words:
        """Return the words as (R,) blocks."""
        return Words(self.words, np.concatenate([np.zeros(1, np.int64), np.cumsum(self.length)]))


@dataclass(frozen=True)
class Answer:
    """An answer of a server: a map and (W,) words."""

    id: int
    content: dict[str, Any] = field(default_factory=dict)
    words: NDArray[np.uint32] = field(default_factory=lambda: np.zeros(0, np.uint32))


def pack_request(request: Request) -> list[Any]:
    """Pack a request into frames."""
    body = (request.start.astype("<u4").tobytes(), request.length.astype("<u2").tobytes(), _to_frame(request.words))
    return pack_call(Call(request.op, request.id, request.token, request.arguments, body))


def parse_request(call: Call) -> Request:
    """Read the request in a call.

    Raises:
        DataError: its body is not a request's.
    """
    if len(call.body) != 3:
        raise DataError(f"a request of {len(call.body) + 1} frames: 4 are needed")
    start, length = _integers(call.body[0], "<u4", "starts"), _integers(call.body[1], "<u2", "lengths")
    if len(start) > MAX_RANGES:
        raise DataError(f"a request of {len(start)} ranges: send at most {MAX_RANGES} at a time")
    if len(start) != len(length):
        raise DataError(f"a request of {len(start)} starts and {len(length)} lengths: one length a range is needed")
    return Request(call.op, call.id, call.token, call.arguments, start, length, _words(call.body[2]))


def pack_answer(answer: Answer) -> list[Any]:
    """Pack an answer into frames."""
    return pack_reply(Reply(answer.id, answer.content, (_to_frame(answer.words),)))


def parse_answer(reply: Reply) -> Answer:
    """Read the answer in a reply.

    Raises:
        DataError: its body is not an answer's.
        LeWorldError: the server replies with it.
    """
    raise_error(reply.content)
    if len(reply.body) != 1:
        raise DataError(f"an answer of {len(reply.body) + 1} frames: 2 are needed")
    return Answer(reply.id, reply.content, _words(reply.body[0]))


def error_answer(request_id: int, error: LeWorldError) -> Answer:
    """Return the answer for an error."""
    return Answer(request_id, error_content(error))


def _to_frame(words: NDArray[np.uint32]) -> Any:
    return np.ascontiguousarray(words.astype("<u4", copy=False)).data


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
