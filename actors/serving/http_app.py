"""The HTTP interface: JSON in, JSON out; errors are ``{"error": line}``. ``GET /openapi.json`` describes it."""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from aiohttp import web
from pydantic import BaseModel

from actors.errors import ActorError
from actors.serving import http_messages as messages
from actors.serving.http_messages import parse
from actors.serving.openapi import Route, document
from actors.serving.pending_calls import Overloaded, PendingCalls
from actors.serving.predictor import PredictionCall, PredictionService
from leworld.errors import DataError, LeWorldError, RangeError, RightsError, StoreError

MOST_BYTES = 64 << 20
"""Largest request."""
MOST_WORDS = 1 << 20
"""Largest read."""
MOST_WAITING = 256
"""Predictions that may wait; further ones are refused."""
ROUTES = (
    Route("GET", "/health", "State of the server; needs no token", messages.HealthResponse, is_open=True),
    Route("GET", "/about", "Sizes of the system that is served", messages.AboutResponse),
    Route("POST", "/predict", "Predict samples", messages.PredictResponse, messages.PredictRequest),
    Route("POST", "/read", "Read words of the memory", messages.ReadResponse, messages.ReadRequest),
    Route(
        "POST", "/write", "Write words, which the next prediction reads", messages.WriteResponse, messages.WriteRequest
    ),
)
OPEN_PATHS = {route.path for route in ROUTES if route.is_open}
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class PredictionAPI:
    """A ``PredictionService`` over HTTP, in one event loop. One thread beside it does the work."""

    def __init__(self, service: PredictionService, tokens: Mapping[str, str] | None) -> None:
        """Make the interface.

        Args:
            service: answers.
            tokens: token to its owner, sent as ``Authorization: Bearer TOKEN``; None permits every client.
        """
        self._service, self._tokens = service, tokens
        self._worker = ThreadPoolExecutor(1, "predictions")
        self._pending = PendingCalls(lambda calls: self._in_worker(service.predict, calls), MOST_WAITING)

    def app(self) -> web.Application:
        """Return the application of aiohttp."""
        app = web.Application(client_max_size=MOST_BYTES, middlewares=[self._guard])
        for route in ROUTES:
            app.router.add_route(route.method, route.path, getattr(self, f"_{route.path[1:]}"))
        app.router.add_get("/openapi.json", self._openapi)
        app.cleanup_ctx.append(self._answering)
        return app

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Check the token, and turn errors into one line."""
        try:
            if request.path not in OPEN_PATHS:
                self._check(request.headers.get("Authorization", ""))
            return await handler(request)
        except web.HTTPException as error:
            return refused(error.status, error.text or error.reason)
        except Overloaded as error:
            return refused(503, str(error))
        except LeWorldError as error:
            return refused(status_of(error), str(error))

    def _check(self, header: str) -> None:
        if self._tokens is None:
            return
        # Bytes that are not UTF-8 come as surrogates.
        kind, _, given = header.partition(" ")
        token_given = given.encode("utf-8", "surrogateescape")
        if kind != "Bearer" or not any(hmac.compare_digest(token_given, token.encode()) for token in self._tokens):
            raise web.HTTPUnauthorized(text="unknown token: send 'Authorization: Bearer TOKEN'")

    async def _answering(self, app: web.Application) -> AsyncIterator[None]:
        task = asyncio.create_task(self._pending.answer_all())
        yield
        task.cancel()
        self._worker.shutdown(wait=False, cancel_futures=True)

    async def _in_worker(self, work: Callable[..., Any], *given: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._worker, work, *given)

    async def _health(self, request: web.Request) -> web.Response:
        return send(messages.HealthResponse(waiting=len(self._pending), events=self._service.events))

    async def _about(self, request: web.Request) -> web.Response:
        return send(self._service.about())

    async def _openapi(self, request: web.Request) -> web.Response:
        return web.json_response(document(ROUTES))

    async def _predict(self, request: web.Request) -> web.Response:
        call = await asyncio.to_thread(self._prepared, await request.read())
        return send(messages.PredictResponse(**await self._pending.answered(call)))

    def _prepared(self, content: bytes) -> PredictionCall:
        return self._service.prepare(parse(messages.PredictRequest, content))

    async def _read(self, request: web.Request) -> web.Response:
        body = parse(messages.ReadRequest, await request.read())
        if max(body.length) > MOST_WORDS or sum(body.length) > MOST_WORDS:
            raise DataError(f"length is {sum(body.length)} words in all: read up to {MOST_WORDS} at once")
        found = await self._in_worker(
            self._service.read, integers("start", body.start), integers("length", body.length)
        )
        words = [part.tolist() for part in np.split(found.words, found.offsets[1:-1])]
        return send(messages.ReadResponse(words=words))

    async def _write(self, request: web.Request) -> web.Response:
        body = parse(messages.WriteRequest, await request.read())
        widths = {len(block) for block in body.words}
        if len(body.words) != len(body.start) or len(widths) != 1 or 0 in widths:
            raise DataError(
                f"words has {len(body.words)} blocks of {sorted(widths)} words:"
                f" give {len(body.start)} blocks of one length, one for each start"
            )
        words = np.array(body.words, np.uint32)
        receipt = await self._in_worker(self._service.write, integers("start", body.start), words)
        return send(messages.WriteResponse(sequence=int(receipt.sequence), crc32=int(receipt.crc32)))


def integers(name: str, values: list[int]) -> np.ndarray:
    """Convert addresses or lengths.

    Raises:
        DataError: one does not fit into 64 bits.
    """
    try:
        return np.array(values, np.int64)
    except OverflowError:
        raise DataError(f"{name} has a number outside [-2^63, 2^63): give addresses or lengths") from None


def status_of(error: LeWorldError) -> int:
    """Return the HTTP status for one of our errors."""
    if isinstance(error, RightsError):
        return 403
    if isinstance(error, ActorError | StoreError):
        return 503
    return 400 if isinstance(error, DataError | RangeError) else 500


def send(message: BaseModel) -> web.Response:
    """Respond with a message as JSON."""
    return web.Response(text=message.model_dump_json(), content_type="application/json")


def refused(status: int, line: str) -> web.Response:
    """Respond with an error of one line."""
    return web.json_response({"error": line}, status=status)
