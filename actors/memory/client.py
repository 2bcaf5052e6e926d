"""A memory's client: a memory that lies with a ``MemoryServer`` somewhere else."""

from __future__ import annotations

import threading
import weakref
from dataclasses import dataclass
from typing import Any

import numpy as np
import zmq
from numpy.typing import ArrayLike, NDArray

from actors.errors import ActorError, UnreachableError
from actors.memory.protocol import (
    MAX_MESSAGE_BYTES,
    MAX_RANGES,
    Answer,
    Request,
    pack_request,
    raise_error,
    unpack_answer,
)
from leworld.errors import ConfigError, LeWorldError
from leworld.memory import Receipt, Words, check_ranges
from leworld.memory.ranges import Ints
from leworld.memory.word_store import as_blocks, check_blocks
from leworld.store.versions.versions import Difference

CONNECT_S = 1.0
"""A server that is there takes a question within this time, unless it is far behind."""


@dataclass(frozen=True)
class Pending:
    """A question that was asked, whose answer is still to come."""

    client: MemoryClient
    request: Request
    failed: ActorError | None = None

    def answer(self) -> Answer:
        """Wait for it; see ``MemoryClient.ask``."""
        if self.failed is not None:
            raise self.failed
        answer = self.client.wait_for(self.request)
        raise_error(answer)
        return answer


class MemoryClient:
    """A memory over the wire; threads may share it, and take turns.

    Attributes:
        address: of the server.
        address_bits: of the memory.
    """

    def __init__(
        self, address: str, token: str = "", timeout_s: float = 10.0, *, address_bits: int | None = None
    ) -> None:
        """Connect; the server is asked for ``address_bits`` where they are not given.

        Raises:
            ActorError: nobody answers in time.
            ConfigError: it is no address.
            RightsError: the token is nobody's.
        """
        self.address, self._token, self._timeout_s = address, token, timeout_s
        self._link = _ServerLink(address, timeout_s)
        # Also where nobody closes it.
        self._hang_up = weakref.finalize(self, self._link.close)
        self._lock = threading.Lock()
        self._id = 0
        try:
            self.address_bits = address_bits or int(self.ask("stat").content["address_bits"])
        except LeWorldError:
            self.close()
            raise

    def __enter__(self) -> MemoryClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def num_words(self) -> int:
        """Words that can be addressed."""
        return 1 << self.address_bits

    def read(self, start: ArrayLike, length: ArrayLike) -> Words:
        """Read R ranges; see ``Reader.read``."""
        start, length = check_ranges(start, length, self.num_words)
        offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(length)])
        parts = [self._read(start[i : i + MAX_RANGES], length[i : i + MAX_RANGES]) for i in _chunks(len(start))]
        return Words(parts[0] if len(parts) == 1 else np.concatenate(parts), offsets)

    def write(self, start: ArrayLike, words: NDArray[np.uint32]) -> Receipt:
        """Write R blocks of one length; see ``Memory.write``. It is kept when this returns."""
        return self.write_ragged(start, as_blocks(words))

    def write_ragged(self, start: ArrayLike, blocks: Words) -> Receipt:
        """Write R blocks of any lengths as one write."""
        start, length, words = check_blocks(start, blocks, self.num_words)
        answer = self.ask("write", start=start, length=length, words=words)
        return Receipt(answer.content["sequence"], start.copy(), length.copy(), answer.content["crc32"])

    def diff(self, before: str, after: str = "now") -> Difference:
        """The words that differ between two versions."""
        address, old, new = self.ask("diff", before=before, after=after).words.reshape(3, -1)
        return Difference(address.astype(np.int64), old, new)

    def ask(
        self,
        op: str,
        *,
        start: Ints | None = None,
        length: Ints | None = None,
        words: NDArray[np.uint32] | None = None,
        **arguments: Any,
    ) -> Answer:
        """Ask for an operation, see ``leworld.store.operations``, and wait for the answer.

        Raises:
            ActorError: there is none in time; whether it was done is not known.
            LeWorldError: the one that the server answers with.
        """
        with self._lock:
            answer = self._exchange(self._request(op, start, length, words, arguments))
        raise_error(answer)
        return answer

    def begin(
        self,
        op: str,
        *,
        start: Ints | None = None,
        length: Ints | None = None,
        words: NDArray[np.uint32] | None = None,
        **arguments: Any,
    ) -> Pending:
        """Ask, and wait later; nothing else may be asked meanwhile."""
        request = self._request(op, start, length, words, arguments)
        try:
            self._link.socket.send_multipart(pack_request(request))
        except zmq.Again:
            return Pending(self, request, self._silence(request, UnreachableError))
        return Pending(self, request)

    def close(self) -> None:
        """Hang up."""
        self._hang_up()

    def _read(self, start: Ints, length: Ints) -> NDArray[np.uint32]:
        return self.ask("read", start=start, length=length).words

    def _request(
        self, op: str, start: Ints | None, length: Ints | None, words: NDArray[np.uint32] | None, arguments: Any
    ) -> Request:
        self._id += 1
        given = {k: v for k, v in {"start": start, "length": length, "words": words}.items() if v is not None}
        return Request(op, self._id, self._token, arguments, **given)

    def _exchange(self, request: Request) -> Answer:
        try:
            self._link.socket.send_multipart(pack_request(request))
        except zmq.Again:
            raise self._silence(request, UnreachableError) from None
        return self.wait_for(request)

    def wait_for(self, request: Request) -> Answer:
        """The answer to a request that was sent.

        Raises:
            ActorError: there is none in time.
        """
        try:
            while True:
                answer = unpack_answer(self._link.socket.recv_multipart())
                # One to a question that was given up on may still come.
                if answer.id in (request.id, 0):
                    return answer
        except zmq.Again:
            raise self._silence(request) from None

    def _silence(self, request: Request, kind: type[ActorError] = ActorError) -> ActorError:
        """What to raise where nobody answers; the next question goes over a new connection."""
        self._link.renew()
        return kind(
            f"memory at {self.address}",
            f"did not answer {request.op} in {self._timeout_s:g} s",
            "see whether it runs, and raise the timeout if it is only slow",
        )


class _ServerLink:
    """A connection that can be made anew. Whoever ends it need not be whoever uses it."""

    def __init__(self, address: str, timeout_s: float) -> None:
        self._address, self._timeout_s, self._context = address, timeout_s, zmq.Context()
        try:
            self.socket = self._connect()
        except ConfigError:
            self._context.destroy(linger=0)
            raise

    def renew(self) -> None:
        """Give up on all that is on its way."""
        self.socket.close()
        self.socket = self._connect()

    def close(self) -> None:
        """Hang up."""
        self._context.destroy(linger=0)

    def _connect(self) -> zmq.Socket[bytes]:
        socket = self._context.socket(zmq.DEALER)
        socket.setsockopt(zmq.LINGER, 0)
        # Where nobody listens a question fails, and does not wait in a queue of this side.
        socket.setsockopt(zmq.IMMEDIATE, 1)
        socket.setsockopt(zmq.MAXMSGSIZE, MAX_MESSAGE_BYTES)
        socket.setsockopt(zmq.RCVTIMEO, int(1000 * self._timeout_s))
        socket.setsockopt(zmq.SNDTIMEO, int(1000 * min(self._timeout_s, CONNECT_S)))
        try:
            socket.connect(self._address)
        except zmq.ZMQError:
            socket.close()
            raise ConfigError(
                f"{self._address}: no address; give one like tcp://127.0.0.1:7077 or ipc:///tmp/memory"
            ) from None
        return socket


def _chunks(count: int) -> range:
    return range(0, max(count, 1), MAX_RANGES)
