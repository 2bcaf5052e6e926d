"""Replica: one copy of a shard, which leads or follows.

The leader sends every record to the copies that are in sync, and acknowledges a write when it is on the disk of all of
them; one that does not answer is struck off in the directory first. If the leader is gone, a copy that is in sync takes
its place, in an epoch of its own; followers refuse records of an older one. A leader answers only as long as it has
lately seen in the directory that it still leads, and a new one waits until the old one's time is over.

Source: primary-backup replication with a configuration master, as in PacificA,
https://www.microsoft.com/en-us/research/publication/pacifica-replication-in-log-based-distributed-storage-systems/
"""

from __future__ import annotations

import logging
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from actors.errors import ActorError
from actors.memory.client import MemoryClient
from actors.memory.coordinator import Coordinator, ShardState, change
from actors.memory.election import elect
from actors.memory.follower_links import FollowerLinks
from actors.memory.protocol import Answer, Request
from actors.memory.replication_codec import ask_page_words, ask_pages, ask_part, decode_all, to_words, unpack_records
from actors.memory.scrubber import Scrubber, mend
from actors.memory.server import Hooks, MemoryServer, ServerConfig
from actors.memory.shard_ownership import ShardOwnership
from leworld.errors import DamageError, LeWorldError, NotPrimaryError, StoreError
from leworld.memory.ranges import Ints
from leworld.store.durable_store import StoreConfig
from leworld.store.journal.record import encode
from leworld.store.layout import Layout
from leworld.store.mapped_memory import damage
from leworld.store.operations import number, text
from leworld.store.replication.bulk_copy import Source, copy_begin, copy_pages
from leworld.store.replication.replica_store import ReplicaStore
from leworld.store.versions.versions import Version

PEER = "peer"
Operation = Callable[[Request], Answer]
CATCH_UP_BYTES = 8 << 20
LOG = logging.getLogger(__name__)
SILENCES = 2
"""Times that a leader may not answer before another one is elected."""


@dataclass(frozen=True)
class ReplicaConfig:
    """How a copy is kept and how it is reached.

    Attributes:
        shard: name of the shard in the directory; ``id`` of this copy, unlike all others'.
        address_bits: of the memory.
        store: how it is kept.
        server: how it is served; its tokens must know a "peer", and ``peer_token`` is that one's.
        number: of the shard in the map, where the memory has several.
        begins: leads by itself where nobody ever did; else when ``begin`` is called.
        lease_s: how long a leader may answer since it last saw that it leads.
        timeout_s: of a message to another copy, after which that one is struck off.
    """

    shard: str
    id: str
    address_bits: int = 16
    store: StoreConfig = field(default_factory=StoreConfig)
    server: ServerConfig = field(default_factory=ServerConfig)
    peer_token: str = ""
    number: int = 0
    begins: bool = True
    lease_s: float = 2.0
    timeout_s: float = 3.0


class Replica:
    """A copy in a directory of its own, served from ``start`` to ``stop``."""

    def __init__(self, root: str | Path, directory: Coordinator, config: ReplicaConfig) -> None:
        self.root, self.directory, self.config = Path(root), directory, config
        self.epoch, self.leads, self._taking = 0, False, False
        self._lease_until, self._stopping = 0.0, threading.Event()
        self._unfinished = self.root.with_name(self.root.name + ".joining")
        if self._unfinished.exists():
            # A copy that was never finished is of no use.
            shutil.rmtree(self.root, ignore_errors=True)
        self._open_whole()
        self._followers = FollowerLinks(self)
        self._holdings = ShardOwnership(directory, config.number, lambda: self.store)
        try:
            self.server = self._make_server()
        except LeWorldError:
            self.store.close()
            raise
        self._scrubber = Scrubber(lambda: self.store, self._pages_elsewhere)
        self._heart = threading.Thread(target=self._beat, name="replica-heart", daemon=True)

    @property
    def state(self) -> ShardState:
        """What the directory says of the shard."""
        return self.directory.get(self.config.shard)

    def start(self) -> Replica:
        """Serve, follow whoever leads, or lead where nobody ever did."""
        self.server.start()
        state = self._announce(self.state)
        # Where the directory has lost what it knew, a copy cannot know whether it is the newest.
        is_first = self.config.begins and not state.in_sync and not self._was_copy
        try:
            if is_first or state.in_sync == (self.config.id,):
                self.lead()
        except StoreError:
            # All begin at once, and another one was faster: this one follows it.
            if not is_first or not self.state.in_sync:
                raise
        self._heart.start()
        return self

    def begin(self) -> None:
        """Lead, if nobody does, nor is in sync; whoever calls knows that this is no loss."""
        try:
            if not self.state.in_sync:
                self.lead()
        except StoreError:
            if not self.state.in_sync:
                raise

    def wait_until_in_sync(self, timeout_s: float = 60.0) -> None:
        """Return when this copy leads, or follows in sync.

        Raises:
            ActorError: that took too long.
        """
        end = time.monotonic() + timeout_s
        while time.monotonic() < end:
            state = self.state
            follows = self.config.id in state.in_sync and not self._unfinished.exists()
            # Whoever answers may just have taken the lead, in an epoch in which this copy is to join yet.
            if self.leads or (follows and self._answers(state) and self.state.epoch == state.epoch):
                return
            time.sleep(0.02)
        raise ActorError(f"copy {self.config.id} of {self.config.shard}", "is not in sync yet", "see whether one leads")

    def stop(self) -> None:
        """End, without telling anybody."""
        self._stopping.set()
        if self._heart.ident is not None:
            self._heart.join()
        self.server.stop()
        self._followers.hang_up()
        self.store.close()

    def lead(self) -> None:
        """Take the lead in a new epoch, with this copy alone; others join again.

        Raises:
            StoreError: this copy is not in sync, or another one was faster.
        """
        before = self.state
        if before.in_sync and self.config.id not in before.in_sync:
            raise StoreError(f"copy {self.config.id} of {self.config.shard} is not in sync: it must not lead")
        if self._unfinished.exists():
            raise StoreError(f"copy {self.config.id} of {self.config.shard} is not whole yet: it must not lead")
        if self.store.is_stopped:
            self._reopen()
        addresses = {**before.addresses, self.config.id: self.server.address}
        parts = {"epoch": before.epoch + 1, "primary": self.config.id, "in_sync": (self.config.id,)}
        after = change(self.directory, self.config.shard, before, addresses=addresses, **parts)
        if after is None:
            raise StoreError(f"another copy of {self.config.shard} was faster to lead")
        self._taking = True
        try:
            self._followers.hang_up()
            self._adopt(after.epoch)
            if before.primary:
                # The old leader may go on answering for as long as its lease lasts. That may not be the one of before,
                # but an older one, if this copy or another one was ended while it waited here.
                time.sleep(self.config.lease_s)
            self.store.lead(self._followers)
            self.server.names.forget()
            # Not before: up to here the old leader may have been told of a newer map.
            self._holdings.look_up()
            self._see_that_it_leads(time.monotonic(), after)
        finally:
            self._taking = False

    def join(self) -> None:
        """Become a copy in sync of whoever leads.

        Raises:
            ActorError: the leader does not answer.
        """
        state = self.state
        with self._link(state.addresses[state.primary]) as leader:
            self._copy(leader)
            self._catch_up(leader)

    def _open_whole(self) -> None:
        """Open the memory; what is damaged is set aside, and what is gone is no copy until it was made anew.

        Raises:
            DamageError: it is damaged, and no other copy has what it held.
            StoreError: it is gone, and no other copy has what it held.
        """
        name, in_sync = f"copy {self.config.id} of {self.config.shard}", self.state.in_sync
        was_here = Layout(self.root).identity.exists()
        self._was_copy = Layout(self.root).epoch.exists()
        if self.config.id in in_sync and not was_here and not self._unfinished.exists():
            if len(in_sync) == 1:
                raise StoreError(
                    f"{self.root}: {name} is not here, and it is the only one: start it where its files are"
                )
            self._unfinished.touch()
        try:
            self._open()
        except DamageError as error:
            if not set(in_sync) - {self.config.id}:
                raise
            aside = self.root.with_name(f"{self.root.name}.damaged-{time.time_ns()}")
            LOG.warning("%s: set aside as %s, and made anew from another copy", error, aside)
            self._unfinished.touch()
            self.root.rename(aside)
            self._open()

    def _open(self) -> None:
        # Nobody may read it beside this process before it leads, not even for a moment: with an epoch there is a lease.
        self.store = ReplicaStore.open_or_create(self.root, self.config.address_bits, self.config.store)
        self.epoch = self.store.epoch

    def _reopen(self) -> None:
        """Open the store anew after a write that was cut off, which is made then, as it may be with other copies."""
        with self.server.exchange():
            self.store.abandon()
            self._open()
            self.server.store = self.store

    def _make_server(self) -> MemoryServer:
        own = {
            function.__name__: function
            for function in (
                self.ping, self.follow, self.follow_versions, self.copy_begin, self.copy_part, self.copy_pages,
                self.records_after, self.admit, self.take_lead, self.page_words,
            )
        }  # fmt: skip
        leading = {name: self._as_leader(function) for name, function in self._holdings.operations.items()}
        hooks = Hooks(self._check_leads, self._holdings.check, self._mend, {**own, **leading})
        return MemoryServer(self.store, self.config.server, hooks)

    def _as_leader(self, function: Operation) -> Operation:
        def operation(request: Request) -> Answer:
            self._check_leads()
            return function(request)

        return operation

    # What other copies ask; each is called in the server's writing thread.

    def ping(self, request: Request) -> Answer:
        """Who this is, and how far it is."""
        leads = self.leads and time.monotonic() < self._lease_until
        content = {"id": self.config.id, "epoch": self.epoch, "leads": leads, "sequence": self.store.sequence}
        return Answer(request.id, {**content, "leads_soon": leads or self._taking})

    def follow(self, request: Request) -> Answer:
        """Take over records of the leader's."""
        self._check_epoch(request.arguments)
        records = unpack_records(request)
        self.store.follow(records, roll=bool(request.arguments.get("roll")))
        return Answer(request.id, {"sequence": self.store.sequence})

    def follow_versions(self, request: Request) -> Answer:
        """Keep the versions that the leader keeps."""
        self._check_epoch(request.arguments)
        self.store.follow_versions([Version(**row) for row in request.arguments["versions"]])
        return Answer(request.id, {})

    def page_words(self, request: Request) -> Answer:
        """Those of pages that are whole here: their numbers, then their words."""
        pages, words = self.store.whole_pages(request.words.astype(np.int64))
        joined = np.concatenate([pages.astype(np.uint32), words.reshape(-1)])
        return Answer(request.id, {"num_pages": len(pages)}, joined)

    def copy_begin(self, request: Request) -> Answer:
        """What there is to copy."""
        self._check_leads()
        name = text(request.arguments, "id")
        if name in self.state.in_sync:
            # What it has is about to go.
            self.strike_off([name])
        return Answer(request.id, {**Source(self.store).begin(name), "epoch": self.epoch})

    def copy_part(self, request: Request) -> Answer:
        """Some bytes of a file."""
        arguments = request.arguments
        data = Source(self.store).part(text(arguments, "name"), number(arguments, "offset", 0, 1 << 62))
        return Answer(request.id, {"num_bytes": len(data)}, to_words(data))

    def copy_pages(self, request: Request) -> Answer:
        """Some pages: their numbers, then their words."""
        pages, words = Source(self.store).pages(number(request.arguments, "after", -1, 1 << 32))
        joined = np.concatenate([pages.astype(np.uint32), words.reshape(-1)])
        return Answer(request.id, {"num_pages": len(pages)}, joined)

    def records_after(self, request: Request) -> Answer:
        """Some records after one."""
        sequence = number(request.arguments, "sequence", 0, 1 << 62)
        records, firsts = self.store.records_after(sequence, CATCH_UP_BYTES)
        data = b"".join(part for record in records for part in encode(record))
        content = {"num_bytes": len(data), "firsts": firsts, "sequence": self.store.sequence}
        return Answer(request.id, content, to_words(data))

    def admit(self, request: Request) -> Answer:
        """Take a copy that has caught up among those in sync."""
        self._check_leads()
        name, address = text(request.arguments, "id"), text(request.arguments, "address")
        if number(request.arguments, "sequence", 0, 1 << 62) != self.store.sequence:
            return Answer(request.id, {"admitted": False})
        link = self._link(address)
        answer = link.call("follow", epoch=self.epoch, roll=False, num_bytes=0)
        if answer.content["sequence"] != self.store.sequence:
            # The question was long on its way, and the copy has begun anew meanwhile.
            link.close()
            return Answer(request.id, {"admitted": False})
        self._replace(lambda state: {
            "in_sync": tuple(dict.fromkeys((*state.in_sync, name))), "addresses": {**state.addresses, name: address},
        })  # fmt: skip
        self._followers.add(name, link)
        self.store.unpin(name)
        return Answer(request.id, {"admitted": True, "epoch": self.epoch})

    def take_lead(self, request: Request) -> Answer:
        """Lead, as the leader of an epoch is gone; nothing happens where one has taken over already, be it this one."""
        epoch = number(request.arguments, "epoch", 0, 1 << 62)
        if self.state.epoch == epoch and not (self.epoch == epoch and self._may_answer):
            self.lead()
        return Answer(request.id, {"epoch": self.epoch})

    # As a leader.

    def strike_off(self, names: Sequence[str]) -> None:
        """Have copies that do not answer no longer count as in sync.

        Raises:
            NotPrimaryError: this copy does not lead any more.
        """
        self._replace(lambda state: {"in_sync": tuple(name for name in state.in_sync if name not in names)})
        self._followers.hang_up(names)

    def _replace(self, parts: Callable[[ShardState], dict[str, Any]]) -> None:
        """Change the directory's state, as long as this copy leads."""
        while True:
            state = self.state
            if (state.primary, state.epoch) != (self.config.id, self.epoch):
                self.step_down()
                raise NotPrimaryError(f"copy {self.config.id} of {self.config.shard} does not lead any more")
            if change(self.directory, self.config.shard, state, **parts(state)) is not None:
                return

    @property
    def _may_answer(self) -> bool:
        return self.leads and time.monotonic() < self._lease_until and not self.store.is_stopped

    def _check_leads(self) -> None:
        if not self._may_answer:
            address = ""
            with suppress(LeWorldError, OSError):
                state = self.state
                address = state.addresses.get(state.primary, "")
            raise NotPrimaryError(f"copy {self.config.id} of {self.config.shard} does not lead", address)

    def check_still_leads(self) -> None:
        """See in the directory whether this copy leads, if that is longer ago than a lease.

        Raises:
            NotPrimaryError: it does not.
        """
        if self.leads and time.monotonic() >= self._lease_until:
            self._see_that_it_leads(time.monotonic(), self.state)
        self._check_leads()

    def _see_that_it_leads(self, seen_at: float, state: ShardState) -> None:
        # Who cannot write must not lead: another copy takes over, or this one when it has opened its store anew.
        if (state.primary, state.epoch) != (self.config.id, self.epoch) or self.store.is_stopped:
            self.step_down()
            return
        self.leads = True
        self._lease_until = seen_at + self.config.lease_s
        self.store.lease_until(self._lease_until)

    def step_down(self) -> None:
        """Lead no more."""
        self.leads = False
        self.store.lease_until(0.0)

    def _beat(self) -> None:
        """See again and again who leads, and do what is missing."""
        silent = 0
        while not self._stopping.wait(self.config.lease_s / 4):
            now = time.monotonic()
            try:
                state = self._announce(self.state)
                if not state.in_sync:
                    continue
                if self.leads:
                    self._see_that_it_leads(now, state)
                elif self.config.id not in state.in_sync or self._unfinished.exists():
                    self.join()
                elif self._answers(state):
                    silent = 0
                else:
                    silent += 1
                    if silent > SILENCES:
                        silent = 0
                        elect(self.directory, self.config.shard, self.config.peer_token)
                self._scrubber.step()
            except (LeWorldError, OSError):
                # Neither directory nor leader can be reached: a lease runs out by itself, and the next beat comes.
                continue

    def _announce(self, state: ShardState) -> ShardState:
        """Say in the directory where this copy is now, if it was elsewhere before; the state of now.

        Else nobody could ask one that was started again to lead.
        """
        name, address = self.config.id, self.server.address
        if state.addresses.get(name, address) == address:
            return state
        after = change(self.directory, self.config.shard, state, addresses={**state.addresses, name: address})
        # Where someone else was first, the next beat tries again.
        return state if after is None else after

    def _mend(self, pages: Sequence[int]) -> None:
        """Put damaged pages right from a follower that has them whole.

        Raises:
            DamageError: none has.
        """
        left = mend(self.store, np.array(pages, np.int64), self._followers.pages)
        if len(left):
            raise damage(self.root, left)

    def _pages_elsewhere(self, pages: Ints) -> Iterator[tuple[Ints, NDArray[np.uint32]]]:
        """Those that the other copies in sync have whole, asked anew; not in the writing thread."""
        state = self.state
        for name in set(state.in_sync) - {self.config.id}:
            with suppress(LeWorldError), self._link(state.addresses[name]) as other:
                yield ask_page_words(other, pages)

    def _answers(self, state: ShardState) -> bool:
        """Whether the leader does, or is about to lead."""
        address, config = state.addresses[state.primary], self.config
        try:
            with MemoryClient(address, config.peer_token, config.lease_s / 2, address_bits=8) as leader:
                answer = leader.call("ping").content
                # One that was started again knows its epoch, but does not lead.
                return answer["epoch"] >= state.epoch and answer["leads_soon"]
        except LeWorldError:
            return False

    # As a follower.

    def _adopt(self, epoch: int) -> None:
        self.epoch = epoch
        self.store.promise(epoch)

    def _check_epoch(self, arguments: Mapping[str, Any]) -> None:
        epoch = number(arguments, "epoch", 0, 1 << 62)
        if epoch < self.epoch:
            raise NotPrimaryError(f"epoch {epoch} is over: copy {self.config.id} follows epoch {self.epoch}", "")
        if epoch > self.epoch:
            self.step_down()
            self._adopt(epoch)

    def _copy(self, leader: MemoryClient) -> None:
        """Begin anew as a copy of the leader's memory."""
        plan = leader.call("copy_begin", id=self.config.id).content
        with self.server.exchange():
            self.store.abandon()
            self._unfinished.touch()
            shutil.rmtree(self.root)
            copy_begin(self.root, plan, lambda name, offset: ask_part(leader, name, offset))
            copy_pages(self.root, plan["sequence"], lambda after: ask_pages(leader, after))
            self._open()
            # Else it would follow whoever led before.
            self._adopt(plan["epoch"])
            self.store.follow_versions([Version(**row) for row in plan["versions"]])
            self.server.store = self.store
            # Before the leader admits it: from then on, what is here counts, whether that answer arrives or not.
            self._unfinished.unlink()

    def _catch_up(self, leader: MemoryClient) -> None:
        """Take over what came meanwhile, until the leader admits this copy."""
        while True:
            self._take_over(leader)
            asked = {"id": self.config.id, "address": self.server.address, "sequence": self.store.sequence}
            answer = leader.call("admit", **asked).content
            if answer["admitted"]:
                return

    def _take_over(self, leader: MemoryClient) -> None:
        while True:
            answer = leader.call("records_after", sequence=self.store.sequence)
            records = decode_all(answer)
            for record in records:
                self.store.follow([record], roll=record.sequence in answer.content["firsts"])
            if self.store.sequence >= answer.content["sequence"]:
                return

    def _link(self, address: str) -> MemoryClient:
        config = self.config
        return MemoryClient(address, config.peer_token, config.timeout_s, address_bits=config.address_bits)
