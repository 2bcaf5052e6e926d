"""What a command needs of a memory, wherever the memory is.

Four classes have it: ``DirectoryReader`` reads a directory beside the process that writes it, ``DirectoryWriter``
writes one itself, ``RemoteTarget`` calls a server, and ``ClusterTarget`` calls the shards of a Ray cluster.

Shapes:
    P: pages.  W: words.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from leworld.memory import PAGE_WORDS, Snapshot, Words
from leworld.memory.ranges import Ints
from leworld.store.forks.fork_link import ForkLink
from leworld.store.versions.versions import Difference

Outcome = dict[str, Any]


class ReadableTarget(Protocol):
    """A memory that a command reads."""

    address_bits: int
    num_words: int

    def close(self) -> None:
        """Release what is held open."""
        ...

    def read(self, first: int, length: int) -> NDArray[np.uint32]:
        """Read (W,) words from an address on."""
        ...

    def written(self) -> Ints:
        """List the (P,) pages that hold anything, ascending."""
        ...

    def difference(self, before: str, after: str) -> Difference:
        """Find the words that differ between two versions."""
        ...

    def log(self, limit: int, address: int | None) -> list[Outcome]:
        """List the newest records, without their words."""
        ...

    def versions(self) -> list[Outcome]:
        """List the versions, the oldest first."""
        ...

    def link(self) -> ForkLink | None:
        """Return the link of a fork to its parent; None for a memory that is not a fork."""
        ...

    def stat(self) -> Outcome:
        """Describe the memory: its sizes and who uses it."""
        ...

    def verify(self) -> Outcome:
        """Find the pages and records that are not what was written."""
        ...

    def is_erased(self, content: Any) -> bool:
        """Whether nothing is left of what the receipt of an erasure names."""
        ...

    def snapshot(self) -> Snapshot:
        """Read the whole content, as it was at one moment."""
        ...


class MemoryTarget(ReadableTarget, Protocol):
    """A memory that a command reads and changes."""

    def write(self, start: Ints, blocks: Words, writer: str | None) -> Outcome:
        """Write blocks as one write; return its receipt."""
        ...

    def restore(self, snapshot: Snapshot) -> None:
        """Replace the whole content."""
        ...

    def create_version(self, name: str, of: str = "now") -> Outcome:
        """Keep the content of now, or of another version, as a version."""
        ...

    def drop_version(self, name: str) -> Outcome:
        """Delete a version."""
        ...

    def rollback_to(self, name: str) -> Outcome:
        """Make the content that of a version."""
        ...

    def erase(self, sequence: int) -> Outcome:
        """Erase what a write wrote; return the receipt."""
        ...

    def grant(self, **given: Any) -> Outcome:
        """Grant a range of addresses, or take a grant back; see ``leworld.store.operations.grant``."""
        ...


class Operations:
    """Changes by the names of ``leworld.store.operations``."""

    def ask(self, operation: str, **arguments: Any) -> Outcome:
        """Return the result of an operation."""
        raise NotImplementedError

    def create_version(self, name: str, of: str = "now") -> Outcome:
        """See ``MemoryTarget``."""
        return self.ask("keep", name=name, of=of)

    def drop_version(self, name: str) -> Outcome:
        """See ``MemoryTarget``."""
        return self.ask("drop", name=name)

    def rollback_to(self, name: str) -> Outcome:
        """See ``MemoryTarget``."""
        return self.ask("go_back", name=name)

    def erase(self, sequence: int) -> Outcome:
        """See ``MemoryTarget``."""
        return self.ask("erase", sequence=sequence)

    def grant(self, **given: Any) -> Outcome:
        """See ``MemoryTarget``."""
        return self.ask("grant", **given)


def page_cuts(first: int, stop: int) -> Ints:
    """Cut ``[first, stop)`` into ranges of at most a page; return where they begin, and the end."""
    return np.unique(np.append(np.arange(first, stop, PAGE_WORDS), stop))
