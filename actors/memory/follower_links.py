"""A leader's links to the replicas that follow it; what its store sends goes over them."""

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
    """What followers have to know of the replica that leads, and to tell it."""

    epoch: int

    def step_down(self) -> None:
        """Lead no more."""
        ...

    def strike_off(self, names: Sequence[str]) -> None:
        """Have replicas that do not answer no longer count as in sync."""
        ...

    def check_still_leads(self) -> None:
        """Raise NotPrimaryError where it does not."""
        ...


class FollowerLinks:
    """``leworld.store.replication.replica_store.Followers`` over the wire."""

    def __init__(self, leader: Leader) -> None:
        self._leader = leader
        self._links: dict[str, MemoryClient] = {}
        self._pending: dict[str, PendingReply] = {}

    def add(self, name: str, link: MemoryClient) -> None:
        """Have a replica follow from now on."""
        self._links[name] = link

    def hang_up(self, names: Sequence[str] | None = None) -> None:
        """Some replicas, by default all, follow no more."""
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
        # Even alone it must not acknowledge what a newer leader does not know.
        self._leader.check_still_leads()

    def send_versions(self, versions: Sequence[Version]) -> None:
        """See ``leworld.store.replication.replica_store.Followers``."""
        self._send("follow_versions", to_words(b""), {"versions": [vars(version) for version in versions]})
        self.wait()

    def pages(self, pages: Ints) -> Iterator[tuple[Ints, NDArray[np.uint32]]]:
        """Those of pages that a follower has whole, and their (P, 256) words; one follower after another."""
        for link in list(self._links.values()):
            with suppress(LeWorldError):
                yield call_page_words(link, pages)

    def _send(self, op: str, words: NDArray[np.uint32], arguments: dict[str, Any]) -> None:
        epoch = self._leader.epoch
        self._pending = {
            name: link.begin(op, words=words, epoch=epoch, **arguments) for name, link in self._links.items()
        }
