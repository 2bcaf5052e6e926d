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
from actors.memory.protocol import MAX_MESSAGE_BYTES, MAX_RANGES, Answer, Request, pack_request, parse_answer
from actors.rpc.client import LinkConfig, RpcLink, hang_up
from actors.rpc.sockets import SocketConfig
from leworld.errors import LeWorldError
from leworld.memory import Receipt, Words, check_ranges
from leworld.memory.ranges import Ints
from leworld.memory.word_store import as_blocks, check_blocks
from leworld.store.versions.versions import Difference

CONNECT_S = 1.0
"""A server that is there takes a call within this time, unless it is far behind."""


@dataclass(frozen=True)
class PendingReply:
    """A call that was sent, whose answer is still to come."""

    client: MemoryClient
    request: Request
    failed: ActorError | None = None

    def answer(self) -> Answer:
        """Wait for it; see ``MemoryClient.call``."""
        if self.failed is not None:
            raise self.failed
        return self.client.wait_for(self.request)


class MemoryClient:
    """A memory over the wire; threads may share it, and take turns.

    Attributes:
        address: of the server.
        address_bits: of the memory.
    """

    def __init__(
        self, address: str, token: str = "", timeout_s: float = 10.0, *, address_bits: int | None = None
    ) -> None:
        """Connect; ``address_bits`` come from the server where they are not given.

        Raises:
            ActorError: no server answers in time.
            ConfigError: it is not an address.
            RightsError: the token is unknown.
        """
        self.address, self._token, self._timeout_s = address, token, timeout_s
        context, socket = zmq.Context(), SocketConfig(MAX_MESSAGE_BYTES)
        try:
            # Where no server listens a call fails, and does not wait in a queue of this side.
            self._link = RpcLink(context, address, LinkConfig(socket, connect_s=min(timeout_s, CONNECT_S)))
        except LeWorldError:
            context.destroy(linger=0)
            raise
        # Also where nobody closes it.
        self._hang_up = weakref.finalize(self, hang_up, context, [self._link])
        self._lock = threading.Lock()
        self._id = 0
        try:
            self.address_bits = address_bits or int(self.call("stat").content["address_bits"])
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
        answer = self.call("write", start=start, length=length, words=words)
        return Receipt(answer.content["sequence"], start.copy(), length.copy(), answer.content["crc32"])

    def diff(self, before: str, after: str = "now") -> Difference:
        """The words that differ between two versions."""
        address, old, new = self.call("diff", before=before, after=after).words.reshape(3, -1)
        return Difference(address.astype(np.int64), old, new)

    def call(
        self,
        op: str,
        *,
        start: Ints | None = None,
        length: Ints | None = None,
        words: NDArray[np.uint32] | None = None,
        **arguments: Any,
    ) -> Answer:
        """Call an operation, see ``leworld.store.operations``, and wait for the answer.

        Raises:
            ActorError: there is none in time; whether it was done is not known.
            LeWorldError: the one that the server answers with.
        """
        with self._lock:
            return self.begin(op, start=start, length=length, words=words, **arguments).answer()

    def begin(
        self,
        op: str,
        *,
        start: Ints | None = None,
        length: Ints | None = None,
        words: NDArray[np.uint32] | None = None,
        **arguments: Any,
    ) -> PendingReply:
        """Call, and wait later; nothing else may be called meanwhile."""
        self._id += 1
        given = {k: v for k, v in {"start": start, "length": length, "words": words}.items() if v is not None}
        request = Request(op, self._id, self._token, arguments, **given)
        if self._link.send(request.id, pack_request(request)):
            return PendingReply(self, request)
        return PendingReply(self, request, self._silence(request, UnreachableError))

    def wait_for(self, request: Request) -> Answer:
        """The answer to a request that was sent.

        Raises:
            ActorError: there is none in time.
            LeWorldError: the one that the server answers with.
        """
        reply = self._link.reply(request.id, self._timeout_s)
        if reply is None:
            raise self._silence(request)
        return parse_answer(reply)

    def close(self) -> None:
        """Close the connection."""
        self._hang_up()

    def _read(self, start: Ints, length: Ints) -> NDArray[np.uint32]:
        return self.call("read", start=start, length=length).words

    def _silence(self, request: Request, kind: type[ActorError] = ActorError) -> ActorError:
        """What to raise where no answer comes; the next call goes over a new connection."""
        self._link.renew()
        return kind(
            f"memory at {self.address}",
            f"did not answer {request.op} in {self._timeout_s:g} s",
            "see whether it runs, and raise the timeout if it is only slow",
        )


def _chunks(count: int) -> range:
    return range(0, max(count, 1), MAX_RANGES)
