"""Catch-up: a replica becomes one in sync with its leader."""

from __future__ import annotations

from actors.memory.client import MemoryClient
from actors.memory.leadership import Leadership
from actors.memory.replica_config import ReplicaConfig
from actors.memory.replica_files import ReplicaFiles
from actors.memory.replication_codec import call_pages, call_part, decode_all
from actors.memory.server import MemoryServer
from leworld.store.replication.bulk_copy import copy_begin, copy_pages
from leworld.store.versions.versions import Version


class CatchUp:
    """The catch-up of one replica."""

    def __init__(
        self, config: ReplicaConfig, files: ReplicaFiles, leadership: Leadership, server: MemoryServer
    ) -> None:
        self._config, self._files, self._leadership, self._server = config, files, leadership, server

    def join(self) -> None:
        """Become a replica in sync.

        Raises:
            ActorError: the leader does not answer.
        """
        state = self._leadership.state
        with self._config.link(state.addresses[state.leader]) as leader:
            self.copy(leader)
            self._catch_up(leader)

    def copy(self, leader: MemoryClient) -> None:
        """Replace this replica's files by the leader's."""
        plan = leader.call("copy_begin", id=self._config.id).content
        with self._server.exchange():
            files = self._files
            files.clear()
            copy_begin(files.root, plan, lambda name, offset: call_part(leader, name, offset))
            copy_pages(files.root, plan["sequence"], lambda after: call_pages(leader, after))
            files.open()
            # Otherwise it would follow the old leader.
            self._leadership.adopt(plan["epoch"])
            files.store.follow_versions([Version(**row) for row in plan["versions"]])
            self._server.store = files.store
            # This comes before the leader admits it: then these files count, even if the answer is lost.
            files.finish()

    def _catch_up(self, leader: MemoryClient) -> None:
        """Apply the records that came meanwhile until the leader admits this replica."""
        admitted = False
        while not admitted:
            self._take_over(leader)
            given = {"id": self._config.id, "address": self._server.address, "sequence": self._files.store.sequence}
            admitted = leader.call("admit", **given).content["admitted"]

    def _take_over(self, leader: MemoryClient) -> None:
        store = self._files.store
        while True:
            answer = leader.call("records_after", sequence=store.sequence)
            for record in decode_all(answer):
                store.follow([record], roll=record.sequence in answer.content["firsts"])
            if store.sequence >= answer.content["sequence"]:
                return
