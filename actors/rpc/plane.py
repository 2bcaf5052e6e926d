"""The data plane: actors answer over ZeroMQ what is asked at every step; Ray places them, finds them and watches them.

A call is one message to each actor, and one back. On one machine it goes by a unix socket.

Source: as vLLM and SGLang do beside Ray; the pattern is https://zguide.zeromq.org/docs/chapter3/
"""

from __future__ import annotations

import hmac
import tempfile
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import zmq

from actors.errors import ActorError
from actors.processes import machine_id
from actors.ray.actor_calls import RESUME, PredictionService
from actors.rpc.codec import decode, encode
from leworld.errors import DataError, LeWorldError

PATIENCE_MS = 100
WATCH_S = 0.2
"""How often whoever waits looks whether the other one is still there."""
MAX_BYTES = 1 << 31
PING_MS, SILENT_MS = 2000, 10_000
"""How often each side of a connection shows the other that it is there, and how long it may be silent. ZeroMQ's own
thread answers, also while an actor computes."""
SOCKETS_A_LINK = 3
"""One to ask by, and two by which ZeroMQ tells of a connection that broke."""
DOUBT_S = 2.0
"""After a connection broke it is seen by then whether the other one died."""
MOST_WAITING = 64
"""Calls taken from the socket that are not answered yet; more wait in it."""


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


class PlaneServer:
    """PredictionService calls of some methods of an object, one after another, in a thread of its own.

    Attributes:
        endpoint: where.
    """

    def __init__(
        self, target: Any, methods: Sequence[str], token: str, host: str = "127.0.0.1", port: int = 0,
        observe: Callable[[str, float, int], None] | None = None,
    ) -> None:  # fmt: skip
        """Bind.

        Args:
            target: whose methods are called.
            methods: that may be called.
            token: that every caller has to bring.
            host: address of this machine that others reach.
            port: there; 0 takes a free one.
            observe: is told of each answer that was sent: the method, its seconds, and how many calls wait.
        """
        self._observe, self._waiting = observe, deque[list[bytes]]()
        self._target, self._methods, self._token = target, frozenset(methods), token
        self._context = zmq.Context()
        self._socket = _socket(self._context, zmq.ROUTER, linger_ms=1000)
        self._socket.setsockopt(zmq.RCVTIMEO, PATIENCE_MS)
        self._folder = tempfile.TemporaryDirectory(prefix="leworld-")
        here = f"ipc://{Path(self._folder.name) / 'plane'}"
        self._socket.bind(here)
        self._socket.bind(f"tcp://{host}:{port or '*'}")
        far = self._socket.getsockopt_string(zmq.LAST_ENDPOINT).rstrip("\x00")
        self.endpoint = Endpoint(machine_id(), here, far)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._serve, name="plane", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Finish what was begun, and close."""
        self._stopping.set()
        self._thread.join()
        self._folder.cleanup()

    def _serve(self) -> None:
        while not self._stopping.is_set():
            self._take_all()
            while self._waiting:
                peer, number, *frames = self._waiting.popleft()
                begin, self._asked = time.perf_counter(), ""
                self._socket.send_multipart([peer, number, *self._answer(frames)])
                if self._observe is not None and self._asked:
                    self._observe(self._asked, time.perf_counter() - begin, len(self._waiting))
        self._context.destroy()

    def _take_all(self) -> None:
        with suppress(zmq.Again):
            self._waiting.append(self._socket.recv_multipart())
            # Asking first is many times faster than an error.
            while len(self._waiting) < MOST_WAITING and self._socket.getsockopt(zmq.EVENTS) & zmq.POLLIN:
                self._waiting.append(self._socket.recv_multipart())

    def _answer(self, frames: Sequence[bytes]) -> list[Any]:
        try:
            return encode(["done", self._call(frames)])
        except LeWorldError as error:
            return encode(["refused", type(error).__name__, str(error)])
        except Exception as error:
            # Whatever it is, the caller must hear of it, and others are to be served.
            return encode(["failed", type(error).__name__, str(error)])

    def _call(self, frames: Sequence[bytes]) -> Any:
        message = decode(frames)
        if not isinstance(message, list) or len(message) != 3 or not isinstance(message[0], str):
            raise DataError("a call without token, method and arguments")
        token, method, arguments = message
        if not hmac.compare_digest(token.encode(), self._token.encode()):
            raise DataError("the token is not this actor's")
        if method not in self._methods:
            raise DataError(f"method {method!r} is not one of {', '.join(sorted(self._methods))}")
        self._asked = method
        return getattr(self._target, method)(*arguments)


class PlanePeers:
    """``Peers`` over the data plane, for one thread.

    Attributes:
        names: of the actors.
    """

    def __init__(
        self,
        endpoints: Sequence[Endpoint],
        names: Sequence[str],
        token: str,
        timeout_s: float,
        is_lost: Callable[[int], LeWorldError | None] = lambda _: None,
        held: Any = None,
    ) -> None:
        """Connect.

        Args:
            endpoints: one an actor.
            names: of the actors.
            token: of all of them.
            timeout_s: of every call.
            is_lost: what to raise where an actor is gone, by its number.
            held: what must not be let go of before these peers are, such as the actors' only handles.
        """
        self._held = held
        assert len(endpoints) == len(names), (len(endpoints), len(names))
        self.names = tuple(names)
        self._token, self._timeout_s, self._is_lost = token, timeout_s, is_lost
        context = zmq.Context()
        context.set(zmq.MAX_SOCKETS, SOCKETS_A_LINK * len(endpoints) + 1)
        self._links = [_ActorLink(context, endpoint.address) for endpoint in endpoints]
        self._count = 0
        # It holds the links, as sockets that are collected before it are closed by nobody, and waited for.
        self._hang_up = weakref.finalize(self, _close, context, self._links)

    def start(self, method: str, messages: Mapping[int, tuple[Any, ...]], patience: float = 1.0) -> PredictionService:
        """See ``Peers``."""
        self._count += 1
        number = self._count.to_bytes(8, "little")
        # What all are asked is the same object, and is put into frames once.
        encoded: dict[int, list[Any]] = {}
        for target, arguments in messages.items():
            if id(arguments) not in encoded:
                encoded[id(arguments)] = encode([self._token, method, list(arguments)])
            self._links[target].ask(number, encoded[id(arguments)])
        timeout_s = patience * self._timeout_s
        end, targets = time.monotonic() + timeout_s, list(messages)
        return lambda: {target: self._result(target, number, end, timeout_s) for target in targets}

    def close(self) -> None:
        """Hang up."""
        self._hang_up()

    def _result(self, target: int, number: bytes, end: float, timeout_s: float) -> Any:
        link = self._links[target]
        while (frames := link.answer(number, min(WATCH_S, end - time.monotonic()))) is None:
            lost = self._is_lost(target)
            if lost is not None:
                raise lost
            if link.cut_for_s(number) > DOUBT_S:
                problem = f"was cut off: it was silent for {SILENT_MS / 1000:g} s, or closed the connection"
                raise ActorError(self.names[target], problem, f"see its machine and the network, or {RESUME}")
            if time.monotonic() >= end:
                link.give_up(number)
                way_out = f"raise cluster.timeout_s, or {RESUME}"
                raise ActorError(self.names[target], f"did not answer in {timeout_s:g} s", way_out)
        kind, *content = decode(frames)
        if kind == "done":
            return content[0]
        raise _error(self.names[target], kind, *content)


class _ActorLink:
    """A socket to one actor; ZeroMQ connects again by itself, but what was asked before is not answered any more."""

    def __init__(self, context: zmq.Context[Any], address: str) -> None:
        self._socket = _socket(context, zmq.DEALER, linger_ms=0)
        self._cuts = self._socket.get_monitor_socket(zmq.EVENT_DISCONNECTED)
        self._socket.connect(address)
        self._answers: dict[bytes, list[bytes] | None] = {}
        self._cut_at: dict[bytes, float] = {}

    def ask(self, number: bytes, frames: Sequence[Any]) -> None:
        # A connection that broke before is made again, and what is asked from now on goes by the new one.
        self._look_for_cuts()
        self._answers[number] = None
        self._socket.send_multipart([number, *frames])

    def answer(self, number: bytes, wait_s: float) -> list[bytes] | None:
        """The frames of the answer to a question, if it comes in time."""
        if self._answers[number] is None:
            self._socket.setsockopt(zmq.RCVTIMEO, max(0, int(1000 * wait_s)))
            with suppress(zmq.Again):
                found, *frames = self._socket.recv_multipart()
                # One to a question that was given up on may still come.
                if found in self._answers:
                    self._answers[found] = frames
        if self._answers[number] is None:
            return None
        self._cut_at.pop(number, None)
        return self._answers.pop(number)

    def cut_for_s(self, number: bytes) -> float:
        """Seconds since the connection broke by which something was asked that is not answered yet; 0 if it did not."""
        self._look_for_cuts()
        return time.monotonic() - self._cut_at[number] if number in self._cut_at else 0.0

    def _look_for_cuts(self) -> None:
        while self._cuts.getsockopt(zmq.EVENTS) & zmq.POLLIN:
            self._cuts.recv_multipart()
            for number in self._answers:
                self._cut_at.setdefault(number, time.monotonic())

    def close(self) -> None:
        self._socket.disable_monitor()
        self._cuts.close(linger=0)
        self._socket.close(linger=0)

    def give_up(self, number: bytes) -> None:
        self._answers.pop(number, None)
        self._cut_at.pop(number, None)


def _socket(context: zmq.Context[Any], kind: int, linger_ms: int) -> Any:
    socket = context.socket(kind)
    socket.setsockopt(zmq.LINGER, linger_ms)
    socket.setsockopt(zmq.MAXMSGSIZE, MAX_BYTES)
    socket.setsockopt(zmq.HEARTBEAT_IVL, PING_MS)
    socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, SILENT_MS)
    return socket


def _close(context: zmq.Context[Any], links: Sequence[_ActorLink]) -> None:
    for link in links:
        link.close()
    context.destroy(linger=0)


def _error(name: str, kind: str, *what: str) -> LeWorldError:
    if kind == "refused":
        import leworld.errors as known

        found = getattr(known, what[0], None)
        if isinstance(found, type) and issubclass(found, LeWorldError):
            return found(what[1])
    reason = (what[1].strip() or what[0]).splitlines()[0]
    return ActorError(name, f"failed with {what[0]} ({reason})", RESUME)
