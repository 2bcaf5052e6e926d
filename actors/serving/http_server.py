"""An HTTP server in a thread."""

from __future__ import annotations

import asyncio
import socket
import threading

from aiohttp import web

from actors.serving.http_app import PredictionAPI
from leworld.errors import ConfigError


class HTTPServer:
    """Serves a ``PredictionAPI``.

    Attributes:
        url: of the server.
    """

    def __init__(self, api: PredictionAPI, host: str, port: int, *, shared: bool = False) -> None:
        """Bind and serve.

        Args:
            api: to serve.
            host: address to bind.
            port: to bind; 0 takes a free one.
            shared: whether other servers of this machine have the same port, and the system deals out connections.

        Raises:
            ConfigError: it cannot be bound.
        """
        self._socket = _bound(host, port, shared)
        shown = f"[{host}]" if ":" in host else host
        self.url = f"http://{shown}:{self._socket.getsockname()[1]}"
        self._loop, self._ended = asyncio.new_event_loop(), threading.Event()
        self._stopping = asyncio.Event()
        self._thread = threading.Thread(target=self._serve, args=(api.app(),), name="http", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Close; what is being answered is answered."""
        self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join()

    def _serve(self, app: web.Application) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._run(app))
        self._loop.close()

    async def _run(self, app: web.Application) -> None:
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.SockSite(runner, self._socket).start()
        await self._stopping.wait()
        await runner.cleanup()


def _bound(host: str, port: int, shared: bool) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    found = socket.socket(family, socket.SOCK_STREAM)
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT if shared else socket.SO_REUSEADDR, 1)
    try:
        found.bind((host, port))
    except (OSError, OverflowError) as error:
        found.close()
        reason = getattr(error, "strerror", None) or str(error)
        raise ConfigError(f"{host}:{port} cannot be bound ({reason}): give another --host or --port") from None
    found.listen(128)
    return found
