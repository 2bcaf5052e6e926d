"""A replicated shard's client: it finds whoever leads, and goes on when another copy takes over."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from actors.directory import Directory
from actors.errors import ActorError
from actors.memory_client import MemoryClient, Pending
from actors.memory_wire import Answer
from leworld.errors import NotPrimaryError
from leworld.memory import Receipt, Words
from leworld.memory.store import as_blocks, check_blocks
from leworld.store.versions import Difference

Result = TypeVar("Result")
PAUSE_S = 0.05


@dataclass(frozen=True)
class ShardPending:
    """A question to whoever leads a shard, whose answer is still to come."""

    client: ShardClient
    pending: Pending | None
    op: str
    given: Mapping[str, Any]

    def answer(self) -> Answer:
        """Wait for it; it is asked again where there is none, so that a write needs a name."""
        if self.pending is not None:
            try:
                return self.pending.answer()
            except (NotPrimaryError, ActorError):
                self.client.close()
        return self.client.again(self.op, self.given)


class ShardClient:
    """A memory of which there are several copies; threads may share it, and take turns.

    A write that was not answered is sent again under the same name, and is made once.

    Attributes:
        address_bits: of the memory.
    """

    def __init__(
        self, directory: Directory, shard: str, address_bits: int, *, token: str = "", timeout_s: float = 30.0,
        message_timeout_s: float = 3.0,
    ) -> None:  # fmt: skip
        """Name a shard.

        Args:
            directory: that knows it.
            shard: its name there.
            address_bits: of the memory.
            token: for its servers.
            timeout_s: of a call, with all that is tried again.
            message_timeout_s: of one message.
        """
        self.directory, self.shard, self.address_bits = directory, shard, address_bits
        self._token, self._timeout_s, self._message_timeout_s = token, timeout_s, message_timeout_s
        self._client: MemoryClient | None = None
        self._name, self._count = secrets.token_hex(6), 0

    def read(self, start: ArrayLike, length: ArrayLike) -> Words:
        """Read R ranges; see ``Reader.read``."""
        return self._again(lambda client: client.read(start, length))

    def write(self, start: ArrayLike, words: NDArray[np.uint32]) -> Receipt:
        """Write R blocks of one length; see ``Memory.write``. It is with every copy in sync when this returns."""
        return self.write_ragged(start, as_blocks(words))

    def write_ragged(self, start: ArrayLike, blocks: Words) -> Receipt:
        """Write R blocks of any lengths as one write."""
        start, length, words = check_blocks(start, blocks, 1 << self.address_bits)
        self._count += 1
        name = f"{self._name}:{self._count}"
        answer = self._again(lambda client: client.ask("write", start=start, length=length, words=words, name=name))
        return Receipt(answer.content["sequence"], start.copy(), length.copy(), answer.content["crc32"])

    def ask(self, op: str, **arguments: Any) -> dict[str, Any]:
        """Another operation; it may be done twice where the leader changes meanwhile."""
        return self._again(lambda client: client.ask(op, **arguments)).content

    def diff(self, before: str, after: str = "now") -> Difference:
        """The words that differ between two versions."""
        return self._again(lambda client: client.diff(before, after))

    def begin(self, op: str, **given: Any) -> ShardPending:
        """Ask, and wait later; nothing else may be asked meanwhile."""
        pending = None
        # Else it is asked, again and again, when it is waited for.
        with suppress(NotPrimaryError, ActorError):
            pending = self._connected().begin(op, **given)
        return ShardPending(self, pending, op, given)

    def again(self, op: str, given: Mapping[str, Any]) -> Answer:
        """Ask until whoever leads has answered.

        Raises:
            ActorError: nobody did in time.
        """
        return self._again(lambda client: client.ask(op, **given))

    def close(self) -> None:
        """Hang up."""
        if self._client is not None:
            self._client.close()
            self._client = None

    def _again(self, act: Callable[[MemoryClient], Result]) -> Result:
        """Try until whoever leads has answered.

        Raises:
            ActorError: nobody did in time.
        """
        end, problem = time.monotonic() + self._timeout_s, "nobody leads it"
        while time.monotonic() < end:
            try:
                return act(self._connected())
            except (NotPrimaryError, ActorError) as error:
                problem = str(error)
                self.close()
                time.sleep(PAUSE_S)
        raise ActorError(f"shard {self.shard}", f"did not answer in {self._timeout_s:g} s ({problem})", "start a copy")

    def _connected(self) -> MemoryClient:
        if self._client is None:
            state = self.directory.get(self.shard)
            address = state.addresses.get(state.primary)
            if address is None:
                raise NotPrimaryError(f"nobody leads shard {self.shard}")
            bits, timeout_s = self.address_bits, self._message_timeout_s
            self._client = MemoryClient(address, self._token, timeout_s, address_bits=bits)
        return self._client
