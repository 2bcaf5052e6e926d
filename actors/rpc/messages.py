"""Calls and replies between processes. Nothing is ever unpickled.

Both are ZeroMQ messages. The first frame is a msgpack map, the head; the body follows in further frames::

    call     v (1), op, id, token, arguments
    reply    v, id, content: what was asked for, or error and message
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgpack

from leworld.errors import (
    CheckpointError,
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

VERSION = 1
Frames = Sequence[Any]
ERRORS = {
    kind.__name__: kind
    for kind in (RangeError, DataError, ConfigError, CheckpointError, RightsError, NotPrimaryError, MovedError,
                 DamageError, StoreError)
}  # fmt: skip


@dataclass(frozen=True)
class Call:
    """What a client calls: ``op`` with ``arguments`` and the frames of a body."""

    op: str
    id: int
    token: str = ""
    arguments: dict[str, Any] = field(default_factory=dict)
    body: Frames = ()


@dataclass(frozen=True)
class Reply:
    """What a server replies: ``content`` and the frames of a body."""

    id: int
    content: dict[str, Any] = field(default_factory=dict)
    body: Frames = ()


def pack_call(call: Call) -> list[Any]:
    """The frames of a call."""
    head = {"v": VERSION, "op": call.op, "id": call.id, "token": call.token, "arguments": call.arguments}
    return [_pack(head), *call.body]


def unpack_call(frames: Frames) -> Call:
    """Inverse of ``pack_call``.

    Raises:
        DataError: they are not a call.
    """
    head = _head(frames, {"op": str, "id": int, "token": str, "arguments": dict}, "call")
    return Call(head["op"], head["id"], head["token"], head["arguments"], frames[1:])


def pack_reply(reply: Reply) -> list[Any]:
    """The frames of a reply."""
    return [_pack({"v": VERSION, "id": reply.id, "content": reply.content}), *reply.body]


def unpack_reply(frames: Frames) -> Reply:
    """Inverse of ``pack_reply``.

    Raises:
        DataError: they are not a reply.
    """
    head = _head(frames, {"id": int, "content": dict}, "reply")
    return Reply(head["id"], head["content"], frames[1:])


def id_of(frames: Frames) -> int:
    """Return the id of an unreadable call; 0 if it has none."""
    try:
        found = msgpack.unpackb(bytes(frames[0]))["id"]
        return found if isinstance(found, int) else 0
    except Exception:  # A stranger may send anything.
        return 0


def error_content(error: LeWorldError) -> dict[str, Any]:
    """Return the content of a reply for an error."""
    kind = next((each.__name__ for each in type(error).__mro__ if each.__name__ in ERRORS), "StoreError")
    content: dict[str, Any] = {"error": kind, "message": str(error)}
    if isinstance(error, DamageError):
        content["pages"] = list(error.pages)
    if isinstance(error, NotPrimaryError):
        content["address"] = error.address
    return content


def raise_error(content: Mapping[str, Any]) -> None:
    """Raise the error in the content of a reply."""
    if "error" not in content:
        return
    kind, message = content["error"], str(content.get("message"))
    if kind == "NotPrimaryError":
        raise NotPrimaryError(message, str(content.get("address", "")))
    if kind == "DamageError":
        raise DamageError(message, tuple(content.get("pages", ())))
    raise ERRORS.get(kind, StoreError)(message)


def _pack(content: dict[str, Any]) -> bytes:
    return msgpack.Packer().pack(content)


def _head(frames: Frames, fields: Mapping[str, type], what: str) -> dict[str, Any]:
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
