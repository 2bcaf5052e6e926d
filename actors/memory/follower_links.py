"""A leader's links to its followers, over which its store sends records."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from actors.memory.client import MemoryClient, PendingReply
from actors.memory.replication_codec import call_page_words, to_words
from leworld.errors import LeWorldError, NotPrimaryError
from leworld.memory.ranges import Ints
from leworld.store.journal.record import Record, encode
from leworld.store.versions.versions import Version


class Leader(Protocol):
    """The part of the leader that its links use."""

    epoch: int

    def step_down(self) -> None:
        """Stop leading."""
        ...

    def strike_off(self, names: Sequence[str]) -> None:
        """Remove replicas that do not answer from those in sync."""
        ...

    def check_still_leads(self) -> None:
        """Raise NotPrimaryError if it does not lead."""
        ...


class FollowerLinks:
    """``leworld.store.replication.replica_store.Followers`` over the wire."""

    def __init__(self, leader: Leader) -> None:
        self._leader = leader
        self._links: dict[str, MemoryClient] = {}
        self._pending: dict[str, PendingReply] = {}

    def add(self, name: str, link: MemoryClient) -> None:
        """Add a follower."""
        self._links[name] = link

    def hang_up(self, names: Sequence[str] | None = None) -> None:
        """Drop some followers, by default all."""
        for name in list(self._links) if names is None else names:
            link = self._links.pop(name, None)
            if link is not None:
                link.close()

    def send(self, records: Sequence[Record], *, roll: bool) -> None:
        """See ``leworld.store.replication.replica_store.Followers``."""
        data = b"".join(part for record in records for part in encode(record))
        words, arguments = to_words(data), {"roll": roll, "num_bytes": len(data)}
        self._send("follow", words, arguments)

    def wait(self) -> None:
        """See ``leworld.store.replication.replica_store.Followers``."""
        lost = []
        for name, pending in self._pending.items():
            try:
                pending.answer()
            except NotPrimaryError:
                self._leader.step_down()
                raise
            except LeWorldError:
                lost.append(name)
        self._pending = {}
        if lost:
            self._leader.strike_off(lost)
        # Even without followers it must not acknowledge a write that a newer leader lacks.
        self._leader.check_still_leads()

    def send_versions(self, versions: Sequence[Version]) -> None:
        """See ``leworld.store.replication.replica_store.Followers``."""
        self._send("follow_versions", to_words(b""), {"versions": [vars(version) for version in versions]})
        self.wait()

    def pages(self, pages: Ints) -> Iterator[tuple[Ints, NDArray[np.uint32]]]:
        """Yield, for each follower, the pages that it has undamaged and their (P, 256) words."""
        for link in list(self._links.values()):
            with suppress(LeWorldError):
                yield call_page_words(link, pages)

    def _send(self, op: str, words: NDArray[np.uint32], arguments: dict[str, Any]) -> None:
        epoch = self._leader.epoch
        self._pending = {
            name: link.begin(op, words=words, epoch=epoch, **arguments) for name, link in self._links.items()
        }
