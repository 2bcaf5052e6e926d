"""Copies of a shard: what was acknowledged survives the leader, and what is stale does not answer."""

import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from actors.memory.client import MemoryClient
from actors.memory.coordinator import FileCoordinator, ShardState, change
from actors.memory.election import elect
from actors.memory.replica import Replica
from actors.memory.replica_config import ReplicaConfig
from actors.memory.shard_client import ClientConfig, ShardClient
from leworld.errors import LeWorldError, NotPrimaryError, StoreError
from leworld.store.durable_store import StoreConfig
from leworld.store.mapped_memory import MappedMemory

BITS, NUM_WORDS = 16, 1 << 16
STORE = StoreConfig(policy="os", segment_bytes=1 << 16)


def config_of(name: str) -> ReplicaConfig:
    return ReplicaConfig("s", name, BITS, STORE, lease_s=0.6, timeout_s=1.0)


class Copies:
    """Copies in this process, by name, and a client of whoever leads."""

    def __init__(self, root: Path) -> None:
        self.root, self.directory = root, FileCoordinator(root / "directory")
        self.running: dict[str, Replica] = {}
        self.client = ShardClient(self.directory, "s", BITS, ClientConfig(message_timeout_s=1.0))

    def start(self, *names: str) -> None:
        for name in names:
            self.running[name] = Replica(self.root / name, self.directory, config_of(name)).start()
            self.running[name].wait_until_in_sync()

    def stop(self, name: str) -> None:
        self.running.pop(name).stop()

    def content(self, name: str) -> np.ndarray:
        return everything(self.running[name].store)

    def write(self, address: int, value: int) -> None:
        self.client.write([address], np.full((1, 8), value, np.uint32))


def everything(memory) -> np.ndarray:
    return memory.read(np.arange(0, NUM_WORDS, 256), np.full(NUM_WORDS // 256, 256)).words


@pytest.fixture
def copies(tmp_path) -> Iterator[Copies]:
    found = Copies(tmp_path)
    yield found
    found.client.close()
    for name in list(found.running):
        found.stop(name)


def test_a_write_is_with_every_copy_when_it_is_acknowledged(copies):
    copies.start("a", "b", "c")
    for address in range(0, 4000, 100):
        copies.write(address, address + 1)
    assert set(copies.directory.get("s").in_sync) == {"a", "b", "c"}
    for name in ("b", "c"):
        assert np.array_equal(copies.content(name), copies.content("a"))
        assert copies.running[name].store.sequence == copies.running["a"].store.sequence == 40


def test_a_copy_that_comes_late_holds_content_versions_and_history(copies):
    copies.start("a")
    for step in range(30):
        copies.write(64 * step, step + 1)
        if step == 9:
            copies.client.call("keep", name="ten")
    erased = copies.client.call("erase", sequence=3)
    copies.start("b")
    copies.write(9, 77)
    copies.client.call("keep", name="late")
    copies.write(9, 78)
    first, second = copies.running["a"].store, copies.running["b"].store
    assert np.array_equal(everything(first), everything(second))
    assert list(second.versions) == list(first.versions)
    for name in ("ten", "late"):
        assert np.array_equal(first.versions.diff(name).address, second.versions.diff(name).address)
        assert np.array_equal(first.versions.diff(name).before, second.versions.diff(name).before)
    assert [r.sequence for r in second.log(99)] == [r.sequence for r in first.log(99)]
    assert second.why(9).sequence == first.why(9).sequence
    assert erased["erased"] == 3


def test_an_erasure_reaches_every_copy(copies):
    copies.start("a", "b")
    copies.client.write([100], np.full((1, 8), 0xDEADBEEF, np.uint32))
    copies.client.call("keep", name="with-it")
    copies.write(100, 5)
    copies.client.call("erase", sequence=1)
    for name in ("a", "b"):
        found = [p for p in (copies.root / name).rglob("*") if p.is_file() and b"\xef\xbe\xad\xde" in p.read_bytes()]
        assert found == [], name


def write_together(copies: Copies, name: str, written: Sequence[tuple[int, int, str]]) -> list[dict]:
    """Have (address, value, name) written as one group; what the server answers to each."""
    server = copies.running[name].server
    clients = [MemoryClient(server.address, address_bits=BITS) for _ in written]
    with server._using:
        # The writing thread has taken the first one, and the others wait.
        pending = []
        for client, (address, value, named) in zip(clients, written, strict=True):
            words = np.full(4, value, np.uint32)
            sent = {"start": np.array([address]), "length": np.array([4]), "words": words, "name": named}
            pending.append(client.begin("write", **sent))
            while server.rpc.num_waiting < len(pending):
                time.sleep(0.001)
    answers = [each.answer().content for each in pending]
    for client in clients:
        client.close()
    return answers


def kinds(store) -> list[str]:
    return [record.kind for record in store.records_after(0, 1 << 30)[0]]


def what_was_done(store) -> list[tuple]:
    return [(r.sequence, r.kind, r.writer, r.note, r.crc32, r.start.tolist()) for r in store.log(99)]


def test_writes_that_came_together_are_followed_listed_and_erased_as_with_the_leader(copies):
    copies.start("a", "b")
    copies.write(0, 1)
    copies.client.call("keep", name="before")
    named = [(100 + 100 * i, 0xDEADBEEF if i == 2 else i + 1, f"name {i}") for i in range(6)]
    answers = write_together(copies, "a", named)
    assert [answer["sequence"] for answer in answers] == list(range(2, 8))
    # One that comes late takes over what came together as such, too.
    copies.start("c")
    assert sum(kind == "writes" for kind in kinds(copies.running["a"].store)) == 1
    copies.client.call("keep", name="with-it")
    copies.write(800, 8)
    stores = [copies.running[name].store for name in ("a", "b", "c")]
    erased = copies.client.call("erase", sequence=4)
    for store in stores:
        assert what_was_done(store) == what_was_done(stores[0])
        assert [(r.sequence, r.note) for r in store.log(99) if r.note.startswith("name")] == [
            (7 - i, f"name {5 - i}") for i in range(6)
        ]
        assert (store.why(402).sequence, store.why(402).note) == (5, "name 3")
        assert store.why(302).sequence == erased["sequence"]
        assert np.array_equal(everything(store), everything(stores[0]))
        for version in ("before", "with-it"):
            found, right = store.versions.diff(version), stores[0].versions.diff(version)
            assert np.array_equal(found.address, right.address)
            assert np.array_equal(found.before, right.before)
        needle = b"\xef\xbe\xad\xde"
        assert [p for p in store.root.rglob("*") if p.is_file() and needle in p.read_bytes()] == []


def test_a_copy_that_was_away_follows_what_came_together(copies):
    copies.start("a", "b")
    copies.write(0, 1)
    leader, follower = copies.running["a"].store, copies.running["b"].store
    link = copies.running["a"].leadership.followers._links.pop("b")
    write_together(copies, "a", [(100 * i, i, f"name {i}") for i in range(1, 6)])
    records, firsts = leader.records_after(follower.sequence, 1 << 20)
    assert [(r.sequence, r.last) for r in records] == [(2, 2), (3, 6)]
    for record in records:
        follower.follow([record], roll=record.sequence in firsts)
    # Of one that it has a part of, only the rest comes.
    assert [(r.sequence, r.kind) for r in leader.records_after(4, 1 << 20)[0]] == [(5, "write"), (6, "write")]
    copies.running["a"].leadership.followers._links["b"] = link
    copies.write(900, 9)
    assert what_was_done(follower) == what_was_done(leader)
    assert np.array_equal(everything(follower), everything(leader))


def test_writes_that_came_together_and_are_sent_again_are_made_once_by_the_next_leader(copies):
    copies.start("a", "b")
    named = [(100 * i, i + 1, f"name {i}") for i in range(6)]
    answers = write_together(copies, "a", named)
    assert write_together(copies, "a", named) == answers
    copies.write(300, 77)
    copies.stop("a")
    copies.write(2000, 1)
    assert "writes" in kinds(copies.running["b"].store)
    assert write_together(copies, "b", named) == answers
    assert copies.client.read([300, 400], [1, 1]).words.tolist() == [77, 5]


def test_another_copy_leads_when_the_leader_is_gone_and_nothing_is_lost(copies):
    copies.start("a", "b", "c")
    for address in range(0, 2000, 100):
        copies.write(address, address + 1)
    before = copies.content("a")
    copies.stop("a")
    copies.write(5000, 5)
    state = copies.directory.get("s")
    assert state.leader in ("b", "c")
    assert state.epoch == 2
    before[5000:5008] = 5
    assert np.array_equal(everything(copies.client), before)
    copies.start("a")
    copies.write(6000, 6)
    before[6000:6008] = 6
    assert np.array_equal(copies.content("a"), before)


def test_a_copy_that_does_not_answer_is_struck_off_before_anything_is_acknowledged_without_it(copies):
    copies.start("a", "b")
    copies.running["b"]._stopping.set()
    copies.running["b"].server.stop()
    copies.write(1, 1)
    assert copies.directory.get("s").in_sync == ("a",)
    with pytest.raises(StoreError, match="replica b of s is not in sync: it must not lead"):
        copies.running["b"].lead()


def test_a_leader_that_was_replaced_neither_answers_nor_acknowledges(copies):
    copies.start("a", "b")
    copies.write(1, 1)
    old, reader = copies.running["a"], MappedMemory(copies.running["a"].store.root)
    assert reader.read([1], [1]).words.tolist() == [1]
    # The old leader sees nothing of the directory any more.
    old._stopping.set()
    old._heart.join()
    with MemoryClient(old.server.address, address_bits=BITS) as direct:
        assert direct.read([1], [1]).words.tolist() == [1]
        copies.running["b"].lead()
        with pytest.raises(NotPrimaryError, match="replica a of s does not lead"):
            direct.read([1], [1])
        with pytest.raises(NotPrimaryError, match="may be out of date"):
            reader.read([1], [1])
        with pytest.raises(LeWorldError):
            direct.write([1], np.full((1, 8), 2, np.uint32))
    assert copies.client.read([1], [1]).words.tolist() == [1]


def test_a_leader_learns_from_its_followers_that_it_was_replaced(copies):
    copies.start("a", "b")
    copies.write(1, 1)
    state = copies.directory.get("s")
    with MemoryClient(copies.running["a"].server.address, address_bits=BITS) as direct:
        assert change(copies.directory, "s", state, epoch=2, leader="b", in_sync=("b",)) is not None
        copies.running["b"].leadership.adopt(2)
        with pytest.raises(LeWorldError):
            direct.write([1], np.full((1, 8), 2, np.uint32))
    assert not copies.running["a"].leadership.leads
    assert copies.running["b"].store.sequence == 1


def test_followers_refuse_records_of_an_epoch_that_is_over(copies):
    copies.start("a", "b")
    copies.write(1, 1)
    follower = copies.running["b"]
    with MemoryClient(follower.server.address, address_bits=BITS) as direct:
        with pytest.raises(NotPrimaryError, match="does not lead"):
            direct.read([1], [1])
        with pytest.raises(NotPrimaryError, match="epoch 0 is over: replica b of s follows epoch 1"):
            direct.call("follow", epoch=0, roll=False, num_bytes=0)
    assert follower.store.sequence == 1


def test_a_write_that_is_sent_again_is_made_once_even_by_the_next_leader(copies):
    copies.start("a", "b")
    start, length, words = np.array([3]), np.array([2]), np.array([7, 7], np.uint32)
    sent = {"start": start, "length": length, "words": words, "name": "one"}
    with MemoryClient(copies.running["a"].server.address, address_bits=BITS) as direct:
        first = direct.call("write", **sent).content
        assert direct.call("write", **sent).content == first
    copies.write(3, 8)
    copies.stop("a")
    copies.write(20, 1)
    with MemoryClient(copies.running["b"].server.address, address_bits=BITS) as direct:
        assert direct.call("write", **sent).content == first
    assert copies.client.read([3], [2]).words.tolist() == [8, 8]


def test_without_a_copy_in_sync_one_line_says_so(tmp_path):
    directory = FileCoordinator(tmp_path)
    directory.replace("s", ShardState(1, 1, "a", ("a",), {"a": "tcp://127.0.0.1:9"}))
    with pytest.raises(LeWorldError, match="shard s has no replica in sync that answers: start one of"):
        elect(directory, "s", timeout_s=0.2)
    client = ShardClient(directory, "s", BITS, ClientConfig(timeout_s=0.5, message_timeout_s=0.2))
    with pytest.raises(LeWorldError, match=r"shard s did not answer in 0.5 s \(memory at tcp://127.0.0.1:9 did not"):
        client.read([1], [1])


def test_a_state_that_was_changed_meanwhile_is_not_replaced(tmp_path):
    directory = FileCoordinator(tmp_path)
    before = directory.get("s")
    assert change(directory, "s", before, epoch=1) is not None
    assert change(directory, "s", before, epoch=2) is None
    assert directory.get("s").epoch == 1


def serve(root: str, name: str) -> None:
    """A copy in a process of its own, until it is killed."""
    replica = Replica(Path(root) / name, FileCoordinator(Path(root) / "directory"), config_of(name)).start()
    replica.wait_until_in_sync()
    print("ready", flush=True)
    signal.pause()


def spawn(root: Path, name: str) -> subprocess.Popen[str]:
    code = f"from tests.actors.memory.test_replica import serve; serve({str(root)!r}, {name!r})"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    with process.stdout:
        assert process.stdout.readline() == "ready\n"
    return process


def test_leaders_that_are_killed_lose_nothing_that_was_acknowledged(tmp_path):
    random, model = np.random.default_rng(0), np.zeros(NUM_WORDS, np.uint32)
    running = {name: spawn(tmp_path, name) for name in ("a", "b")}
    directory = FileCoordinator(tmp_path / "directory")
    client = ShardClient(directory, "s", BITS, ClientConfig(message_timeout_s=1.0))

    def write(times: int) -> None:
        for _ in range(times):
            start, words = int(random.integers(0, NUM_WORDS - 64)), random.integers(0, 1 << 32, (1, 64), np.uint32)
            client.write([start], words)
            model[start : start + 64] = words

    try:
        for _ in range(2):
            write(60)
            leader = directory.get("s").leader
            running[leader].kill()
            running[leader].wait()
            write(20)
            assert directory.get("s").leader != leader
            running[leader] = spawn(tmp_path, leader)
            assert np.array_equal(everything(client), model)
    finally:
        client.close()
        for process in running.values():
            process.kill()
            process.wait()
