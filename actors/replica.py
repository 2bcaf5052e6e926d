"""Replica: one copy of a shard, which leads or follows.

The leader sends every record to the copies that are in sync, and acknowledges a write when it is on the disk of all of
them; one that does not answer is struck off in the directory first. If the leader is gone, a copy that is in sync takes
its place, in an epoch of its own; followers refuse records of an older one. A leader answers only as long as it has
lately seen in the directory that it still leads, and a new one waits until the old one's time is over.

Source: primary-backup replication with a configuration master, as in PacificA,
https://www.microsoft.com/en-us/research/publication/pacifica-replication-in-log-based-distributed-storage-systems/
"""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from actors.directory import Directory, ShardState, change
from actors.errors import ActorError
from actors.memory_client import MemoryClient, Pending
from actors.memory_server import MemoryServer, ServerConfig
from actors.memory_wire import Answer, Request
from leworld.errors import LeWorldError, NotPrimaryError, StoreError
from leworld.memory import PAGE_WORDS
from leworld.store.copying import Source, copy_begin, copy_pages
from leworld.store.durable import StoreConfig, open_store
from leworld.store.operations import number, text
from leworld.store.records import Record, decode_at, encode
from leworld.store.versions import Version

PEER = "peer"
CATCH_UP_BYTES = 8 << 20
SILENCES = 2
"""Times that a leader may not answer before another one is elected."""
TAKE_LEAD_S = 5.0
"""After that long another copy is asked to lead: the first one may have been lost just then."""


@dataclass(frozen=True)
class ReplicaConfig:
    """How a copy is kept and how it is reached.

    Attributes:
        shard: name of the shard in the directory; ``id`` of this copy, unlike all others'.
        address_bits: of the memory.
        store: how it is kept.
        server: how it is served; its tokens must know a "peer", and ``peer_token`` is that one's.
        lease_s: how long a leader may answer since it last saw that it leads.
        timeout_s: of a message to another copy, after which that one is struck off.
    """

    shard: str
    id: str
    address_bits: int = 16
    store: StoreConfig = field(default_factory=StoreConfig)
    server: ServerConfig = field(default_factory=ServerConfig)
    peer_token: str = ""
    lease_s: float = 2.0
    timeout_s: float = 3.0


class Replica:
    """A copy in a directory of its own, served from ``start`` to ``stop``."""

    def __init__(self, root: str | Path, directory: Directory, config: ReplicaConfig) -> None:
        self.root, self.directory, self.config = Path(root), directory, config
        self.epoch, self.leads, self._taking = 0, False, False
        self._lease_until, self._stopping = 0.0, threading.Event()
        self._unfinished = self.root.with_name(self.root.name + ".joining")
        if self._unfinished.exists():
            # A copy that was never finished is of no use.
            shutil.rmtree(self.root, ignore_errors=True)
        self._open()
        self.server = self._make_server()
        self._links: dict[str, MemoryClient] = {}
        self._heart = threading.Thread(target=self._beat, name="replica-heart", daemon=True)

    @property
    def state(self) -> ShardState:
        """What the directory says of the shard."""
        return self.directory.get(self.config.shard)

    def start(self) -> Replica:
        """Serve, follow whoever leads, or lead where nobody ever did."""
        self.server.start()
        state = self.state
        if not state.in_sync or state.in_sync == (self.config.id,):
            self.lead()
        self._heart.start()
        return self

    def wait_until_in_sync(self, timeout_s: float = 60.0) -> None:
        """Return when this copy leads, or follows in sync.

        Raises:
            ActorError: that took too long.
        """
        end = time.monotonic() + timeout_s
        while time.monotonic() < end:
            if self.leads or (self.config.id in self.state.in_sync and not self._unfinished.exists()):
                return
            time.sleep(0.02)
        raise ActorError(f"copy {self.config.id} of {self.config.shard}", "is not in sync yet", "see whether one leads")

    def stop(self) -> None:
        """End, without telling anybody."""
        self._stopping.set()
        self._heart.join()
        self.server.stop()
        self._hang_up()
        self.store.close()

    def lead(self) -> None:
        """Take the lead in a new epoch, with this copy alone; others join again.

        Raises:
            StoreError: this copy is not in sync, or another one was faster.
        """
        before = self.state
        if before.in_sync and self.config.id not in before.in_sync:
            raise StoreError(f"copy {self.config.id} of {self.config.shard} is not in sync: it must not lead")
        if self.store.is_stopped:
            self._reopen()
        addresses = {**before.addresses, self.config.id: self.server.address}
        parts = {"epoch": before.epoch + 1, "primary": self.config.id, "in_sync": (self.config.id,)}
        after = change(self.directory, self.config.shard, before, addresses=addresses, **parts)
        if after is None:
            raise StoreError(f"another copy of {self.config.shard} was faster to lead")
        self._taking = True
        try:
            self._hang_up()
            self._adopt(after.epoch)
            if before.primary:
                # The old leader may go on answering for as long as its lease lasts. That may not be the one of before,
                # but an older one, if this copy or another one was ended while it waited here.
                time.sleep(self.config.lease_s)
            self.store.lead(_Followers(self))
            self.server.forget_names()
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

    def _open(self) -> None:
        # Nobody may read it beside this process before it leads, not even for a moment: with an epoch there is a lease.
        self.store = open_store(self.root, self.config.address_bits, self.config.store, epoch=1)
        self.epoch = self.store.epoch

    def _reopen(self) -> None:
        """Open the store anew after a write that was cut off, which is made then, as it may be with other copies."""
        with self.server.exchange():
            self.store.abandon()
            self._open()
            self.server.store = self.store

    def _make_server(self) -> MemoryServer:
        operations = {
            function.__name__: function
            for function in (
                self.ping, self.follow, self.follow_versions, self.copy_begin, self.copy_part, self.copy_pages,
                self.records_after, self.admit, self.take_lead,
            )
        }  # fmt: skip
        return MemoryServer(self.store, self.config.server, gate=self._check_leads, peer_operations=operations)

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
        answer = link.ask("follow", epoch=self.epoch, roll=False, num_bytes=0)
        if answer.content["sequence"] != self.store.sequence:
            # The question was long on its way, and the copy has begun anew meanwhile.
            link.close()
            return Answer(request.id, {"admitted": False})
        self._replace(lambda state: {
            "in_sync": tuple(dict.fromkeys((*state.in_sync, name))), "addresses": {**state.addresses, name: address},
        })  # fmt: skip
        self._links[name] = link
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
            StoreError: this copy does not lead any more.
        """
        self._replace(lambda state: {"in_sync": tuple(name for name in state.in_sync if name not in names)})
        for name in names:
            link = self._links.pop(name, None)
            if link is not None:
                link.close()

    def _replace(self, parts: Callable[[ShardState], dict[str, Any]]) -> None:
        """Change the directory's state, as long as this copy leads."""
        while True:
            state = self.state
            if (state.primary, state.epoch) != (self.config.id, self.epoch):
                self._step_down()
                raise StoreError(f"copy {self.config.id} of {self.config.shard} does not lead any more")
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
            self._step_down()
            return
        self.leads = True
        self._lease_until = seen_at + self.config.lease_s
        self.store.lease_until(self._lease_until)

    def _step_down(self) -> None:
        self.leads = False
        self.store.lease_until(0.0)

    def _beat(self) -> None:
        """See again and again who leads, and do what is missing."""
        silent = 0
        while not self._stopping.wait(self.config.lease_s / 4):
            now = time.monotonic()
            try:
                state = self.state
                if self.leads:
                    self._see_that_it_leads(now, state)
                elif self.config.id not in state.in_sync:
                    self.join()
                elif self._answers(state):
                    silent = 0
                else:
                    silent += 1
                    if silent > SILENCES:
                        silent = 0
                        elect(self.directory, self.config.shard, self.config.peer_token)
            except (LeWorldError, OSError):
                # Neither directory nor leader can be reached: a lease runs out by itself, and the next beat comes.
                continue

    def _answers(self, state: ShardState) -> bool:
        """Whether the leader does, or is about to lead."""
        address, config = state.addresses[state.primary], self.config
        try:
            with MemoryClient(address, config.peer_token, config.lease_s / 2, address_bits=8) as leader:
                answer = leader.ask("ping").content
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
            self._step_down()
            self._adopt(epoch)

    def _copy(self, leader: MemoryClient) -> None:
        """Begin anew as a copy of the leader's memory."""
        plan = leader.ask("copy_begin", id=self.config.id).content
        with self.server.exchange():
            self.store.abandon()
            self._unfinished.touch()
            shutil.rmtree(self.root)
            copy_begin(self.root, plan, lambda name, offset: _part(leader, name, offset))
            copy_pages(self.root, plan["sequence"], lambda after: _pages(leader, after))
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
            answer = leader.ask("admit", **asked).content
            if answer["admitted"]:
                return

    def _take_over(self, leader: MemoryClient) -> None:
        while True:
            answer = leader.ask("records_after", sequence=self.store.sequence)
            records = decode_all(answer)
            for record in records:
                self.store.follow([record], roll=record.sequence in answer.content["firsts"])
            if self.store.sequence >= answer.content["sequence"]:
                return

    def _link(self, address: str) -> MemoryClient:
        config = self.config
        return MemoryClient(address, config.peer_token, config.timeout_s, address_bits=config.address_bits)

    def _hang_up(self) -> None:
        for link in self._links.values():
            link.close()
        self._links.clear()


class _Followers:
    """The copies in sync, as the leader's store sees them."""

    def __init__(self, replica: Replica) -> None:
        self._replica = replica
        self._pending: dict[str, Pending] = {}

    def send(self, records: Sequence[Record], *, roll: bool) -> None:
        """See ``leworld.store.durable.Followers``."""
        data = b"".join(part for record in records for part in encode(record))
        words, arguments = to_words(data), {"roll": roll, "num_bytes": len(data)}
        self._send("follow", words, arguments)

    def wait(self) -> None:
        """See ``leworld.store.durable.Followers``."""
        lost = []
        for name, pending in self._pending.items():
            try:
                pending.answer()
            except NotPrimaryError as error:
                self._replica._step_down()
                raise StoreError(str(error)) from None
            except LeWorldError:
                lost.append(name)
        self._pending = {}
        if lost:
            self._replica.strike_off(lost)
        # Even alone it must not acknowledge what a newer leader does not know.
        self._replica.check_still_leads()

    def send_versions(self, versions: Sequence[Version]) -> None:
        """See ``leworld.store.durable.Followers``."""
        self._send("follow_versions", to_words(b""), {"versions": [vars(version) for version in versions]})
        self.wait()

    def _send(self, op: str, words: np.ndarray, arguments: dict[str, Any]) -> None:
        epoch = self._replica.epoch
        self._pending = {
            name: link.begin(op, words=words, epoch=epoch, **arguments) for name, link in self._replica._links.items()
        }


def elect(directory: Directory, shard: str, peer_token: str = "", timeout_s: float = 1.0) -> str:
    """Have a copy in sync lead a shard whose leader does not answer: the one that is furthest, if it can.

    Returns:
        the address of the leader.

    Raises:
        ActorError: no copy that is in sync answers.
        LeWorldError: none of them can lead.
    """
    state = directory.get(shard)
    found: list[tuple[int, str]] = []
    for name in state.in_sync:
        try:
            with MemoryClient(state.addresses[name], peer_token, timeout_s, address_bits=8) as copy:
                answer = copy.ask("ping").content
        except LeWorldError:
            continue
        if answer["leads"] and name == state.primary:
            return state.addresses[name]
        found.append((answer["sequence"], name))
    if not found:
        raise ActorError(f"shard {shard}", "has no copy in sync that answers", "start one of its copies again")
    problem = LeWorldError()
    for _, name in sorted(found, reverse=True):
        try:
            # Another one that is asked because this one is slow does nothing once this one leads.
            with MemoryClient(state.addresses[name], peer_token, TAKE_LEAD_S, address_bits=8) as copy:
                copy.ask("take_lead", epoch=state.epoch)
        except LeWorldError as error:
            problem = error
        else:
            return state.addresses[name]
    raise problem


def to_words(data: bytes) -> np.ndarray:
    """Bytes as words, the last one filled up."""
    return np.frombuffer(data + bytes(-len(data) % 4), "<u4")


def unpack_records(request: Request) -> list[Record]:
    """The records that a request brings."""
    return _decode(request.words.tobytes(), number(request.arguments, "num_bytes", 0, 1 << 40))


def decode_all(answer: Answer) -> list[Record]:
    """The records that an answer brings."""
    return _decode(answer.words.tobytes(), answer.content["num_bytes"])


def _decode(data: bytes, num_bytes: int) -> list[Record]:
    found, offset = [], 0
    while offset < num_bytes:
        decoded = decode_at(data, offset)
        if decoded is None:
            raise StoreError(f"a record at byte {offset} of {num_bytes} did not arrive whole: send it again")
        record, frame = decoded
        found.append(record)
        offset = frame.end
    return found


def _part(leader: MemoryClient, name: str, offset: int) -> bytes:
    answer = leader.ask("copy_part", name=name, offset=offset)
    return answer.words.tobytes()[: answer.content["num_bytes"]]


def _pages(leader: MemoryClient, after: int) -> tuple[np.ndarray, np.ndarray]:
    answer = leader.ask("copy_pages", after=after)
    count = answer.content["num_pages"]
    return answer.words[:count].astype(np.int64), answer.words[count:].reshape(count, PAGE_WORDS)
