"""How ZeroMQ sockets are opened and bound."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import zmq

from leworld.errors import ConfigError

PING_MS, SILENT_MS = 2000, 10_000
"""With ``pings``: how often each side of a connection shows the other that it is there, and how long it may be silent.
ZeroMQ's own thread replies, also while a process computes."""


@dataclass(frozen=True)
class SocketConfig:
    """The settings of one socket.

    Attributes:
        max_message_bytes: a peer that sends a longer frame is cut off.
        linger_ms: time after closing in which the last messages are still delivered.
        pings: whether silent connections are given up, see ``PING_MS``.
        queued: messages that wait in the socket for each peer.
    """

    max_message_bytes: int = 256 << 20
    linger_ms: int = 0
    pings: bool = False
    queued: int = 64


def open_socket(context: zmq.Context[Any], kind: int, config: SocketConfig) -> Any:
    """Open a socket that is neither bound nor connected."""
    socket = context.socket(kind)
    socket.setsockopt(zmq.LINGER, config.linger_ms)
    socket.setsockopt(zmq.MAXMSGSIZE, config.max_message_bytes)
    socket.setsockopt(zmq.RCVHWM, config.queued)
    if config.pings:
        socket.setsockopt(zmq.HEARTBEAT_IVL, PING_MS)
        socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, SILENT_MS)
    return socket


def bind(socket: Any, address: str) -> str:
    """Bind to an address, where port 0 takes a free one; return the bound address.

    Raises:
        ConfigError: it cannot be bound.
    """
    try:
        socket.bind(address.replace(":0", ":*") if address.endswith(":0") else address)
    except zmq.ZMQError as error:
        raise ConfigError(f"{address} cannot be bound ({error.strerror}): use another address or port") from None
    return socket.getsockopt_string(zmq.LAST_ENDPOINT).rstrip("\x00")
