"""A memory behind a server."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from actors.errors import ActorError
from actors.memory.client import MemoryClient
from cluster.memory.target import Operations, Outcome, page_cuts
from leworld.errors import ConfigError, RightsError, StoreError
from leworld.memory import Snapshot, Words
from leworld.memory.ranges import Ints
from leworld.store.forks.fork_link import ForkLink
from leworld.store.versions.versions import Difference

LARGEST_LOG = 10_000
CONNECT_S = 3.0
"""How long a server may take for its first answer."""
ANSWER_S = 600.0
"""How long it may take for others: an erasure goes through the whole journal."""


class RemoteTarget(Operations):
    """A memory behind a server, as the owner of the token sees it.

    Attributes:
        address: of the server.
        client: that calls it.
    """

    def __init__(self, address: str, token: str) -> None:
        """Connect.

        Raises:
            ActorError: no server answers.
            ConfigError: it is not an address.
            RightsError: the token is unknown.
        """
        self.address = address
        first = _connected(address, token, CONNECT_S)
        first.close()
        self.client = _connected(address, token, ANSWER_S)
        self.address_bits, self.num_words = self.client.address_bits, self.client.num_words

    def close(self) -> None:
        """Close the connection."""
        self.client.close()

    def read(self, first: int, length: int) -> NDArray[np.uint32]:
        """See ``MemoryTarget``."""
        edges = page_cuts(first, first + length)
        return self.client.read(edges[:-1], np.diff(edges)).words

    def written(self) -> Ints:
        """See ``MemoryTarget``."""
        return self.client.call("pages").words.astype(np.int64)

    def difference(self, before: str, after: str) -> Difference:
        """See ``MemoryTarget``."""
        return self.client.diff(before, after)

    def log(self, limit: int, address: int | None) -> list[Outcome]:
        """See ``MemoryTarget``."""
        if limit > LARGEST_LOG:
            raise ConfigError(f"limit {limit - 1}: a server lists at most {LARGEST_LOG - 1}; lower it")
        given: Outcome = {} if address is None else {"address": address}
        return self.client.call("log", limit=limit, **given).content["records"]

    def versions(self) -> list[Outcome]:
        """See ``MemoryTarget``."""
        return self.ask("versions")["versions"]

    def stat(self) -> Outcome:
        """See ``MemoryTarget``; also says what the server has done."""
        return {**self.ask("stat"), "address": self.address}

    def link(self) -> ForkLink | None:
        """See ``MemoryTarget``."""
        found = self.ask("stat").get("fork")
        names = ("parent", "parent_id", "version", "stage")
        return None if found is None else ForkLink(*(found[name] for name in names))

    def verify(self) -> Outcome:
        """See ``MemoryTarget``."""
        return {"damaged": self.ask("verify")["damaged"], "journal": None, "checked": None}

    def is_erased(self, content: Any) -> bool:
        """See ``MemoryTarget``."""
        return self.ask("verify", erasure=content)["erased"]

    def snapshot(self) -> Snapshot:
        """Raise StoreError: successive reads may see different states."""
        raise self._no_whole("export")

    def restore(self, snapshot: Snapshot) -> None:
        """Raise StoreError: a server takes writes, not whole contents."""
        raise self._no_whole("import")

    def write(self, start: Ints, blocks: Words, writer: str | None) -> Outcome:
        """See ``MemoryTarget``.

        Raises:
            ConfigError: a writer is named.
        """
        if writer is not None:
            raise ConfigError(f"writer {writer!r}: over {self.address} the token says who writes; leave out --writer")
        receipt = self.client.write_ragged(start, blocks)
        return {"sequence": receipt.sequence, "crc32": receipt.crc32}

    def ask(self, operation: str, **arguments: Any) -> Outcome:
        """See ``MemoryTarget``."""
        return self.client.call(operation, **arguments).content

    def _no_whole(self, command: str) -> StoreError:
        return StoreError(f"{self.address}: serves the memory; end the server, then {command} with the directory")


def _connected(address: str, token: str, timeout_s: float) -> MemoryClient:
    try:
        return MemoryClient(address, token, timeout_s)
    except RightsError:
        raise RightsError(f"{address}: unknown token: give yours with --token, or in LEWORLD_TOKEN") from None
    except ActorError as error:
        raise ActorError(
            f"memory at {address}", "does not answer", "start it with leworld memory serve, or check the address"
        ) from error
