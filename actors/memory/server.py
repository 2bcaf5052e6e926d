"""A memory's server: other processes and machines read and write it.

Reads never wait for the disk. Writes that arrive while the disk is busy are written together.
"""

from __future__ import annotations

import ipaddress
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar

from actors.memory.named_writes import NamedWrites
from actors.memory.protocol import Answer, Request, error_answer, pack_answer, parse_request
from actors.rpc.messages import Call, Frames
from actors.rpc.server import ADMIN, Received, RpcConfig, RpcServer
from leworld.errors import ConfigError, DamageError, LeWorldError, NotPrimaryError, RightsError, StoreError
from leworld.store.access_control import Guarded, load_rights
from leworld.store.durable_store import DurableStore, Write
from leworld.store.operations import OPERATIONS, Caller, text

LOG = logging.getLogger(__name__)
MOST_WRITES = 1024
"""That go to the disk together."""
Result = TypeVar("Result")
PEERS = ("peer", ADMIN)


@dataclass(frozen=True)
class ServerConfig:
    """How a memory is served.

    Attributes:
        address: to bind, for example "tcp://127.0.0.1:7077" or "ipc:///run/leworld.sock"; port 0 takes a free one.
        tokens: token to its owner. "admin" may do everything except read words granted to others. Without tokens every
        client is "admin", and the address must be local to this machine.
        max_waiting_bytes: limit for writes that wait for the disk.
    """

    address: str = "tcp://127.0.0.1:0"
    tokens: Mapping[str, str] | None = None
    max_waiting_bytes: int = 64 << 20


def _nothing(*_: Any) -> None:
    """Do nothing; the default hooks of a memory with a single replica and shard."""


@dataclass(frozen=True)
class Hooks:
    """Functions by which a replica or a shard controls the server of its memory.

    Attributes:
        gate: raises a ``LeWorldError`` while nothing may be read or written.
        owns: raises MovedError if a request is about words of another shard.
        mend: repairs damaged pages or raises DamageError; called in the writing thread.
        operations: that only "peer" and "admin" may call.
    """

    gate: Callable[[], None] = _nothing
    owns: Callable[[Request], None] = _nothing
    mend: Callable[[Sequence[int]], None] | None = None
    operations: Mapping[str, Callable[[Request], Answer]] = field(default_factory=dict)


class MemoryServer:
    """Serves a ``DurableStore`` until ``stop``; the service of an ``RpcServer``.

    Attributes:
        address: the bound address.
        names: see ``NamedWrites``.
    """

    def __init__(self, store: DurableStore, config: ServerConfig | None = None, hooks: Hooks | None = None) -> None:
        """Bind.

        Args:
            store: to serve.
            config: of the server.
            hooks: for one of several replicas or shards.

        Raises:
            ConfigError: the address cannot be bound, or would be open to other machines without tokens.
        """
        self.store, self.config = store, config or ServerConfig()
        self._hooks = hooks or Hooks()
        self._using, self._exchanging = threading.RLock(), False
        self.names = NamedWrites(lambda: self.store)
        address, tokens = self.config.address, self.config.tokens
        if not tokens and not is_local(address):
            raise ConfigError(f"{address} is open to other machines: give tokens, or bind to 127.0.0.1")
        self._rights = load_rights(store.layout, store.num_words)
        limit = self.config.max_waiting_bytes
        self.rpc = RpcServer(self, RpcConfig((address,), tokens, has_worker=True, max_waiting_bytes=limit))
        (self.address,) = self.rpc.addresses
        self._started, self._counts = time.time(), {"reads": 0, "writes": 0}

    def start(self) -> MemoryServer:
        """Serve in a thread of its own."""
        self.rpc.start()
        return self

    @contextmanager
    def exchange(self) -> Iterator[None]:
        """Pause all use of the store, so that the block can replace it."""
        with self._using:
            self._exchanging = True
            try:
                yield
                self.names.forget()
                self._rights = load_rights(self.store.layout, self.store.num_words)
            finally:
                self._exchanging = False

    def stop(self) -> None:
        """Finish pending calls and close; the store stays open."""
        self.rpc.stop()

    def serve(self) -> None:
        """Serve until ``stop``, in the caller's thread."""
        self.rpc.serve()

    def stat(self) -> dict[str, Any]:
        """Return what the server has done and what waits."""
        limit, waiting_bytes = self.config.max_waiting_bytes, self.rpc.waiting_bytes
        return {
            **self._counts, "refused": self.rpc.num_refused, "uptime_s": round(time.time() - self._started, 1),
            "waiting": self.rpc.num_waiting, "waiting_bytes": waiting_bytes, "max_waiting_bytes": limit,
            "state": "behind" if waiting_bytes >= limit else "ready",
        }  # fmt: skip

    @property
    def most_at_once(self) -> int:
        """See ``Service``: each write goes to the disk alone if the journal's policy says so."""
        return 1 if self.store.config.policy == "always" else MOST_WRITES

    def parse(self, call: Call) -> Request:
        """See ``Service``."""
        return parse_request(call)

    def reply_now(self, received: Received, *, is_next: bool) -> Frames | None:
        """See ``Service``: a read must see the writes that its client sent before it."""
        request, who = received.content, received.who
        if request.op == "ping" and who in PEERS and "ping" in self._hooks.operations:
            return pack_answer(self._hooks.operations["ping"](request))
        if request.op == "read" and is_next:
            with suppress(DamageError):
                return pack_answer(self._read(request, who))
        return None

    def replies(self, batch: Sequence[Received]) -> Iterator[Frames]:
        """See ``Service``; consecutive writes go to the disk together."""
        with self._using:
            try:
                answers = self._answer_in_order([(each.content, each.who) for each in batch])
            except Exception as error:
                # Any error must reach the clients that wait, and the server must go on.
                LOG.exception("a request failed")
                failure = StoreError(f"the server failed with {type(error).__name__} ({error}): see its log")
                answers = [error_answer(each.call.id, failure) for each in batch]
        return map(pack_answer, answers)

    def _read(self, request: Request, who: str) -> Answer:
        """Read ranges that the client may read.

        Raises:
            DamageError: a page is damaged; the writing thread can repair it.
        """
        self._counts["reads"] += len(request.start)
        try:
            if self._exchanging:
                raise NotPrimaryError("this replica is being made again")
            self._check(request)
            found = Guarded(self.store, self._rights, who).read(request.start, request.length)
            # Words read after this replica lost the lead or handed them over may be outdated.
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
        """Act, and again if damaged pages could be repaired."""
        try:
            return act()
        except DamageError as error:
            if self._hooks.mend is None:
                raise
            self._hooks.mend(error.pages)
        return act()

    def _answer_in_order(self, batch: Sequence[tuple[Request, str]]) -> list[Answer]:
        answers: list[Answer] = []
        while len(answers) < len(batch):
            first = len(answers)
            run = first
            while run < len(batch) and batch[run][0].op == "write":
                run += 1
            answers.extend(self._write(batch[first:run]) if run > first else [self._operate(*batch[first])])
        return answers

    def _write(self, batch: Sequence[tuple[Request, str]]) -> list[Answer]:
        try:
            return self._mended(lambda: self._write_together(batch))
        except LeWorldError as error:
            if len(batch) == 1:
                return [error_answer(batch[0][0].id, error)]
        # One write failed, so none was applied: try each alone.
        return [answer for each in batch for answer in self._write([each])]

    def _write_together(self, batch: Sequence[tuple[Request, str]]) -> list[Answer]:
        self._hooks.gate()
        for request, who in batch:
            self._rights.check_write(who, request.start, request.length)
        names = [text(request.arguments, "name", "") for request, _ in batch]
        new = self.names.not_made(names)
        for i in new:
            self._hooks.owns(batch[i][0])
        writes = [Write(batch[i][0].start, batch[i][0].blocks, batch[i][1], names[i]) for i in new]
        receipts = zip(new, self.store.write_many(writes), strict=True)
        made = {i: (receipt.sequence, receipt.crc32) for i, receipt in receipts}
        self._counts["writes"] += sum(len(batch[i][0].start) for i in new)
        self.names.remember({names[i]: write for i, write in made.items()})
        found = [made[i] if i in made else self.names.known()[name] for i, name in enumerate(names)]
        return [
            Answer(request.id, {"sequence": sequence, "crc32": crc32})
            for (request, _), (sequence, crc32) in zip(batch, found, strict=True)
        ]

    def _operate(self, request: Request, who: str) -> Answer:
        try:
            return self._mended(lambda: self._perform(request, who))
        except LeWorldError as error:
            return error_answer(request.id, error)

    def _perform(self, request: Request, who: str) -> Answer:
        if request.op == "read":
            return self._read(request, who)
        if request.op in self._hooks.operations:
            if who not in PEERS:
                raise RightsError(f"{who or 'nobody'} may not call {request.op}: only replicas may")
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


def is_local(address: str) -> bool:
    """Whether only this machine can reach an address."""
    if address.startswith(("ipc://", "inproc://")):
        return True
    host = address.removeprefix("tcp://").rsplit(":", 1)[0].strip("[]")
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
