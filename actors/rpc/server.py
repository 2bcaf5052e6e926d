"""RpcServer: the one loop that takes calls from a socket and sends replies.

One thread talks. Calls without an immediate reply wait for a worker thread, or for the talking thread if there is no
worker. The queue is bounded: when it is full, the server stops listening and its clients wait.
"""

from __future__ import annotations

import queue
import threading
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import zmq

from actors.rpc.messages import Call, Frames, Reply, error_content, id_of, pack_reply, unpack_call
from actors.rpc.sockets import SocketConfig, bind, open_socket
from actors.rpc.tokens import owner_of
from leworld.errors import LeWorldError

PATIENCE_MS = 100
MOST_A_TURN = 1024
"""Messages taken before the server looks again what else there is to do."""
ADMIN = "admin"
OVERHEAD_BYTES = 256
"""Of each call that waits."""


@dataclass(frozen=True)
class Received:
    """A call with its connection, its token's owner, and its parsed content."""

    peer: bytes
    call: Call
    who: str
    content: Any
    num_bytes: int


class Service(Protocol):
    """The part of a server that replies to calls."""

    @property
    def most_at_once(self) -> int:
        """Return the most calls that ``replies`` gets at once."""
        ...

    def parse(self, call: Call) -> Any:
        """Return the content of a call from its body; raise a LeWorldError if it is unreadable."""
        ...

    def reply_now(self, received: Received, *, is_next: bool) -> Frames | None:
        """Reply in the talking thread, or return None for a call that must wait.

        Args:
            received: the call.
            is_next: whether no earlier call of this connection waits.
        """
        ...

    def replies(self, batch: Sequence[Received]) -> Iterable[Frames]:
        """Return the replies to calls that waited, in their order."""
        ...


@dataclass(frozen=True)
class RpcConfig:
    """How calls are taken.

    Attributes:
        addresses: to bind.
        tokens: token to its owner; without tokens every client is "admin".
        socket: see ``SocketConfig``.
        has_worker: whether a worker thread handles the calls that wait.
        max_waiting: calls that wait at most; ``max_waiting_bytes``: of their bodies.
    """

    addresses: tuple[str, ...]
    tokens: Mapping[str, str] | None = None
    socket: SocketConfig = field(default_factory=lambda: SocketConfig(linger_ms=1000))
    has_worker: bool = False
    max_waiting: int = 1 << 20
    max_waiting_bytes: int = 1 << 62


class RpcServer:
    """Serves until ``stop``.

    Attributes:
        addresses: the bound addresses.
        waiting: number of calls that wait, by connection; ``waiting_bytes``: of all of them.
        num_refused: calls that could not be read, or came without a known token.
    """

    def __init__(self, service: Service, config: RpcConfig) -> None:
        """Bind.

        Raises:
            ConfigError: an address cannot be bound.
        """
        self._service, self._config = service, config
        self._context = zmq.Context()
        self._socket = open_socket(self._context, zmq.ROUTER, config.socket)
        try:
            self.addresses = tuple(bind(self._socket, address) for address in config.addresses)
        except LeWorldError:
            self._context.destroy(linger=0)
            raise
        self._done: Any = self._context.socket(zmq.PULL)
        self._done.bind("inproc://done")
        self._all, self._only_done = _poller(self._done, self._socket), _poller(self._done)
        self._line: queue.SimpleQueue[Received | None] = queue.SimpleQueue()
        self.waiting, self.waiting_bytes, self.num_refused = Counter[bytes](), 0, 0
        self._stopping = threading.Event()
        self._worker = threading.Thread(target=self._work_until_the_end, name="rpc-worker")
        self._loop = threading.Thread(target=self.serve, name="rpc-server")

    def start(self) -> None:
        """Serve in a thread of its own."""
        self._loop.start()

    def stop(self) -> None:
        """Finish pending calls and close."""
        self._stopping.set()
        if self._loop.ident is None and self._worker.ident is None:
            self._context.destroy(linger=0)
        elif self._loop.is_alive():
            self._loop.join()

    def serve(self) -> None:
        """Serve until ``stop``, in the caller's thread."""
        if self._config.has_worker:
            self._worker.start()
        try:
            while not self._stopping.is_set() or self.waiting_bytes:
                self._turn()
        finally:
            if self._config.has_worker:
                self._line.put(None)
                self._worker.join()
            # The last messages are delivered while the socket lingers.
            self._context.destroy()

    @property
    def num_waiting(self) -> int:
        """Calls that wait."""
        return sum(self.waiting.values())

    @property
    def has_room(self) -> bool:
        """Whether more calls may wait."""
        limits = self._config
        return self.waiting_bytes < limits.max_waiting_bytes and self._line.qsize() < limits.max_waiting

    def _turn(self) -> None:
        poller = self._all if self.has_room and not self._stopping.is_set() else self._only_done
        ready = dict(poller.poll(PATIENCE_MS))
        if self._done in ready:
            self._send_what_is_done()
        if self._socket in ready:
            self._receive()
        if not self._config.has_worker:
            while not self._line.empty():
                batch, _ = self._batch(self._line.get())
                for received, frames in zip(batch, self._service.replies(batch), strict=True):
                    self._settle(received.peer, received.num_bytes, frames)

    def _receive(self) -> None:
        for _ in range(MOST_A_TURN):
            # A look at the socket is many times faster than an error.
            if not self.has_room or not self._socket.getsockopt(zmq.EVENTS) & zmq.POLLIN:
                return
            peer, *frames = self._socket.recv_multipart()
            self._take(peer, frames)

    def _take(self, peer: bytes, frames: Frames) -> None:
        try:
            call = unpack_call(frames)
            who = ADMIN if not self._config.tokens else owner_of(call.token, self._config.tokens)
            num_bytes = sum(map(len, call.body)) + OVERHEAD_BYTES
            received = Received(peer, call, who, self._service.parse(call), num_bytes)
        except LeWorldError as error:
            self.num_refused += 1
            self._socket.send_multipart([peer, *pack_reply(Reply(id_of(frames), error_content(error)))])
            return
        found = self._service.reply_now(received, is_next=peer not in self.waiting)
        if found is not None:
            self._socket.send_multipart([peer, *found])
            return
        self.waiting[peer] += 1
        self.waiting_bytes += num_bytes
        self._line.put(received)

    def _send_what_is_done(self) -> None:
        while self._done.getsockopt(zmq.EVENTS) & zmq.POLLIN:
            peer, size, *frames = self._done.recv_multipart()
            self._settle(peer, int.from_bytes(size, "little"), frames)

    def _settle(self, peer: bytes, num_bytes: int, frames: Frames) -> None:
        self.waiting_bytes -= num_bytes
        self.waiting[peer] -= 1
        if not self.waiting[peer]:
            del self.waiting[peer]
        self._socket.send_multipart([peer, *frames])

    def _work_until_the_end(self) -> None:
        done = self._context.socket(zmq.PUSH)
        done.connect("inproc://done")
        try:
            while (first := self._line.get()) is not None:
                batch, is_end = self._batch(first)
                for received, frames in zip(batch, self._service.replies(batch), strict=True):
                    done.send_multipart([received.peer, received.num_bytes.to_bytes(8, "little"), *frames])
                if is_end:
                    return
        finally:
            done.close()

    def _batch(self, first: Received | None) -> tuple[list[Received], bool]:
        """Return the waiting calls, and whether no more will come."""
        assert first is not None
        batch, most = [first], self._service.most_at_once
        while len(batch) < most and not self._line.empty():
            more = self._line.get()
            if more is None:
                return batch, True
            batch.append(more)
        return batch, False


def _poller(*sockets: Any) -> zmq.Poller:
    found = zmq.Poller()
    for socket in sockets:
        found.register(socket, zmq.POLLIN)
    return found
