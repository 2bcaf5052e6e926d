"""RpcLink: the one connection of a client to a server. Calls go out, replies come in any order."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import zmq

from actors.rpc.messages import Frames, Reply, unpack_reply
from actors.rpc.sockets import SocketConfig, open_socket
from leworld.errors import ConfigError

SOCKETS_A_LINK = 3
"""One for calls, and two by which ZeroMQ tells of a connection that broke."""


@dataclass(frozen=True)
class LinkConfig:
    """How a server is called.

    Attributes:
        socket: see ``SocketConfig``.
        connect_s: a call that no server takes within this time fails; 0 has it wait on this side for a server.
        sees_cuts: whether ``cut_for_s`` is known.
    """

    socket: SocketConfig = field(default_factory=SocketConfig)
    connect_s: float = 0.0
    sees_cuts: bool = False


class RpcLink:
    """A connection for one thread at a time; ZeroMQ makes it again where it breaks, but what was called before is lost.

    Another thread may close it.
    """

    def __init__(self, context: zmq.Context[Any], address: str, config: LinkConfig) -> None:
        """Connect.

        Raises:
            ConfigError: it is not an address.
        """
        self._context, self._address, self._config = context, address, config
        self._cuts: Any = None
        self._connect()

    def send(self, id: int, frames: Frames) -> bool:
        """Send a call; whether a server takes it, see ``LinkConfig.connect_s``."""
        # A connection that broke before is made again, and what is called from now on goes by the new one.
        self._look_for_cuts()
        try:
            self._socket.send_multipart(frames)
        except zmq.Again:
            return False
        self._replies[id] = None
        return True

    def reply(self, id: int, wait_s: float) -> Reply | None:
        """The reply to a call that was sent, if it comes in time."""
        end = time.monotonic() + wait_s
        while self._replies[id] is None:
            self._socket.setsockopt(zmq.RCVTIMEO, max(0, int(1000 * (end - time.monotonic()))))
            try:
                found = unpack_reply(self._socket.recv_multipart())
            except zmq.Again:
                return None
            # A server that cannot read a call replies with id 0. One to a call that was given up may still come.
            known = found.id or next((key for key, reply in self._replies.items() if reply is None), 0)
            if known in self._replies:
                self._replies[known] = found
        self._cut_at.pop(id, None)
        return self._replies.pop(id)

    def cut_for_s(self, id: int) -> float:
        """Seconds since the connection broke by which a call went that has no reply yet; 0 if it did not."""
        self._look_for_cuts()
        return time.monotonic() - self._cut_at[id] if id in self._cut_at else 0.0

    def give_up(self, id: int) -> None:
        """Wait no longer for a reply."""
        self._replies.pop(id, None)
        self._cut_at.pop(id, None)

    def renew(self) -> None:
        """Give up all calls, and connect again."""
        self.close()
        self._connect()

    def close(self) -> None:
        """Close the connection."""
        if self._cuts is not None:
            self._socket.disable_monitor()
            self._cuts.close(linger=0)
        self._socket.close(linger=0)

    def _connect(self) -> None:
        self._replies: dict[int, Reply | None] = {}
        self._cut_at: dict[int, float] = {}
        self._socket = open_socket(self._context, zmq.DEALER, self._config.socket)
        if self._config.connect_s:
            self._socket.setsockopt(zmq.IMMEDIATE, 1)
            self._socket.setsockopt(zmq.SNDTIMEO, int(1000 * self._config.connect_s))
        if self._config.sees_cuts:
            self._cuts = self._socket.get_monitor_socket(zmq.EVENT_DISCONNECTED)
        try:
            self._socket.connect(self._address)
        except zmq.ZMQError:
            self.close()
            way_out = "give one like tcp://127.0.0.1:7077 or ipc:///tmp/memory"
            raise ConfigError(f"{self._address}: no address; {way_out}") from None

    def _look_for_cuts(self) -> None:
        while self._cuts is not None and self._cuts.getsockopt(zmq.EVENTS) & zmq.POLLIN:
            self._cuts.recv_multipart()
            for id in self._replies:
                self._cut_at.setdefault(id, time.monotonic())


def hang_up(context: zmq.Context[Any], links: Sequence[RpcLink]) -> None:
    """Close links and their context, from any thread."""
    for link in links:
        with suppress(zmq.ZMQError):
            link.close()
    context.destroy(linger=0)
