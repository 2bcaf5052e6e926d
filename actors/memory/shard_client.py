"""A replicated shard's client: it finds the leader, and goes on when another replica takes over."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from actors.errors import ActorError, UnreachableError
from actors.memory.client import MemoryClient, PendingReply
from actors.memory.coordinator import Coordinator
from actors.memory.protocol import Answer
from actors.rpc.retry import Pause, attempts
from leworld.errors import MovedError, NotPrimaryError, StoreError
from leworld.memory import Receipt, Words
from leworld.memory.word_store import as_blocks, check_blocks
from leworld.store.versions.versions import Difference

Result = TypeVar("Result")
PAUSE = Pause(0.05)


@dataclass(frozen=True)
class ClientConfig:
    """How shards are called.

    Attributes:
        token: for their servers.
        timeout_s: of a call, with all that is tried again; ``message_timeout_s``: of one message.
    """

    token: str = ""
    timeout_s: float = 30.0
    message_timeout_s: float = 3.0


@dataclass(frozen=True)
class ShardPending:
    """A call to the leader of a shard, whose answer is still to come."""

    client: ShardClient
    pending: PendingReply | None
    op: str
    given: Mapping[str, Any]

    def answer(self) -> Answer:
        """Wait for it; it is called again where there is none, so that a write needs a name."""
        # It went with its connection where an earlier call was not answered.
        if self.pending is not None and self.client.is_connected_by(self.pending.client):
            try:
                return self.pending.answer()
            except (NotPrimaryError, ActorError) as error:
                self.client.close()
                return self.client.again(self.op, self.given, is_known=_is_known(error))
        return self.client.again(self.op, self.given, is_known=self.pending is None)


class ShardClient:
    """A memory of which there are several replicas; threads may share it, and take turns.

    A write that was not answered is sent again under the same name, and is made once.

    Attributes:
        address_bits: of the memory.
    """

    def __init__(
        self, coordinator: Coordinator, shard: str, address_bits: int, config: ClientConfig | None = None,
        is_there: Callable[[], bool] = lambda: True,
    ) -> None:  # fmt: skip
        """Name a shard.

        Args:
            coordinator: that knows it.
            shard: its name there.
            address_bits: of the memory.
            config: how it is called.
            is_there: says whether there is still such a shard, where no replica answers.
        """
        self.coordinator, self.shard, self.address_bits = coordinator, shard, address_bits
        self._config, self._is_there = config or ClientConfig(), is_there
        self._client: MemoryClient | None = None
        self._name, self._count = secrets.token_hex(6), 0

    def read(self, start: ArrayLike, length: ArrayLike) -> Words:
        """Read R ranges; see ``Reader.read``."""
        return self._again(lambda client: client.read(start, length))

    def write(self, start: ArrayLike, words: NDArray[np.uint32]) -> Receipt:
        """Write R blocks of one length; see ``Memory.write``. It is with every replica in sync when this returns."""
        return self.write_ragged(start, as_blocks(words))

    def write_ragged(self, start: ArrayLike, blocks: Words) -> Receipt:
        """Write R blocks of any lengths as one write."""
        start, length, words = check_blocks(start, blocks, 1 << self.address_bits)
        self._count += 1
        name = f"{self._name}:{self._count}"
        answer = self._again(
            lambda client: client.call("write", start=start, length=length, words=words, name=name), is_write=True
        )
        return Receipt(answer.content["sequence"], start.copy(), length.copy(), answer.content["crc32"])

    def call(self, op: str, **arguments: Any) -> dict[str, Any]:
        """Another operation; it may be done twice where the leader changes meanwhile."""
        return self._again(lambda client: client.call(op, **arguments)).content

    def diff(self, before: str, after: str = "now") -> Difference:
        """The words that differ between two versions."""
        return self._again(lambda client: client.diff(before, after))

    def begin(self, op: str, **given: Any) -> ShardPending:
        """Call, and wait later; nothing else may be called meanwhile."""
        pending = None
        # Else it is called, again and again, when it is waited for.
        with suppress(NotPrimaryError, ActorError):
            pending = self._connected().begin(op, **given)
        return ShardPending(self, pending, op, given)

    def again(self, op: str, given: Mapping[str, Any], *, is_known: bool = True) -> Answer:
        """Call until the leader has answered.

        Args:
            op: what is called; a write must have a name.
            given: its arguments.
            is_known: that nothing was done yet; else it was called before, without an answer.

        Raises:
            ActorError: nobody did in time.
            MovedError: there is no such shard any more; nothing was done.
        """
        return self._again(lambda client: client.call(op, **given), is_known=is_known, is_write=op == "write")

    def is_connected_by(self, client: MemoryClient) -> bool:
        """Whether a connection is still the one that is used."""
        return self._client is client

    def close(self) -> None:
        """Close the connection."""
        if self._client is not None:
            self._client.close()
            self._client = None

    def _again(self, act: Callable[[MemoryClient], Result], *, is_known: bool = True, is_write: bool = False) -> Result:
        """Try until the leader has answered; see ``again``."""
        timeout_s, problem = self._config.timeout_s, "nobody leads it"
        for _ in attempts(timeout_s, PAUSE):
            try:
                return act(self._connected())
            except (NotPrimaryError, ActorError) as error:
                problem, is_known = str(error), is_known and _is_known(error)
                self.close()
                if not self._is_there():
                    self._give_up(is_known or not is_write)
        raise ActorError(f"shard {self.shard}", f"did not answer in {timeout_s:g} s ({problem})", "start a replica")

    def _give_up(self, is_known: bool) -> None:
        if is_known:
            raise MovedError(f"shard {self.shard} holds nothing any more: look where it is")
        # Elsewhere it would be made once more, be it after what others have written since.
        raise ActorError(
            f"shard {self.shard}", "was stopped before it answered, and may have made a write", "read what is there"
        )

    def _connected(self) -> MemoryClient:
        if self._client is None:
            try:
                state = self.coordinator.get(self.shard)
            except StoreError as error:
                raise UnreachableError(f"shard {self.shard}", f"cannot be looked for ({error})", "try again") from None
            address = state.addresses.get(state.leader)
            if address is None:
                raise UnreachableError(f"shard {self.shard}", "has nobody who leads it", "start one of its replicas")
            token, timeout_s = self._config.token, self._config.message_timeout_s
            self._client = MemoryClient(address, token, timeout_s, address_bits=self.address_bits)
        return self._client


def _is_known(error: Exception) -> bool:
    """Whether an error says that nothing was done."""
    # One that stopped leading in the middle of a write says so, too.
    return isinstance(error, UnreachableError)
