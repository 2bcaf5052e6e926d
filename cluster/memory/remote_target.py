"""A memory behind a server: what ``Directory`` and ``Writer`` do, over the wire."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from actors.errors import ActorError
from actors.memory.client import MemoryClient
from leworld.errors import ConfigError, RightsError
from leworld.memory import PAGE_WORDS, Words
from leworld.memory.ranges import Ints
from leworld.store.forks.fork_link import ForkLink
from leworld.store.versions.versions import Difference

LARGEST_LOG = 10_000
CONNECT_S = 3.0
"""How long a server may take for its first answer."""
ANSWER_S = 600.0
"""How long it may take for others: an erasure goes through the whole journal."""


class RemoteTarget:
    """A memory behind a server, for whoever the token is of.

    Attributes:
        address: of the server.
        client: that asks it.
    """

    def __init__(self, address: str, token: str) -> None:
        """Connect.

        Raises:
            ActorError: nobody answers.
            ConfigError: it is no address.
            RightsError: the token is nobody's.
        """
        self.address = address
        first = _connected(address, token, CONNECT_S)
        first.close()
        self.client = _connected(address, token, ANSWER_S)
        self.address_bits, self.num_words = self.client.address_bits, self.client.num_words

    def close(self) -> None:
        """Hang up."""
        self.client.close()

    def read(self, first: int, length: int) -> NDArray[np.uint32]:
        """(W,) words from an address on."""
        edges = np.unique(np.append(np.arange(first, first + length, PAGE_WORDS), first + length))
        return self.client.read(edges[:-1], np.diff(edges)).words

    def written(self) -> Ints:
        """Pages that hold anything, ascending."""
        return self.client.ask("pages").words.astype(np.int64)

    def difference(self, before: str, after: str) -> Difference:
        """The words that differ between two versions."""
        return self.client.diff(before, after)

    def log(self, limit: int, address: int | None) -> list[dict[str, Any]]:
        """The newest records, without their words."""
        if limit > LARGEST_LOG:
            raise ConfigError(f"limit {limit - 1}: a server lists at most {LARGEST_LOG - 1}; lower it")
        given: dict[str, Any] = {} if address is None else {"address": address}
        return self.client.ask("log", limit=limit, **given).content["records"]

    def versions(self) -> list[dict[str, Any]]:
        """Those that are kept, oldest first."""
        return self.ask("versions")["versions"]

    def stat(self) -> dict[str, Any]:
        """What the memory is, and what the server has done."""
        return {**self.ask("stat"), "address": self.address}

    def link(self) -> ForkLink | None:
        """Where the memory is a fork, to what it was made from."""
        found = self.ask("stat").get("fork")
        return (
            None if found is None else ForkLink(*(found[name] for name in ("parent", "parent_id", "version", "stage")))
        )

    def verify(self) -> dict[str, Any]:
        """The pages that are not what was written."""
        return {"damaged": self.ask("verify")["damaged"], "journal": None, "checked": None}

    def is_erased(self, content: Any) -> bool:
        """Whether nothing of what an erasure took out is left."""
        return self.ask("verify", erasure=content)["erased"]

    def write(self, start: Ints, blocks: Words, writer: str | None) -> dict[str, Any]:
        """Write blocks as one write; a receipt.

        Raises:
            ConfigError: a writer is named.
        """
        if writer is not None:
            raise ConfigError(f"writer {writer!r}: over {self.address} the token says who writes; leave out --writer")
        receipt = self.client.write_ragged(start, blocks)
        return {"sequence": receipt.sequence, "crc32": receipt.crc32}

    def ask(self, operation: str, **arguments: Any) -> dict[str, Any]:
        """What the server answers to an operation."""
        return self.client.ask(operation, **arguments).content


def _connected(address: str, token: str, timeout_s: float) -> MemoryClient:
    try:
        return MemoryClient(address, token, timeout_s)
    except RightsError:
        raise RightsError(f"{address}: the token is nobody's; give yours with --token, or in LEWORLD_TOKEN") from None
    except ActorError as error:
        raise ActorError(
            f"memory at {address}", "does not answer", "start it with leworld memory serve, or check the address"
        ) from error
