"""Serves an object's methods over ZeroMQ for the calls of every step; Ray places and watches the actors.

A call is one message to each actor and one back. On one machine it uses a unix socket.

Source: as vLLM and SGLang do beside Ray; the pattern is https://zguide.zeromq.org/docs/chapter3/
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from actors.processes import machine_id
from actors.rpc.codec import decode, encode
from actors.rpc.messages import Call, Frames, Reply, error_content, pack_reply
from actors.rpc.server import Received, RpcConfig, RpcServer
from actors.rpc.sockets import SocketConfig
from leworld.errors import DataError, LeWorldError

MAX_BYTES = 1 << 31
MOST_WAITING = 64
"""Calls taken from the socket that have no reply yet; more wait in it."""
FAILED = "failed"
Observe = Callable[[str, float, int], None]


@dataclass(frozen=True)
class Endpoint:
    """Where an actor answers: ``here`` on ``machine``, ``far`` from others."""

    machine: str
    here: str
    far: str

    @property
    def address(self) -> str:
        """From this process."""
        return self.here if self.machine == machine_id() else self.far


class MethodServer:
    """Serves some methods of an object in its own thread, one call after another.

    Attributes:
        endpoint: where it answers.
    """

    most_at_once = 1

    def __init__(
        self, target: Any, methods: Sequence[str], token: str, address: str = "tcp://127.0.0.1:0",
        observe: Observe = lambda *_: None,
    ) -> None:  # fmt: skip
        """Bind.

        Args:
            target: whose methods are called.
            methods: that may be called.
            token: that every caller has to bring.
            address: that other machines reach; port 0 takes a free one.
            observe: receives, for each answered call, the method, its seconds, and the number of calls that wait.
        """
        self._target, self._methods, self._observe = target, frozenset(methods), observe
        self._folder = tempfile.TemporaryDirectory(prefix="leworld-")
        addresses = (f"ipc://{Path(self._folder.name) / 'calls'}", address)
        socket = SocketConfig(MAX_BYTES, linger_ms=1000, pings=True)
        self._server = RpcServer(self, RpcConfig(addresses, {token: "peer"}, socket, max_waiting=MOST_WAITING))
        self.endpoint = Endpoint(machine_id(), *self._server.addresses)
        self._server.start()

    def stop(self) -> None:
        """Finish pending calls and close."""
        self._server.stop()
        self._folder.cleanup()

    def parse(self, call: Call) -> Any:
        """See ``Service``."""
        if call.op not in self._methods:
            raise DataError(f"method {call.op!r} is not one of {', '.join(sorted(self._methods))}")
        arguments = decode(call.body)
        if not isinstance(arguments, list):
            raise DataError("a call without a list of arguments")
        return arguments

    def reply_now(self, received: Received, *, is_next: bool) -> None:
        """See ``Service``: all calls wait."""

    def replies(self, batch: Sequence[Received]) -> Iterator[Frames]:
        """See ``Service``."""
        for received in batch:
            begin = time.perf_counter()
            yield pack_reply(self._reply(received))
            # It is sent now.
            self._observe(received.call.op, time.perf_counter() - begin, self._server.num_waiting)

    def _reply(self, received: Received) -> Reply:
        number = received.call.id
        try:
            return Reply(number, {}, encode(getattr(self._target, received.call.op)(*received.content)))
        except LeWorldError as error:
            return Reply(number, error_content(error))
        except Exception as error:
            # Any error must reach the caller, and the server must go on.
            first_line = (str(error).strip() or type(error).__name__).splitlines()[0]
            return Reply(number, {"error": FAILED, "message": f"{type(error).__name__} ({first_line})"})
