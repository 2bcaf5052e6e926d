"""A memory over the wire: the same answers as beside it, in order, for those who may, whatever strangers send."""

import threading
import time
from collections.abc import Iterator

import msgpack
import numpy as np
import pytest
import zmq

from actors.memory.client import MemoryClient
from actors.memory.protocol import MAX_RANGES, Request, pack_request
from actors.memory.server import MemoryServer, ServerConfig, is_local
from leworld.errors import ConfigError, LeWorldError, RangeError, RightsError, StoreError
from leworld.memory import Words, WordStore
from leworld.store.durable_store import DurableStore, StoreConfig

BITS = 16
TOKENS = {"boss": "admin", "a-token": "ann", "b-token": "bob"}


@pytest.fixture
def store(tmp_path) -> Iterator[DurableStore]:
    with DurableStore.create(tmp_path / "m", BITS, StoreConfig(policy="os")) as found:
        yield found


@pytest.fixture
def server(store) -> Iterator[MemoryServer]:
    found = MemoryServer(store).start()
    yield found
    found.stop()


@pytest.fixture
def client(server) -> Iterator[MemoryClient]:
    with MemoryClient(server.address) as found:
        yield found


def test_it_answers_as_a_store_in_this_process_does(client):
    plain, random = WordStore(BITS), np.random.default_rng(0)
    for _ in range(60):
        start, length = random.integers(0, 65_000, 5), random.integers(0, 257, 5)
        words = random.integers(0, 1 << 32, int(length.sum()), dtype=np.uint32)
        blocks = Words(words, np.concatenate([[0], np.cumsum(length)]))
        mine, theirs = plain.write_ragged(start, blocks), client.write_ragged(start, blocks)
        assert (mine.sequence, mine.crc32) == (theirs.sequence, theirs.crc32)
        start, length = random.integers(0, 65_000, 9), random.integers(0, 257, 9)
        here, there = plain.read(start, length), client.read(start, length)
        assert np.array_equal(here.words, there.words)
        assert np.array_equal(here.offsets, there.offsets)


def test_more_ranges_than_fit_a_message_are_read_in_several(client):
    client.write([7], np.full((1, 2), 9, np.uint32))
    found = client.read(np.full(MAX_RANGES + 3, 7), np.full(MAX_RANGES + 3, 2))
    assert len(found.words) == 2 * (MAX_RANGES + 3)
    assert (found.words == 9).all()


def test_errors_arrive_as_what_they_are(client):
    with pytest.raises(RangeError, match="range 0"):
        client.call("read", start=np.array([65_535]), length=np.array([2]))
    with pytest.raises(ConfigError, match="op 'dance' is unknown: use one of"):
        client.call("dance")
    with pytest.raises(StoreError, match="version 'x' is not kept"):
        client.call("go_back", name="x")
    with pytest.raises(ConfigError, match=r"address -1: a whole number in \[0, 65535\] is needed"):
        client.call("why", address=-1)
    assert client.read([0], [1]).words.tolist() == [0]


def test_one_write_that_cannot_be_made_does_not_keep_others_from_it(server, store):
    clients = [MemoryClient(server.address) for _ in range(6)]
    failed: list[str] = []

    def write(index: int) -> None:
        start = np.array([65_535 if index == 3 else 10 * index])
        try:
            clients[index].call("write", start=start, length=np.array([2]), words=np.full(2, index, np.uint32))
        except RangeError as error:
            failed.append(str(error))

    threads = [threading.Thread(target=write, args=(index,)) for index in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(failed) == 1
    assert store.read(np.arange(0, 60, 10), np.ones(6, np.int64)).words.tolist() == [0, 1, 2, 0, 4, 5]
    for found in clients:
        found.close()


def test_writes_that_came_together_go_to_the_disk_together(store, monkeypatch):
    groups: list[int] = []
    write_many = store.write_many

    def slow(writes):
        groups.append(len(writes))
        time.sleep(0.05)
        return write_many(writes)

    monkeypatch.setattr(store, "write_many", slow)
    server = MemoryServer(store).start()
    clients = [MemoryClient(server.address) for _ in range(8)]
    threads = [
        threading.Thread(target=c.write, args=([i], np.full((1, 1), i, np.uint32))) for i, c in enumerate(clients)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for found in clients:
        found.close()
    server.stop()
    assert sum(groups) == 8
    assert len(groups) < 8


def test_reads_do_not_wait_for_the_disk_and_who_writes_waits_when_it_is_behind(store, monkeypatch):
    write_many, going = store.write_many, threading.Event()

    def held(writes):
        assert going.wait(10)
        return write_many(writes)

    monkeypatch.setattr(store, "write_many", held)
    server = MemoryServer(store, ServerConfig(max_waiting_bytes=4096)).start()
    writers = [MemoryClient(server.address) for _ in range(12)]
    words = np.ones((1, 256), np.uint32)
    threads = [threading.Thread(target=c.write, args=([0], words)) for c in writers]
    with MemoryClient(server.address) as reader:
        threads[0].start()
        time.sleep(0.2)
        begin = time.monotonic()
        assert reader.read([0], [1]).words.tolist() == [0]
        assert time.monotonic() - begin < 0.2
        for thread in threads[1:]:
            thread.start()
        time.sleep(0.4)
        stat = server.stat()
        assert stat["state"] == "behind"
        assert stat["waiting_bytes"] <= 4096 + 2048
        going.set()
        for thread in threads:
            thread.join()
        assert reader.read([0], [1]).words.tolist() == [1]
        assert server.stat()["state"] == "ready"
    for found in writers:
        found.close()
    server.stop()
    assert store.sequence == 12


def test_tokens_say_who_may_what(store):
    server = MemoryServer(store, ServerConfig(tokens=TOKENS)).start()
    with MemoryClient(server.address, "boss") as boss, MemoryClient(server.address, "a-token") as ann:
        boss.call("grant", first=100, stop=200, owner="ann", readers="")
        ann.write([100], np.full((1, 4), 7, np.uint32))
        with MemoryClient(server.address, "b-token") as bob:
            assert bob.read([100], [4]).words.tolist() == [0, 0, 0, 0]
            assert ann.read([100], [4]).words.tolist() == [7, 7, 7, 7]
            with pytest.raises(RightsError, match=r"range 0 \(start 150, length 1\) is not bob's to write"):
                bob.write([150], np.ones((1, 1), np.uint32))
            with pytest.raises(RightsError, match="address 150 is not bob's to ask about: ask its owner"):
                bob.call("why", address=150)
            with pytest.raises(RightsError, match="address 150 is not bob's"):
                bob.call("log", address=150)
            assert bob.call("why", address=9).content == {"record": None}
            assert ann.call("why", address=100).content["record"]["writer"] == "ann"
            for op in ("erase", "keep", "go_back", "drop", "diff", "grant", "log", "verify"):
                with pytest.raises(RightsError, match="bob may not do this: only admin may"):
                    bob.call(op)
        for token in ("", "boss ", "Boss"):
            with pytest.raises(RightsError, match="unknown token: ask the server's owner for one"):
                MemoryClient(server.address, token)
    server.stop()


def test_an_address_that_others_reach_needs_tokens(store):
    with pytest.raises(ConfigError, match=r"tcp://0.0.0.0:0 is open to other machines: give tokens"):
        MemoryServer(store, ServerConfig("tcp://0.0.0.0:0"))
    assert is_local("ipc:///tmp/x")
    assert is_local("tcp://[::1]:1")
    assert not is_local("tcp://10.0.0.1:1")
    assert not is_local("tcp://*:1")


def test_an_address_that_is_taken_is_named(store, server):
    with pytest.raises(ConfigError, match="cannot be bound"):
        MemoryServer(store, ServerConfig(server.address))


def test_whatever_strangers_send_the_next_one_is_served(server, client):
    random = np.random.default_rng(0)
    good = [bytes(frame) for frame in pack_request(Request("write", 1, start=np.array([9]), length=np.array([1]),
                                                           words=np.array([5], np.uint32)))]  # fmt: skip
    context = zmq.Context()
    socket = context.socket(zmq.DEALER)
    socket.setsockopt(zmq.LINGER, 0)
    socket.connect(server.address)
    for step in range(1500):
        frames = list(good)
        if step % 3 == 0:
            frames = [random.bytes(int(random.integers(0, 40))) for _ in range(int(random.integers(1, 6)))]
        elif step % 3 == 1:
            which = int(random.integers(0, 4))
            broken = bytearray(frames[which])
            broken[int(random.integers(0, len(broken)))] ^= 1 << int(random.integers(0, 8))
            frames[which] = bytes(broken)
        else:
            op = str(random.choice(["read", "log", "keep", "verify", "stat", "erase"]))
            arguments = {"name": [None, 1, "x" * 9][step % 3], "limit": -1, "erasure": {}}
            head = {"v": 1, "op": op, "id": step, "token": "", "arguments": arguments}
            frames[0] = msgpack.Packer().pack(head)
        socket.send_multipart(frames)
    socket.close()
    context.term()
    begin = time.monotonic()
    # One of the strange writes may still come, but none that gets there by one bit.
    client.write([6], np.ones((1, 1), np.uint32))
    assert client.read([6], [1]).words.tolist() == [1]
    assert time.monotonic() - begin < 10


def test_a_server_that_is_not_there_is_one_line(server):
    server.stop()
    with pytest.raises(LeWorldError, match=r"did not answer stat in 0.3 s: see whether it runs"):
        MemoryClient(server.address, timeout_s=0.3)
