"""A memory's server: other processes and machines read and write it over ZeroMQ.

One thread talks, another one writes: reads never wait for the disk, and writes that came while the disk was busy go to
it together. What waits to be written is bounded; beyond that the server stops listening until there is room, so that
whoever sends waits.
"""

from __future__ import annotations

import hmac
import ipaddress
import logging
import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar

import msgpack
import zmq

from actors.memory.protocol import MAX_MESSAGE_BYTES, Answer, Request, error_answer, pack_answer, unpack_request
from leworld.errors import ConfigError, DamageError, LeWorldError, NotPrimaryError, RightsError, StoreError
from leworld.store.access_control import Guarded, load_rights
from leworld.store.durable_store import DurableStore, Write
from leworld.store.operations import OPERATIONS, Caller, text

LOG = logging.getLogger(__name__)
PATIENCE_MS = 100
MAX_GROUP = 1024
Result = TypeVar("Result")
PEERS = ("peer", "admin")
MAX_NAMES = 1 << 14
"""Named writes that are remembered: one may come again only before so many others."""


@dataclass(frozen=True)
class ServerConfig:
    """How a memory is served.

    Attributes:
        address: to bind, such as "tcp://127.0.0.1:7077" or "ipc:///run/leworld.sock"; port 0 takes a free one.
        tokens: token to who brings it; "admin" may do everything but read what is another's. Without tokens
            everyone is "admin", and the address must be of this machine.
        max_waiting_bytes: of writes that wait for the disk.
    """

    address: str = "tcp://127.0.0.1:0"
    tokens: Mapping[str, str] | None = None
    max_waiting_bytes: int = 64 << 20


def _nothing(*_: Any) -> None:
    """Of a memory that is alone: all of it is here, it may always be used, and nobody can mend it."""


@dataclass(frozen=True)
class Hooks:
    """What a copy, or a shard, has to say where its memory is served.

    Attributes:
        gate: raises a ``LeWorldError`` as long as nothing may be read or written.
        owns: raises MovedError where what is asked for is not here.
        mend: puts damaged pages right, or raises DamageError; called in the writing thread.
        operations: what only "peer" may ask for, and "admin".
    """

    gate: Callable[[], None] = _nothing
    owns: Callable[[Request], None] = _nothing
    mend: Callable[[Sequence[int]], None] | None = None
    operations: Mapping[str, Callable[[Request], Answer]] = field(default_factory=dict)


@dataclass(frozen=True)
class _Waiting:
    """A request to be done by the writing thread: who sent it, what, and who they are."""

    peer: bytes
    request: Request
    who: str
    num_bytes: int


class MemoryServer:
    """Serves a ``DurableStore`` until ``stop``.

    Attributes:
        address: that it is bound to.
    """

    def __init__(self, store: DurableStore, config: ServerConfig | None = None, hooks: Hooks | None = None) -> None:
        """Bind.

        Args:
            store: what is served.
            config: how.
            hooks: where it is one of several copies or shards.

        Raises:
            ConfigError: the address cannot be bound, or would be open to other machines without tokens.
        """
        self.store, self.config = store, config or ServerConfig()
        self._hooks = hooks or Hooks()
        self._using, self._exchanging = threading.RLock(), False
        self._named: dict[str, tuple[int, int]] | None = None
        if not self.config.tokens and not is_local(self.config.address):
            raise ConfigError(f"{self.config.address} is open to other machines: give tokens, or bind to 127.0.0.1")
        self._rights = load_rights(store.layout, store.num_words)
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.ROUTER)
        self._socket.setsockopt(zmq.MAXMSGSIZE, MAX_MESSAGE_BYTES)
        self._socket.setsockopt(zmq.RCVHWM, 64)
        self._socket.setsockopt(zmq.LINGER, 1000)
        try:
            self.address = _bind(self._socket, self.config.address)
        except ConfigError:
            self._context.destroy(linger=0)
            raise
        self._done = self._context.socket(zmq.PULL)
        self._done.bind("inproc://done")
        self._waiting: queue.SimpleQueue[_Waiting | None] = queue.SimpleQueue()
        self._waiting_bytes = 0
        self._peers_waiting: dict[bytes, int] = {}
        self._stopping = threading.Event()
        self._started, self._counts = time.time(), {"reads": 0, "writes": 0, "refused": 0}
        self._writer = threading.Thread(target=self._write_loop, name="memory-writer")
        self._loop = threading.Thread(target=self.serve, name="memory-server")

    def start(self) -> MemoryServer:
        """Serve in a thread of its own."""
        self._loop.start()
        return self

    @contextmanager
    def exchange(self) -> Iterator[None]:
        """Nobody uses the store meanwhile, so that it can be another one afterwards."""
        with self._using:
            self._exchanging = True
            try:
                yield
                self.forget_names()
                self._rights = load_rights(self.store.layout, self.store.num_words)
            finally:
                self._exchanging = False

    def stop(self) -> None:
        """Finish what was begun, and close; the store stays open."""
        self._stopping.set()
        if self._loop.ident is None and self._writer.ident is None:
            self._context.destroy(linger=0)
        elif self._loop.is_alive():
            self._loop.join()

    def serve(self) -> None:
        """Serve until ``stop``, in the thread of whoever calls."""
        self._writer.start()
        try:
            while not self._stopping.is_set() or self._waiting_bytes:
                self._turn()
        finally:
            self._waiting.put(None)
            self._writer.join()
            # What was answered last is on its way for a second at most.
            self._context.destroy()

    def _turn(self) -> None:
        poller = zmq.Poller()
        poller.register(self._done, zmq.POLLIN)
        if self._waiting_bytes < self.config.max_waiting_bytes and not self._stopping.is_set():
            poller.register(self._socket, zmq.POLLIN)
        ready = dict(poller.poll(PATIENCE_MS))
        if self._done in ready:
            self._settle()
        if self._socket in ready:
            self._receive()

    def _receive(self) -> None:
        """Take what is there; what needs the writing thread goes to it, all else is answered now."""
        for _ in range(MAX_GROUP):
            try:
                peer, *frames = self._socket.recv_multipart(zmq.NOBLOCK, copy=True)
            except zmq.Again:
                return
            try:
                request = unpack_request(frames)
                who = self._who(request)
            except LeWorldError as error:
                self._counts["refused"] += 1
                self._send(peer, error_answer(_id_of(frames), error))
                continue
            self._take(peer, request, who)
            if self._waiting_bytes >= self.config.max_waiting_bytes:
                return

    def _take(self, peer: bytes, request: Request, who: str) -> None:
        # Who waits for a write is answered in order: a read that follows it must see it.
        if request.op == "ping" and who in PEERS and "ping" in self._hooks.operations:
            self._send(peer, self._hooks.operations["ping"](request))
            return
        if request.op == "read" and not self._peers_waiting.get(peer):
            with suppress(DamageError):
                self._send(peer, self._read(request, who))
                return
        num_bytes = request.words.nbytes + 256
        self._waiting_bytes += num_bytes
        self._peers_waiting[peer] = self._peers_waiting.get(peer, 0) + 1
        self._waiting.put(_Waiting(peer, request, who, num_bytes))

    def _settle(self) -> None:
        """Send what the writing thread has done."""
        while True:
            try:
                peer, size, *frames = self._done.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            self._waiting_bytes -= int.from_bytes(size, "little")
            self._peers_waiting[peer] -= 1
            if not self._peers_waiting[peer]:
                del self._peers_waiting[peer]
            self._socket.send_multipart([peer, *frames])

    def _send(self, peer: bytes, answer: Answer) -> None:
        self._socket.send_multipart([peer, *pack_answer(answer)])

    def _read(self, request: Request, who: str) -> Answer:
        """Read what may be read.

        Raises:
            DamageError: a page is damaged, and can be mended in the writing thread.
        """
        self._counts["reads"] += len(request.start)
        try:
            if self._exchanging:
                raise NotPrimaryError("this copy is being made anew")
            self._check(request)
            found = Guarded(self.store, self._rights, who).read(request.start, request.length)
            # What was read while this one did not lead any more, or handed it over, may be out of date.
            self._check(request)
        except LeWorldError as error:
            if isinstance(error, DamageError) and self._hooks.mend is not None:
                raise
            return error_answer(request.id, error)
        return Answer(request.id, {"sequence": self.store.sequence}, found.words)

    def _check(self, request: Request) -> None:
        self._hooks.gate()
        self._hooks.owns(request)

    def _mended(self, act: Callable[[], Result]) -> Result:
        """Act, and once more where damaged pages could be mended."""
        try:
            return act()
        except DamageError as error:
            if self._hooks.mend is None:
                raise
            self._hooks.mend(error.pages)
        return act()

    def _who(self, request: Request) -> str:
        """Whose token a request brings.

        Raises:
            RightsError: nobody's.
        """
        if not self.config.tokens:
            return "admin"
        for token, who in self.config.tokens.items():
            if hmac.compare_digest(token.encode(), request.token.encode()):
                return who
        raise RightsError("the token is nobody's: ask for one")

    def _write_loop(self) -> None:
        done = self._context.socket(zmq.PUSH)
        done.connect("inproc://done")
        try:
            while (first := self._waiting.get()) is not None:
                group, end = self._group(first)
                for waiting, answer in zip(group, self._do(group), strict=True):
                    size = waiting.num_bytes.to_bytes(8, "little")
                    done.send_multipart([waiting.peer, size, *pack_answer(answer)])
                if end:
                    return
        finally:
            done.close()

    def _group(self, first: _Waiting) -> tuple[list[_Waiting], bool]:
        """What waits now, and whether nothing more will come; by itself where the policy says so."""
        group = [first]
        while self.store.config.policy != "always" and len(group) < MAX_GROUP:
            try:
                more = self._waiting.get_nowait()
            except queue.Empty:
                break
            if more is None:
                return group, True
            group.append(more)
        return group, False

    def _do(self, group: Sequence[_Waiting]) -> list[Answer]:
        """PredictionService in the order of the group; writes that follow each other go to the disk together."""
        with self._using:
            try:
                return self._do_in_order(group)
            except Exception as error:
                # Whatever it is, those who wait must hear of it, and others are to be served.
                LOG.exception("a request failed")
                failure = StoreError(f"the server failed with {type(error).__name__} ({error}): see its log")
                return [error_answer(waiting.request.id, failure) for waiting in group]

    def _do_in_order(self, group: Sequence[_Waiting]) -> list[Answer]:
        answers: list[Answer] = []
        index = 0
        while index < len(group):
            run = index
            while run < len(group) and group[run].request.op == "write":
                run += 1
            if run > index:
                answers.extend(self._write(group[index:run]))
                index = run
            else:
                answers.append(self._operate(group[index]))
                index += 1
        return answers

    def _write(self, group: Sequence[_Waiting]) -> list[Answer]:
        try:
            return self._mended(lambda: self._write_together(group))
        except LeWorldError as error:
            if len(group) == 1:
                return [error_answer(group[0].request.id, error)]
        # One of them cannot be made, and so none was: each by itself, then.
        return [answer for waiting in group for answer in self._write([waiting])]

    def _write_together(self, group: Sequence[_Waiting]) -> list[Answer]:
        self._hooks.gate()
        for waiting in group:
            self._rights.check_write(waiting.who, waiting.request.start, waiting.request.length)
        made: dict[str, tuple[int, int]] = {}
        names = [text(waiting.request.arguments, "name", "") for waiting in group]
        new = self._not_made(names)
        for i in new:
            self._hooks.owns(group[i].request)
        writes = [Write(group[i].request.start, group[i].request.blocks, group[i].who, names[i]) for i in new]
        receipts = dict(zip(new, self.store.write_many(writes), strict=True))
        for i, receipt in receipts.items():
            self._counts["writes"] += len(group[i].request.start)
            made[names[i]] = (receipt.sequence, receipt.crc32)
        if any(names):
            self._remember(made)
        answers = []
        for i, waiting in enumerate(group):
            sequence, crc32 = (
                (receipts[i].sequence, receipts[i].crc32) if i in receipts else self._named_writes()[names[i]]
            )
            answers.append(Answer(waiting.request.id, {"sequence": sequence, "crc32": crc32}))
        return answers

    def _not_made(self, names: Sequence[str]) -> list[int]:
        """Which of several writes are still to be made: those without a name, and the first of each new one."""
        found, seen, known = [], set(), self._named_writes() if any(names) else {}
        for i, name in enumerate(names):
            if not name or (name not in known and name not in seen):
                found.append(i)
                seen.add(name)
        return found

    def _named_writes(self) -> dict[str, tuple[int, int]]:
        """Sequence and checksum of the last writes that had names, so that one that is sent again is made once."""
        if self._named is None:
            records = reversed(self.store.log(MAX_NAMES))
            self._named = {r.note: (r.sequence, r.crc32) for r in records if r.kind == "write" and r.note}
        return self._named

    def _remember(self, made: Mapping[str, tuple[int, int]]) -> None:
        named = self._named_writes()
        named.update({name: write for name, write in made.items() if name})
        for name in list(named)[: max(0, len(named) - MAX_NAMES)]:
            del named[name]

    def forget_names(self) -> None:
        """Look them up anew: others have written meanwhile."""
        self._named = None

    def _operate(self, waiting: _Waiting) -> Answer:
        try:
            return self._mended(lambda: self._perform(waiting.request, waiting.who))
        except LeWorldError as error:
            return error_answer(waiting.request.id, error)

    def _perform(self, request: Request, who: str) -> Answer:
        if request.op == "read":
            return self._read(request, who)
        if request.op in self._hooks.operations:
            if who not in PEERS:
                raise RightsError(f"{who or 'nobody'} may not ask for {request.op}: only copies may")
            return self._hooks.operations[request.op](request)
        self._hooks.gate()
        if request.op == "stat":
            return Answer(request.id, {**OPERATIONS["stat"](self.store, Caller(who), {})[0], **self.stat()})
        if request.op not in OPERATIONS:
            raise ConfigError(f"op {request.op!r} is unknown: use one of {', '.join(sorted(OPERATIONS))}")
        content, words = OPERATIONS[request.op](self.store, Caller(who), request.arguments)
        if request.op == "grant":
            self._rights = load_rights(self.store.layout, self.store.num_words)
        return Answer(request.id, content, words)

    def stat(self) -> dict[str, Any]:
        """What the server has done, and what waits."""
        waiting = sum(self._peers_waiting.values())
        limit = self.config.max_waiting_bytes
        return {
            **self._counts, "uptime_s": round(time.time() - self._started, 1), "waiting": waiting,
            "waiting_bytes": self._waiting_bytes, "max_waiting_bytes": limit,
            "state": "behind" if self._waiting_bytes >= limit else "ready",
        }  # fmt: skip


def is_local(address: str) -> bool:
    """Whether only this machine can reach an address."""
    if address.startswith(("ipc://", "inproc://")):
        return True
    host = address.removeprefix("tcp://").rsplit(":", 1)[0].strip("[]")
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _bind(socket: zmq.Socket[bytes], address: str) -> str:
    try:
        socket.bind(address.replace(":0", ":*") if address.endswith(":0") else address)
    except zmq.ZMQError as error:
        raise ConfigError(f"{address} cannot be bound ({error.strerror}): use another address or port") from None
    return socket.getsockopt_string(zmq.LAST_ENDPOINT).rstrip("\x00")


def _id_of(frames: Sequence[bytes]) -> int:
    """The number of a request that cannot be read, if it has one."""
    try:
        head = msgpack.unpackb(frames[0])
        return head["id"] if isinstance(head["id"], int) else 0
    except Exception:  # Whatever a stranger sends.
        return 0
