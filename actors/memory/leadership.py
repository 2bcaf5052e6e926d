"""Leadership of a replica: its epoch, its lease, and what it changes at the coordinator as a leader.

A leader answers only as long as it has lately seen at the coordinator that it still leads.
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
    """Of one replica.

    Attributes:
        epoch: that it leads or follows in.
        leads: whether it leads; ``is_taking``: whether it is about to.
        lease_until: time.monotonic() up to which it may answer.
        followers: its links to the replicas that follow it.
    """

    def __init__(self, config: ReplicaConfig, coordinator: Coordinator, files: ReplicaFiles) -> None:
        self._config, self._coordinator, self._files = config, coordinator, files
        self.epoch, self.leads, self.is_taking, self.lease_until = files.store.epoch, False, False, 0.0
        self.followers = FollowerLinks(self)

    @property
    def state(self) -> ShardState:
        """What the coordinator says of the shard."""
        return self._coordinator.get(self._config.shard)

    def change(self, before: ShardState, **parts: Any) -> ShardState | None:
        """Another state at the coordinator in place of one; None where someone else was first."""
        return change(self._coordinator, self._config.shard, before, **parts)

    @property
    def holds_lease(self) -> bool:
        """Whether it leads, and saw so lately."""
        return self.leads and time.monotonic() < self.lease_until

    @property
    def may_answer(self) -> bool:
        """Whether it leads and its store can be used."""
        return self.holds_lease and not self._files.store.is_stopped

    def check_leads(self) -> None:
        """Raise NotPrimaryError where it may not answer."""
        if not self.may_answer:
            address = ""
            with suppress(LeWorldError, OSError):
                state = self.state
                address = state.addresses.get(state.leader, "")
            raise NotPrimaryError(f"{self._config} does not lead", address)

    def check_still_leads(self) -> None:
        """See at the coordinator whether this replica leads, if that is longer ago than a lease.

        Raises:
            NotPrimaryError: it does not.
        """
        if self.leads and time.monotonic() >= self.lease_until:
            self.renew_lease(time.monotonic(), self.state)
        self.check_leads()

    def renew_lease(self, seen_at: float, state: ShardState) -> None:
        """Lead for a lease more, if the state that was seen says so."""
        # Who cannot write must not lead: another replica takes over, or this one when it has opened its store again.
        if not self._is_leader_of(state) or self._files.store.is_stopped:
            self.step_down()
            return
        self.leads = True
        self.lease_until = seen_at + self._config.lease_s
        self._files.store.lease_until(self.lease_until)

    def step_down(self) -> None:
        """Lead no more."""
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
        """Have replicas that do not answer no longer count as in sync.

        Raises:
            NotPrimaryError: this replica does not lead any more.
        """
        self.replace_state(lambda state: {"in_sync": tuple(name for name in state.in_sync if name not in names)})
        self.followers.hang_up(names)

    def replace_state(self, parts: Callable[[ShardState], dict[str, Any]]) -> None:
        """Change the coordinator's state, as long as this replica leads.

        Raises:
            NotPrimaryError: it does not lead any more.
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
