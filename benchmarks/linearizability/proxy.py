"""Connections that can be cut: each goes through here, to a port that its server has put into a file."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Mapping, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path

CHUNK_BYTES = 1 << 16


class Link:
    """All connections to one server by one way.

    Attributes:
        let: by direction, whether bytes go on; ``refuse``: whether a new connection ends at once.
        clip: whether half of the next bytes is sent, and then the connection ends.
    """

    def __init__(self, target: Path) -> None:
        self.target = target
        self.let = {"to": asyncio.Event(), "from": asyncio.Event()}
        self.refuse = self.clip = False
        self.writers: set[asyncio.StreamWriter] = set()
        for event in self.let.values():
            event.set()

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Pass a connection on."""
        other: asyncio.StreamWriter | None = None
        self.writers.add(writer)
        with suppress(OSError, ValueError):
            if not self.refuse:
                back, other = await asyncio.open_connection("127.0.0.1", int(self.target.read_text()))
                self.writers.add(other)
                ways = [self._pump(reader, other, "to"), self._pump(back, writer, "from")]
                tasks = [asyncio.ensure_future(way) for way in ways]
                await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                for task in tasks:
                    task.cancel()
        for each in (writer, other):
            if each is not None:
                self.writers.discard(each)
                each.transport.abort()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, way: str) -> None:
        with suppress(OSError):
            while data := await reader.read(CHUNK_BYTES):
                await self.let[way].wait()
                if self.clip:
                    self.clip = False
                    writer.write(data[: len(data) // 2])
                    await asyncio.sleep(0.001)
                    return
                writer.write(data)
                await writer.drain()

    def do(self, what: str) -> None:
        """One of: hold to, hold from, go on, drop, clip, refuse."""
        if what.startswith("hold "):
            self.let[what.removeprefix("hold ")].clear()
        elif what == "clip":
            self.clip = True
        elif what == "go on":
            self.refuse = self.clip = False
            for event in self.let.values():
                event.set()
        else:
            self.refuse = what == "refuse"
            for writer in list(self.writers):
                writer.transport.abort()


def serve(sockets: Mapping[str, socket.socket], targets: Mapping[str, Path], commands: Connection) -> None:
    """Serve links by name, until the other end of ``commands`` is closed; a command is a link's name and what to do."""
    asyncio.run(_serve(sockets, targets, commands))


async def _serve(sockets: Mapping[str, socket.socket], targets: Mapping[str, Path], commands: Connection) -> None:
    links = {name: Link(target) for name, target in targets.items()}
    servers = [await asyncio.start_server(links[name].accept, sock=sockets[name]) for name in links]
    ended, loop = asyncio.Event(), asyncio.get_running_loop()

    def obey() -> None:
        try:
            name, what = commands.recv()
        except EOFError:
            loop.remove_reader(commands.fileno())
            ended.set()
            return
        links[name].do(what)

    loop.add_reader(commands.fileno(), obey)
    await ended.wait()
    for server in servers:
        server.close()


def listening(names: Sequence[str]) -> dict[str, socket.socket]:
    """A socket with a port of its own for each name."""
    return {name: socket.create_server(("127.0.0.1", 0)) for name in names}
