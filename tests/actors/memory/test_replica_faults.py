"""Copies that are cut off, paused or ended at the worst moments: nothing stale is read, and all goes on afterwards."""

import os
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from actors.memory.client import MemoryClient
from actors.memory.coordinator import FileCoordinator, ShardState
from actors.memory.protocol import Request
from actors.memory.replica import Replica
from actors.memory.replica_config import ReplicaConfig
from actors.memory.server import ServerConfig
from actors.memory.shard_client import ClientConfig, ShardClient
from leworld.errors import LeWorldError, NotPrimaryError, StoreError
from leworld.store import checkpointer as checkpoints
from leworld.store.durable_store import DurableStore, StoreConfig
from leworld.store.layout import Layout
from leworld.store.mapped_memory import MappedMemory
from leworld.store.shared_state import SharedState
from leworld.store.writer_lock import WriterLock

BITS = 16
CONFIG = ReplicaConfig("s", "", BITS, StoreConfig(policy="os", segment_bytes=1 << 16), lease_s=0.4, timeout_s=1.0)


class LostDirectory(FileCoordinator):
    """One that cannot be reached at times."""

    is_lost = False

    def get(self, shard: str) -> ShardState:
        if self.is_lost:
            raise StoreError("the directory is out of reach")
        return super().get(shard)


class Copies:
    """Copies in this process, each with a directory that can be lost."""

    def __init__(self, root: Path) -> None:
        self.root, self.directory = root, FileCoordinator(root / "directory")
        self.running: dict[str, Replica] = {}
        self.client = ShardClient(self.directory, "s", BITS, ClientConfig(message_timeout_s=1.0))

    def make(self, name: str, address: str = "tcp://127.0.0.1:0") -> Replica:
        config = replace(CONFIG, id=name, server=ServerConfig(address))
        self.running[name] = Replica(self.root / name, LostDirectory(self.root / "directory"), config)
        return self.running[name]

    def start(self, *names: str) -> list[Replica]:
        for name in names:
            self.make(name).start().wait_until_in_sync()
        return [self.running[name] for name in names]

    def stop(self, name: str) -> None:
        copy = self.running.pop(name)
        if copy._heart.ident is None:
            copy.server.stop()
            copy.store.close()
        else:
            copy.stop()

    def write(self, address: int, value: int) -> None:
        self.client.write([address], np.full((1, 8), value, np.uint32))

    def word(self, address: int) -> int:
        return int(self.client.read([address], [1]).words[0])


@pytest.fixture
def copies(tmp_path) -> Iterator[Copies]:
    found = Copies(tmp_path)
    yield found
    found.client.close()
    for name in list(found.running):
        found.stop(name)


def direct(copy: Replica) -> MemoryClient:
    return MemoryClient(copy.server.address, timeout_s=2.0, address_bits=BITS)


def test_a_lock_that_is_released_twice_closes_no_other_file(tmp_path):
    (tmp_path / "lock").touch()
    lock = WriterLock(Layout(tmp_path))
    lock.release()
    with (tmp_path / "lock").open() as other:
        lock.release()
        os.fstat(other.fileno())


def test_a_memory_is_abandoned_while_a_checkpoint_is_taken_and_twice(tmp_path, monkeypatch):
    store = DurableStore.create(tmp_path / "m", BITS)
    store.write([1], np.full((1, 8), 1, np.uint32))
    monkeypatch.setattr(checkpoints, "sync", lambda _: time.sleep(0.2))
    store.checkpoint(wait=False)
    store.abandon()
    store.abandon()
    assert store._gate.is_shut
    with pytest.raises(StoreError):
        store.write([1], np.full((1, 8), 2, np.uint32))
    DurableStore(tmp_path / "m").close()


def test_no_copy_can_be_read_beside_its_process_before_it_leads(copies, monkeypatch):
    seen, settle = [], SharedState.settle_at

    def settle_and_look(self: SharedState, sequence: int) -> None:
        settle(self, sequence)
        try:
            seen.append(MappedMemory(self._path.parent).read([5], [1]).words.tolist())
        except NotPrimaryError:
            seen.append("refused")

    monkeypatch.setattr(SharedState, "settle_at", settle_and_look)
    copies.start("a")
    copies.write(5, 5)
    copies.start("b")
    copies.stop("b")
    copies.make("b")
    assert len(seen) >= 4
    assert set(seen) == {"refused"}
    with pytest.raises(NotPrimaryError, match="does not lead, so that it may be out of date"):
        MappedMemory(copies.root / "b").read([5], [1])


def test_a_copy_that_is_made_anew_does_not_follow_who_led_before(copies):
    _, second = copies.start("a", "b")
    copies.write(1, 1)
    second.lead()
    late = copies.make("c")
    late.server.start()
    with direct(second) as leader:
        late.catch_up.copy(leader)
    assert late.leadership.epoch == second.leadership.epoch == 2
    with direct(late) as old, pytest.raises(NotPrimaryError, match="epoch 1 is over"):
        old.call("follow", epoch=1, roll=False, num_bytes=0)


def test_a_copy_that_was_begun_anew_since_it_asked_is_not_admitted(copies):
    (leader,) = copies.start("a")
    copies.write(1, 1)
    empty = copies.make("b")
    empty.server.start()
    asked = {"id": "b", "address": empty.server.address, "sequence": leader.store.sequence}
    with direct(leader) as client:
        assert not client.call("admit", **asked).content["admitted"]
    assert leader.state.in_sync == ("a",)


def test_a_copy_keeps_what_it_has_though_it_never_heard_that_it_was_admitted(copies):
    (leader,) = copies.start("a")
    copies.write(1, 1)
    copy = copies.make("b")
    copy.server.start()
    copy._stopping.set()
    taken, admit = [], leader.requests.admit

    def admit_and_be_lost(request: Request) -> None:
        taken.append(admit(request).content["admitted"])
        raise StoreError("the answer is lost")

    leader.server._hooks.operations["admit"] = admit_and_be_lost  # type: ignore[assignment]
    with pytest.raises(StoreError, match="the answer is lost"):
        copy.catch_up.join()
    assert taken == [True]
    assert leader.state.in_sync == ("a", "b")
    copies.stop("b")
    assert copies.make("b").store.read([1], [1]).words.tolist() == [1]


def test_a_leader_that_cannot_tell_whether_it_leads_in_the_middle_of_a_write_is_followed_by_one_that_can(copies):
    first, _ = copies.start("a", "b")
    copies.write(1, 1)

    def unknown() -> None:
        raise OSError("nobody knows")

    first.leadership.check_still_leads = unknown  # type: ignore[method-assign]
    with direct(first) as client, pytest.raises(LeWorldError):
        client.write([1], np.full((1, 8), 2, np.uint32))
    assert first.store.is_stopped
    del first.leadership.check_still_leads
    # It may have been made or not, but that is settled once it was read.
    found = copies.word(1)
    assert found in (1, 2)
    copies.write(2, 7)
    assert (copies.word(1), copies.word(2)) == (found, 7)


def test_a_lone_leader_whose_write_was_cut_off_leads_again(copies):
    (leader,) = copies.start("a")
    leader.store._gate.shut("was cut off")
    copies.write(1, 3)
    assert copies.word(1) == 3
    assert leader.leadership.epoch == 2


def test_a_lease_that_ended_in_the_middle_of_a_write_is_renewed(copies):
    leader, _ = copies.start("a", "b")
    send = leader.store.followers.send

    def send_slowly(*given, **named) -> None:
        send(*given, **named)
        leader.leadership.lease_until = 0.0

    leader.store.followers.send = send_slowly
    copies.write(1, 1)
    assert leader.leadership.epoch == 1
    assert copies.word(1) == 1


def test_a_copy_that_is_started_again_at_its_address_does_not_pass_for_a_leader(copies):
    copies.start("a", "b")
    copies.write(1, 1)
    address = copies.running["a"].server.address
    copies.stop("a")
    copies.make("a", address).start()
    assert copies.word(1) == 1
    assert copies.directory.get("s").leader == "b"


def test_a_new_leader_that_was_ended_while_it_waited_waits_again(copies):
    DurableStore.create(copies.root / "b", BITS).close()
    copies.directory.replace("s", ShardState(1, 2, "b", ("b",), {"b": "tcp://127.0.0.1:9"}))
    begin = time.monotonic()
    copies.make("b").start()
    assert time.monotonic() - begin >= CONFIG.lease_s


def test_who_cannot_reach_the_directory_refuses_and_goes_on_when_it_can(copies):
    (leader,) = copies.start("a")
    copies.write(1, 1)
    leader.coordinator.is_lost = True
    time.sleep(2 * CONFIG.lease_s)
    with direct(leader) as client:
        with pytest.raises(NotPrimaryError, match="replica a of s does not lead"):
            client.read([1], [1])
        with pytest.raises(NotPrimaryError, match="replica a of s does not lead"):
            client.write([1], np.full((1, 8), 2, np.uint32))
    leader.coordinator.is_lost = False
    copies.write(2, 2)
    assert copies.word(1) == 1


def test_a_directory_whose_disk_fails_says_so_in_one_line(tmp_path):
    directory = FileCoordinator(tmp_path / "directory")
    (tmp_path / "directory" / "s").mkdir()
    with pytest.raises(StoreError, match="the coordinator's folder cannot be used"):
        directory.get("s")
    with pytest.raises(StoreError, match="the coordinator's folder cannot be used"):
        directory.replace("s", ShardState(1))
