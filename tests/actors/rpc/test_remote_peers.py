"""Calls over sockets: what is called comes back as it was sent, from whoever may ask, in time or with a clear error."""

import gc
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace

import msgpack
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.errors import ActorError
from actors.processes import ProcessStat
from actors.rpc import remote_peers, sockets
from actors.rpc.codec import decode, encode
from actors.rpc.method_server import Endpoint, MethodServer
from actors.rpc.remote_peers import PeerConfig, RemotePeers
from leworld.errors import DataError, RangeError, RightsError
from leworld.types import Ranges
from tests.actors.training.systems import small

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(1 << 40), 1 << 40) | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda parts: st.lists(parts, max_size=3) | st.tuples(parts, parts) | st.dictionaries(st.text(max_size=3), parts),
    max_leaves=12,
)


class Target:
    """Does as it is told."""

    def __init__(self) -> None:
        self.calls: list[object] = []

    def echo(self, value: object) -> object:
        self.calls.append(value)
        return value

    def sleep(self, seconds: float) -> float:
        time.sleep(seconds)
        return seconds

    def fail(self) -> None:
        raise ValueError("bad luck\nmore")

    def refuse(self) -> None:
        raise RangeError("range 0 is outside")

    def secret(self) -> str:
        raise AssertionError


@pytest.fixture
def servers() -> Iterator[list[MethodServer]]:
    found = [MethodServer(Target(), ("echo", "sleep", "fail", "refuse"), "s3cret") for _ in range(2)]
    yield found
    for server in found:
        server.stop()


def peers(servers: list[MethodServer], **changes) -> RemotePeers:
    given = {"token": "s3cret", "timeout_s": 10.0, **changes}
    return RemotePeers([server.endpoint for server in servers], ["first", "second"], PeerConfig(**given))


@given(PLAIN)
@settings(max_examples=100, deadline=None)
def test_plain_values_come_back_as_they_were(value: object):
    assert decode(encode(value)) == value


@pytest.mark.parametrize("kind", ["<f4", "<f8", "<i8", "<u4", "u1", "?"])
def test_arrays_come_back_as_they_were(kind: str):
    for shape in [(), (0,), (3,), (2, 0, 4), (2, 3, 4)]:
        array = np.arange(np.prod(shape, dtype=int)).astype(kind).reshape(shape)
        found = decode([bytes(frame) for frame in encode({"a": [array.T, (array,)]})])
        assert found["a"][0].dtype == array.dtype
        assert np.array_equal(found["a"][0], array.T)
        assert np.array_equal(found["a"][1][0], array)


def test_records_come_back_as_they_were():
    ranges = Ranges(np.arange(6).reshape(2, 3), np.ones((2, 3), np.int64))  # type: ignore[arg-type]
    stat = ProcessStat("one", 7, 1 << 33)
    found, other = decode(encode([ranges, stat]))
    assert type(found) is Ranges
    assert np.array_equal(found.start, ranges.start)
    assert other == stat


def test_what_does_not_travel_is_named():
    for value in (object(), {1, 2}, np.array(["a"]), np.array([object()]), small().config):
        with pytest.raises(DataError, match="does not travel"):
            encode(value)


@given(st.binary(max_size=60), st.lists(st.binary(max_size=20), max_size=2))
@settings(max_examples=300, deadline=None)
def test_any_bytes_are_a_message_or_a_data_error(head: bytes, frames: list[bytes]):
    try:
        decode([head, *frames])
    except DataError:
        return


def test_messages_that_lie_are_data_errors():
    good = encode(np.arange(4.0))
    (head,) = [bytes(good[0])]
    lies = [
        [],
        [head],
        [head, b"123"],
        [head.replace(b"<f8", b"|O8"), good[1]],
        [head.replace(b"<f8", b"<f2"), good[1]],
    ]
    lies.append([msgpack.Packer().pack(msgpack.ExtType(2, msgpack.Packer().pack(["WordStore", {}])))])
    lies.append([msgpack.Packer().pack(msgpack.ExtType(9, b"\x90"))])
    for frames in lies:
        with pytest.raises(DataError):
            decode(frames)


def test_each_is_asked_what_is_meant_for_it_and_answers_come_in_any_order(servers):
    both = peers(servers)
    one = both.start("echo", {0: (1,), 1: (np.arange(3),)})
    two = both.start("echo", {1: ("later",)})
    assert two() == {1: "later"}
    found = one()
    assert found[0] == 1
    assert found[1].tolist() == [0, 1, 2]
    both.close()


def test_over_tcp_it_is_the_same(servers):
    far = [replace(server.endpoint, machine="of another") for server in servers]
    assert far[0].address.startswith("tcp://")
    assert servers[0].endpoint.address.startswith("ipc://")
    other = RemotePeers(far, ["first", "second"], PeerConfig("s3cret", 10.0))
    assert other.start("echo", {0: (5,), 1: (6,)})() == {0: 5, 1: 6}
    other.close()


def test_errors_are_those_of_the_actor_in_one_line(servers):
    both = peers(servers)
    with pytest.raises(RangeError, match=r"^range 0 is outside$"):
        both.start("refuse", {0: ()})()
    with pytest.raises(ActorError, match=r"^second failed with ValueError \(bad luck\): continue from"):
        both.start("fail", {1: ()})()
    for method in ("secret", "__init__", "calls"):
        with pytest.raises(DataError, match=f"method '{method}' is not one of echo, fail, refuse, sleep"):
            both.start(method, {0: ()})()
    both.close()


def test_who_brings_another_token_is_told_so_and_nothing_is_done(servers):
    stranger = peers(servers, token="guess")
    with pytest.raises(RightsError, match="unknown token: ask the server's owner for one"):
        stranger.start("echo", {0: (1,)})()
    stranger.close()
    assert servers[0]._target.calls == []


def test_who_is_slow_is_named_and_its_late_answer_is_nobodys(servers):
    both = peers(servers, timeout_s=0.3)
    with pytest.raises(ActorError, match=r"^first did not answer in 0\.3 s: raise cluster\.timeout_s"):
        both.start("sleep", {0: (0.8,)})()
    assert both.start("sleep", {0: (0.0,)}, patience=20.0)() == {0: 0.0}
    both.close()


def test_who_is_gone_is_named_before_the_time_is_over(servers):
    gone = ActorError("first", "died", "look")
    both = peers(servers, is_lost=lambda target: gone if target == 0 else None)
    begin = time.monotonic()
    with pytest.raises(ActorError, match=r"^first died: look$"):
        both.start("sleep", {0: (3.0,)})()
    assert time.monotonic() - begin < 2.5
    both.close()


def test_a_server_that_comes_back_is_found_again(servers):
    both = peers(servers)
    address = servers[0].endpoint.far
    far = RemotePeers([Endpoint("", "", address)], ["first"], PeerConfig("s3cret", 20.0))
    assert far.start("echo", {0: (1,)})() == {0: 1}
    port = int(address.rpartition(":")[2])
    servers[0].stop()
    renewed: list[MethodServer] = []

    def begin_again() -> None:
        time.sleep(0.5)
        renewed.append(MethodServer(Target(), ("echo",), "s3cret", f"tcp://127.0.0.1:{port}"))

    thread = threading.Thread(target=begin_again)
    thread.start()
    answers = far.start("echo", {0: (2,)})
    assert answers() == {0: 2}
    thread.join()
    far.close()
    both.close()
    servers[0] = renewed[0]


class Cable:
    """A way to a server over TCP, that can be pulled: nothing gets through then, and nobody is told."""

    def __init__(self, address: str) -> None:
        self._host, _, self._port = address.removeprefix("tcp://").rpartition(":")
        self._door = socket.create_server(("127.0.0.1", 0))
        self._is_whole = threading.Event()
        self._is_whole.set()
        self.address = f"tcp://127.0.0.1:{self._door.getsockname()[1]}"
        threading.Thread(target=self._join_all, daemon=True).start()

    def pull(self) -> None:
        self._is_whole.clear()

    def mend(self) -> None:
        self._is_whole.set()

    def _join_all(self) -> None:
        while True:
            near, _ = self._door.accept()
            far = socket.create_connection((self._host, int(self._port)))
            for ends in ((near, far), (far, near)):
                threading.Thread(target=self._carry, args=ends, daemon=True).start()

    def _carry(self, one: socket.socket, other: socket.socket) -> None:
        with suppress(OSError):
            while data := one.recv(1 << 16):
                self._is_whole.wait()
                other.sendall(data)
        other.close()


@pytest.fixture
def hasty(monkeypatch) -> None:
    monkeypatch.setattr(sockets, "PING_MS", 100)
    monkeypatch.setattr(sockets, "SILENT_MS", 1000)
    monkeypatch.setattr(remote_peers, "DOUBT_S", 0.3)


@pytest.mark.usefixtures("hasty")
def test_who_is_cut_off_is_named_long_before_the_time_is_over(servers):
    cable = Cable(servers[0].endpoint.far)
    far = RemotePeers([Endpoint("", "", cable.address)], ["first"], PeerConfig("s3cret", 60.0))
    assert far.start("echo", {0: (1,)})() == {0: 1}
    cable.pull()
    begin = time.monotonic()
    with pytest.raises(ActorError, match=r"^first was cut off: it was silent for 1 s, or closed the connection: see"):
        far.start("echo", {0: (2,)})()
    assert 0.3 < time.monotonic() - begin < 20
    cable.mend()
    assert far.start("echo", {0: (3,)})() == {0: 3}
    far.close()


@pytest.mark.usefixtures("hasty")
def test_a_short_cut_and_a_long_answer_harm_nobody(servers):
    cable = Cable(servers[0].endpoint.far)
    far = RemotePeers([Endpoint("", "", cable.address)], ["first"], PeerConfig("s3cret", 60.0))
    assert far.start("sleep", {0: (2.5,)})() == {0: 2.5}
    answers = far.start("echo", {0: (1,)})
    cable.pull()
    time.sleep(0.1)
    cable.mend()
    assert answers() == {0: 1}
    far.close()


def test_peers_that_nobody_holds_hang_up_wherever_they_are_found(servers):
    for _ in range(3):
        both = peers(servers)
        assert both.start("echo", {0: (1,), 1: (2,)})() == {0: 1, 1: 2}
        # Only the collector of cycles finds them.
        both.itself = both
        del both
        gc.collect()
