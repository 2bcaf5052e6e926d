"""Replica: one of several replicas of a shard, which leads or follows.

The leader sends every record to the replicas in sync and acknowledges a write when all of them have it on disk. It
first removes a replica that does not answer from those in sync. If the leader is lost, a replica in sync leads in a
new epoch; followers refuse records of an older epoch. A new leader waits until the lease of the old one is over.

Source: primary-backup replication with a configuration master, as in PacificA,
https://www.microsoft.com/en-us/research/publication/pacifica-replication-in-log-based-distributed-storage-systems/
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from actors.errors import ActorError
from actors.memory.catch_up import CatchUp
from actors.memory.coordinator import Coordinator, ShardState
from actors.memory.election import elect
from actors.memory.leadership import Leadership
from actors.memory.replica_config import ReplicaConfig
from actors.memory.replica_files import ReplicaFiles
from actors.memory.replica_requests import ReplicaRequests
from actors.memory.replication_codec import call_page_words
from actors.memory.scrubber import Scrubber, mend
from actors.memory.server import Hooks, MemoryServer
from actors.memory.shard_ownership import ShardOwnership
from actors.rpc.retry import Pause, attempts
from leworld.errors import LeWorldError, StoreError
from leworld.memory.ranges import Ints
from leworld.store.mapped_memory import damage
from leworld.store.replication.replica_store import ReplicaStore

SILENCES = 2
"""Times that a leader may not answer before another one is elected."""


class Replica:
    """A replica in a directory of its own, served from ``start`` to ``stop``."""

    def __init__(self, root: str | Path, coordinator: Coordinator, config: ReplicaConfig) -> None:
        self.coordinator, self.config = coordinator, config
        self.files = ReplicaFiles(Path(root), config, coordinator.get(config.shard).in_sync)
        self.leadership = Leadership(config, coordinator, self.files)
        self.requests = ReplicaRequests(config, self.files, self.leadership, self.lead)
        self._ownership = ShardOwnership(coordinator, config.number, lambda: self.store)
        try:
            self.server = self._make_server()
        except LeWorldError:
            self.store.close()
            raise
        self.catch_up = CatchUp(config, self.files, self.leadership, self.server)
        self._scrubber = Scrubber(lambda: self.store, self._pages_elsewhere)
        self._stopping, self._silences = threading.Event(), 0
        self._heart = threading.Thread(target=self._beat_until_the_end, name="replica-heart", daemon=True)

    @property
    def store(self) -> ReplicaStore:
        """Return the current store."""
        return self.files.store

    @property
    def state(self) -> ShardState:
        """Return the coordinator's state of the shard."""
        return self.leadership.state

    def start(self) -> Replica:
        """Start to serve: follow the leader, or lead if the shard never had a leader."""
        self.server.start()
        state = self._announce(self.state)
        # If the coordinator lost its state, a replica cannot know whether it is the newest.
        is_first = self.config.begins and not state.in_sync and not self.files.was_replica
        try:
            if is_first or state.in_sync == (self.config.id,):
                self.lead()
        except StoreError:
            # All begin at once; another was faster, so this one follows it.
            if not is_first or not self.state.in_sync:
                raise
        self._heart.start()
        return self

    def begin(self) -> None:
        """Lead if there is no leader and no replica in sync; the caller knows that nothing is lost by it."""
        try:
            if not self.state.in_sync:
                self.lead()
        except StoreError:
            if not self.state.in_sync:
                raise

    def wait_until_in_sync(self, timeout_s: float = 60.0) -> None:
        """Return when this replica leads, or follows in sync.

        Raises:
            ActorError: that took too long.
        """
        for _ in attempts(timeout_s, Pause(0.02)):
            state = self.state
            follows = self.config.id in state.in_sync and not self.files.is_unfinished
            # The replica that answers may be a new leader whose epoch this replica has not joined yet.
            if self.leadership.leads or (follows and self._answers(state) and self.state.epoch == state.epoch):
                return
        raise ActorError(str(self.config), "is not in sync yet", "see whether one leads")

    def stop(self) -> None:
        """Stop without telling others."""
        self._stopping.set()
        if self._heart.ident is not None:
            self._heart.join()
        self.server.stop()
        self.leadership.followers.hang_up()
        self.store.close()

    def lead(self) -> None:
        """Lead in a new epoch with this replica alone; the others join again.

        Raises:
            StoreError: this replica is not in sync, or another was faster.
        """
        before, mine = self.state, self.leadership
        if before.in_sync and self.config.id not in before.in_sync:
            raise StoreError(f"{self.config} is not in sync: it must not lead")
        if self.files.is_unfinished:
            raise StoreError(f"{self.config} is not whole yet: it must not lead")
        if self.store.is_stopped:
            self._reopen()
        addresses = {**before.addresses, self.config.id: self.server.address}
        parts = {"epoch": before.epoch + 1, "leader": self.config.id, "in_sync": (self.config.id,)}
        after = mine.change(before, addresses=addresses, **parts)
        if after is None:
            raise StoreError(f"another replica of {self.config.shard} was faster to lead")
        mine.is_taking = True
        try:
            mine.followers.hang_up()
            mine.adopt(after.epoch)
            if before.leader:
                # The old leader may go on answering for as long as its lease lasts. That may not be the one of before,
                # but an older one, if this replica or another one was ended while it waited here.
                time.sleep(self.config.lease_s)
            self.store.lead(mine.followers)
            self.server.names.forget()
            # Not earlier: until here the old leader may have received a newer map.
            self._ownership.look_up()
            mine.renew_lease(time.monotonic(), after)
        finally:
            mine.is_taking = False

    def _reopen(self) -> None:
        with self.server.exchange():
            self.files.reopen()
            self.leadership.epoch = self.store.epoch
            self.server.store = self.store

    def _make_server(self) -> MemoryServer:
        operations = {**self.requests.operations, **self.requests.only_as_leader(self._ownership.operations)}
        hooks = Hooks(self.leadership.check_leads, self._ownership.check, self._mend, operations)
        return MemoryServer(self.store, self.config.server, hooks)

    def _beat_until_the_end(self) -> None:
        while not self._stopping.wait(self.config.lease_s / 4):
            # Without coordinator or leader the lease ends by itself; the next beat tries again.
            with suppress(LeWorldError, OSError):
                self._beat()

    def _beat(self) -> None:
        """Look up the leader and act on the difference."""
        now, state = time.monotonic(), self._announce(self.state)
        if not state.in_sync:
            return
        if self.leadership.leads:
            self.leadership.renew_lease(now, state)
        elif self.config.id not in state.in_sync or self.files.is_unfinished:
            self.catch_up.join()
        elif self._answers(state):
            self._silences = 0
        else:
            self._silences += 1
            if self._silences > SILENCES:
                self._silences = 0
                elect(self.coordinator, self.config.shard, self.config.peer_token)
        self._scrubber.step()

    def _announce(self, state: ShardState) -> ShardState:
        """Record this replica's new address at the coordinator; return the current state.

        Otherwise no client could make a restarted replica lead.
        """
        name, address = self.config.id, self.server.address
        if state.addresses.get(name, address) == address:
            return state
        # If another process was first, the next beat tries again.
        return self.leadership.change(state, addresses={**state.addresses, name: address}) or state

    def _answers(self, state: ShardState) -> bool:
        """Whether the leader answers and leads, or is about to lead."""
        try:
            with self.config.link(state.addresses[state.leader], self.config.lease_s / 2) as leader:
                answer = leader.call("ping").content
                # A restarted replica knows its epoch but does not lead.
                return answer["epoch"] >= state.epoch and answer["leads_soon"]
        except LeWorldError:
            return False

    def _mend(self, pages: Sequence[int]) -> None:
        """Repair damaged pages from a follower that has them undamaged.

        Raises:
            DamageError: no follower has them.
        """
        left = mend(self.store, np.array(pages, np.int64), self.leadership.followers.pages)
        if len(left):
            raise damage(self.files.root, left)

    def _pages_elsewhere(self, pages: Ints) -> Iterator[tuple[Ints, NDArray[np.uint32]]]:
        """Yield the pages that other replicas in sync have undamaged; not called in the writing thread."""
        state = self.state
        for name in set(state.in_sync) - {self.config.id}:
            with suppress(LeWorldError), self.config.link(state.addresses[name]) as other:
                yield call_page_words(other, pages)
