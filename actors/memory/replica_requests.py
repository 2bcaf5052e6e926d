"""The calls of other replicas; each function runs in the server's writing thread."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from actors.memory.leadership import Leadership
from actors.memory.protocol import Answer, Request
from actors.memory.replica_config import ReplicaConfig
from actors.memory.replica_files import ReplicaFiles
from actors.memory.replication_codec import numbered_pages, to_words, unpack_records
from leworld.store.journal.record import encode
from leworld.store.operations import number, text
from leworld.store.replication.bulk_copy import Source
from leworld.store.replication.replica_store import ReplicaStore
from leworld.store.versions.versions import Version

Operation = Callable[[Request], Answer]
CATCH_UP_BYTES = 8 << 20


class ReplicaRequests:
    """The answers of one replica to others."""

    def __init__(
        self, config: ReplicaConfig, files: ReplicaFiles, leadership: Leadership, lead: Callable[[], None]
    ) -> None:
        self._config, self._files, self._leadership, self._lead = config, files, leadership, lead

    @property
    def operations(self) -> dict[str, Operation]:
        """Return the function for each operation."""
        found = (
            self.ping, self.follow, self.follow_versions, self.copy_begin, self.copy_part, self.copy_pages,
            self.records_after, self.admit, self.take_lead, self.page_words,
        )  # fmt: skip
        return {function.__name__: function for function in found}

    def only_as_leader(self, functions: Mapping[str, Operation]) -> dict[str, Operation]:
        """Return the functions that refuse while this replica does not lead."""

        def guarded(function: Operation) -> Operation:
            def operation(request: Request) -> Answer:
                self._leadership.check_leads()
                return function(request)

            return operation

        return {name: guarded(function) for name, function in functions.items()}

    @property
    def _store(self) -> ReplicaStore:
        return self._files.store

    def ping(self, request: Request) -> Answer:
        """Return this replica's id and position."""
        mine = self._leadership
        leads = mine.holds_lease
        content = {"id": self._config.id, "epoch": mine.epoch, "leads": leads, "sequence": self._store.sequence}
        return Answer(request.id, {**content, "leads_soon": leads or mine.is_taking})

    def follow(self, request: Request) -> Answer:
        """Apply records of the leader."""
        self._check_epoch(request)
        self._store.follow(unpack_records(request), roll=bool(request.arguments.get("roll")))
        return Answer(request.id, {"sequence": self._store.sequence})

    def follow_versions(self, request: Request) -> Answer:
        """Keep the versions that the leader keeps."""
        self._check_epoch(request)
        self._store.follow_versions([Version(**row) for row in request.arguments["versions"]])
        return Answer(request.id, {})

    def page_words(self, request: Request) -> Answer:
        """Return the pages that are undamaged here: numbers, then words."""
        return numbered_pages(request, *self._store.whole_pages(request.words.astype(np.int64)))

    def copy_begin(self, request: Request) -> Answer:
        """List the files to copy."""
        self._leadership.check_leads()
        name = text(request.arguments, "id")
        if name in self._leadership.state.in_sync:
            # Its files are about to be deleted.
            self._leadership.strike_off([name])
        return Answer(request.id, {**Source(self._store).begin(name), "epoch": self._leadership.epoch})

    def copy_part(self, request: Request) -> Answer:
        """Return some bytes of a file."""
        arguments = request.arguments
        data = Source(self._store).part(text(arguments, "name"), number(arguments, "offset", 0, 1 << 62))
        return Answer(request.id, {"num_bytes": len(data)}, to_words(data))

    def copy_pages(self, request: Request) -> Answer:
        """Return some pages: numbers, then words."""
        return numbered_pages(request, *Source(self._store).pages(number(request.arguments, "after", -1, 1 << 32)))

    def records_after(self, request: Request) -> Answer:
        """Return some records after one."""
        sequence = number(request.arguments, "sequence", 0, 1 << 62)
        records, firsts = self._store.records_after(sequence, CATCH_UP_BYTES)
        data = b"".join(part for record in records for part in encode(record))
        content = {"num_bytes": len(data), "firsts": firsts, "sequence": self._store.sequence}
        return Answer(request.id, content, to_words(data))

    def admit(self, request: Request) -> Answer:
        """Add a replica that has caught up to those in sync."""
        mine = self._leadership
        mine.check_leads()
        name, address = text(request.arguments, "id"), text(request.arguments, "address")
        if number(request.arguments, "sequence", 0, 1 << 62) != self._store.sequence:
            return Answer(request.id, {"admitted": False})
        link = self._config.link(address)
        answer = link.call("follow", epoch=mine.epoch, roll=False, num_bytes=0)
        if answer.content["sequence"] != self._store.sequence:
            # The call was delayed, and the replica has begun again meanwhile.
            link.close()
            return Answer(request.id, {"admitted": False})
        mine.replace_state(lambda state: {
            "in_sync": tuple(dict.fromkeys((*state.in_sync, name))), "addresses": {**state.addresses, name: address},
        })  # fmt: skip
        mine.followers.add(name, link)
        self._store.unpin(name)
        return Answer(request.id, {"admitted": True, "epoch": mine.epoch})

    def take_lead(self, request: Request) -> Answer:
        """Lead after the leader of an epoch is lost; do nothing if there is a newer leader, this one included."""
        epoch, mine = number(request.arguments, "epoch", 0, 1 << 62), self._leadership
        if mine.state.epoch == epoch and not (mine.epoch == epoch and mine.may_answer):
            self._lead()
        return Answer(request.id, {"epoch": mine.epoch})

    def _check_epoch(self, request: Request) -> None:
        self._leadership.check_epoch(number(request.arguments, "epoch", 0, 1 << 62))
