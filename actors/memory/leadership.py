"""Leadership of a replica: its epoch, its lease, and its changes at the coordinator.

A leader answers only while its lease lasts; the coordinator must confirm it to renew the lease.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from actors.memory.coordinator import Coordinator, ShardState, change
from actors.memory.follower_links import FollowerLinks
from actors.memory.replica_config import ReplicaConfig
from actors.memory.replica_files import ReplicaFiles
from leworld.errors import LeWorldError, NotPrimaryError


class Leadership:
    """The leadership of one replica.

    Attributes:
        epoch: in which it leads or follows.
        leads: whether it leads; ``is_taking``: whether it is about to lead.
        lease_until: time.monotonic() up to which it may answer.
        followers: its links to its followers.
    """

    def __init__(self, config: ReplicaConfig, coordinator: Coordinator, files: ReplicaFiles) -> None:
        self._config, self._coordinator, self._files = config, coordinator, files
        self.epoch, self.leads, self.is_taking, self.lease_until = files.store.epoch, False, False, 0.0
        self.followers = FollowerLinks(self)

    @property
    def state(self) -> ShardState:
        """Return the coordinator's state of the shard."""
        return self._coordinator.get(self._config.shard)

    def change(self, before: ShardState, **parts: Any) -> ShardState | None:
        """Replace the coordinator's state and return the new one; None if another process was first."""
        return change(self._coordinator, self._config.shard, before, **parts)

    @property
    def holds_lease(self) -> bool:
        """Whether it leads and its lease lasts."""
        return self.leads and time.monotonic() < self.lease_until

    @property
    def may_answer(self) -> bool:
        """Whether it holds its lease and its store can be used."""
        return self.holds_lease and not self._files.store.is_stopped

    def check_leads(self) -> None:
        """Raise NotPrimaryError if it may not answer."""
        if not self.may_answer:
            address = ""
            with suppress(LeWorldError, OSError):
                state = self.state
                address = state.addresses.get(state.leader, "")
            raise NotPrimaryError(f"{self._config} does not lead", address)

    def check_still_leads(self) -> None:
        """Check at the coordinator that this replica leads, if its lease is over.

        Raises:
            NotPrimaryError: it does not lead.
        """
        if self.leads and time.monotonic() >= self.lease_until:
            self.renew_lease(time.monotonic(), self.state)
        self.check_leads()

    def renew_lease(self, seen_at: float, state: ShardState) -> None:
        """Extend the lease if the given state names this replica as leader."""
        # A replica that cannot write must not lead: another takes over, or this one after it opens its store again.
        if not self._is_leader_of(state) or self._files.store.is_stopped:
            self.step_down()
            return
        self.leads = True
        self.lease_until = seen_at + self._config.lease_s
        self._files.store.lease_until(self.lease_until)

    def step_down(self) -> None:
        """Stop leading."""
        self.leads = False
        self._files.store.lease_until(0.0)

    def adopt(self, epoch: int) -> None:
        """Lead or follow in an epoch from now on."""
        self.epoch = epoch
        self._files.store.promise(epoch)

    def check_epoch(self, epoch: int) -> None:
        """Follow a leader of this epoch or a newer one.

        Raises:
            NotPrimaryError: the epoch is over.
        """
        if epoch < self.epoch:
            raise NotPrimaryError(f"epoch {epoch} is over: {self._config} follows epoch {self.epoch}", "")
        if epoch > self.epoch:
            self.step_down()
            self.adopt(epoch)

    def strike_off(self, names: Sequence[str]) -> None:
        """Remove replicas that do not answer from those in sync.

        Raises:
            NotPrimaryError: this replica no longer leads.
        """
        self.replace_state(lambda state: {"in_sync": tuple(name for name in state.in_sync if name not in names)})
        self.followers.hang_up(names)

    def replace_state(self, parts: Callable[[ShardState], dict[str, Any]]) -> None:
        """Change the coordinator's state while this replica leads.

        Raises:
            NotPrimaryError: it no longer leads.
        """
        while True:
            state = self.state
            if not self._is_leader_of(state):
                self.step_down()
                raise NotPrimaryError(f"{self._config} does not lead any more")
            if self.change(state, **parts(state)) is not None:
                return

    def _is_leader_of(self, state: ShardState) -> bool:
        return (state.leader, state.epoch) == (self._config.id, self.epoch)
