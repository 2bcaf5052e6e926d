"""RemotePeers: the methods of several objects behind ``MethodServer``s, called over ZeroMQ."""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import zmq

from actors.errors import ActorError
from actors.rpc import sockets
from actors.rpc.calls import RESUME, PendingAnswers
from actors.rpc.client import SOCKETS_A_LINK, LinkConfig, RpcLink, hang_up
from actors.rpc.codec import decode, encode
from actors.rpc.messages import Call, pack_call, raise_error
from actors.rpc.method_server import FAILED, MAX_BYTES, Endpoint
from actors.rpc.sockets import SocketConfig
from leworld.errors import LeWorldError

WATCH_S = 0.2
"""How often it is seen, while one waits, whether the other one is still there."""
DOUBT_S = 2.0
"""After a connection broke it is seen by then whether the other one died."""


@dataclass(frozen=True)
class PeerConfig:
    """How peers are called.

    Attributes:
        token: for all peers.
        timeout_s: of every call.
        is_lost: returns the error for a lost peer, by its number.
        held: objects that must live as long as the peers, such as the actors' only handles.
    """

    token: str
    timeout_s: float
    is_lost: Callable[[int], LeWorldError | None] = lambda _: None
    held: Any = None


class RemotePeers:
    """``Peers`` over ZeroMQ, for one thread.

    Attributes:
        names: of the peers.
    """

    def __init__(self, endpoints: Sequence[Endpoint], names: Sequence[str], config: PeerConfig) -> None:
        """Connect to one endpoint for each name."""
        assert len(endpoints) == len(names), (len(endpoints), len(names))
        self.names, self._config = tuple(names), config
        context = zmq.Context()
        context.set(zmq.MAX_SOCKETS, SOCKETS_A_LINK * len(endpoints) + 1)
        link = LinkConfig(SocketConfig(MAX_BYTES, pings=True), sees_cuts=True)
        self._links = [RpcLink(context, endpoint.address, link) for endpoint in endpoints]
        self._count = 0
        # It holds the links, as sockets that are collected before it are closed by nobody, and waited for.
        self._hang_up = weakref.finalize(self, hang_up, context, self._links)

    def start(self, method: str, messages: Mapping[int, tuple[Any, ...]], patience: float = 1.0) -> PendingAnswers:
        """See ``Peers``."""
        self._count += 1
        number = self._count
        # All targets get the same object, which is encoded once.
        packed: dict[int, list[Any]] = {}
        for target, arguments in messages.items():
            if id(arguments) not in packed:
                call = Call(method, number, self._config.token, {}, encode(list(arguments)))
                packed[id(arguments)] = pack_call(call)
            self._links[target].send(number, packed[id(arguments)])
        timeout_s = patience * self._config.timeout_s
        end, targets = time.monotonic() + timeout_s, list(messages)
        return lambda: {target: self._result(target, number, end, timeout_s) for target in targets}

    def close(self) -> None:
        """Close all connections."""
        self._hang_up()

    def _result(self, target: int, number: int, end: float, timeout_s: float) -> Any:
        link, name = self._links[target], self.names[target]
        while (reply := link.reply(number, min(WATCH_S, end - time.monotonic()))) is None:
            lost = self._config.is_lost(target)
            if lost is not None:
                raise lost
            if link.cut_for_s(number) > DOUBT_S:
                problem = f"was cut off: it was silent for {sockets.SILENT_MS / 1000:g} s, or closed the connection"
                raise ActorError(name, problem, f"see its machine and the network, or {RESUME}")
            if time.monotonic() >= end:
                link.give_up(number)
                raise ActorError(name, f"did not answer in {timeout_s:g} s", f"raise cluster.timeout_s, or {RESUME}")
        if reply.content.get("error") == FAILED:
            raise ActorError(name, f"failed with {reply.content.get('message')}", RESUME)
        raise_error(reply.content)
        return decode(reply.body)
