"""The HTTP door: JSON in, JSON out. Questions that come while others are answered are answered together next.

``GET /health``, ``GET /about``, ``POST /predict``, ``POST /read``, ``POST /write``; errors are ``{"error": line}``.
"""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from aiohttp import web

from actors.errors import ActorError
from actors.serving.predictor import MOST_SAMPLES, Plain, PredictionQuestion, PredictionService
from leworld.errors import DataError, LeWorldError, RangeError, RightsError, StoreError

MOST_BYTES = 64 << 20
"""Of a request."""
MOST_WORDS = 1 << 20
"""Of a read."""
MOST_WAITING = 256
"""Questions that are not answered yet; further ones are refused."""
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True)
class PendingCall:
    """A question, and who waits for the answer."""

    question: PredictionQuestion
    answer: asyncio.Future[Plain]


class PredictionAPI:
    """PredictionService over HTTP, in one event loop; the work is done in one thread beside it."""

    def __init__(self, answers: PredictionService, tokens: Mapping[str, str] | None) -> None:
        """Make the door.

        Args:
            answers: to what is asked.
            tokens: token to who brings it, as ``Authorization: Bearer TOKEN``; None lets everyone in.
        """
        self._answers, self._tokens = answers, tokens
        self._worker = ThreadPoolExecutor(1, "door")
        self._queue: asyncio.Queue[PendingCall] = asyncio.Queue(MOST_WAITING)

    def app(self) -> web.Application:
        """The application of aiohttp."""
        app = web.Application(client_max_size=MOST_BYTES, middlewares=[self._guard])
        app.router.add_get("/health", self._health)
        app.router.add_get("/about", self._about)
        app.router.add_post("/predict", self._predict)
        app.router.add_post("/read", self._read)
        app.router.add_post("/write", self._write)
        app.cleanup_ctx.append(self._answering)
        return app

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Let in who may come, and tell errors in one line."""
        try:
            if request.path != "/health":
                self._check(request.headers.get("Authorization", ""))
            return await handler(request)
        except web.HTTPException as error:
            return refused(error.status, error.text or error.reason)
        except LeWorldError as error:
            return refused(status_of(error), str(error))

    def _check(self, header: str) -> None:
        if self._tokens is None:
            return
        # What is no UTF-8 comes as surrogates.
        kind, _, given = header.partition(" ")
        token_given = given.encode("utf-8", "surrogateescape")
        if kind != "Bearer" or not any(hmac.compare_digest(token_given, token.encode()) for token in self._tokens):
            raise web.HTTPUnauthorized(text="the token is not known here: send 'Authorization: Bearer TOKEN'")

    async def _answering(self, app: web.Application) -> AsyncIterator[None]:
        task = asyncio.create_task(self._answer_all())
        yield
        task.cancel()
        self._worker.shutdown(wait=False, cancel_futures=True)

    async def _answer_all(self) -> None:
        while True:
            waiting = await self._together()
            questions = [each.question for each in waiting]
            try:
                answers = await self._in_worker(self._answers.answer, questions)
            except Exception as error:
                for each in waiting:
                    _end(each.answer, error=error)
            else:
                for each, answer in zip(waiting, answers, strict=True):
                    _end(each.answer, answer)

    async def _together(self) -> Sequence[PendingCall]:
        """The next question, and with it those that wait, up to so many samples."""
        found = [await self._queue.get()]
        samples = len(found[0].question)
        while not self._queue.empty() and samples < MOST_SAMPLES:
            found.append(self._queue.get_nowait())
            samples += len(found[-1].question)
        return found

    async def _in_worker(self, work: Callable[..., Any], *given: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._worker, work, *given)

    async def _health(self, request: web.Request) -> web.Response:
        return web.json_response({"status": "ok", "waiting": self._queue.qsize(), "events": self._answers.events})

    async def _about(self, request: web.Request) -> web.Response:
        return web.json_response(self._answers.about())

    async def _predict(self, request: web.Request) -> web.Response:
        question = await asyncio.to_thread(self._answers.question, await content(request))
        answer: asyncio.Future[Plain] = asyncio.get_running_loop().create_future()
        try:
            self._queue.put_nowait(PendingCall(question, answer))
        except asyncio.QueueFull:
            raise web.HTTPServiceUnavailable(text=f"{MOST_WAITING} questions wait already: ask again later") from None
        return web.json_response(await answer)

    async def _read(self, request: web.Request) -> web.Response:
        start, length = integers(await content(request), "start", "length")
        if length.size and (int(length.max()) > MOST_WORDS or int(length.sum()) > MOST_WORDS):
            raise DataError(f"length is {int(length.sum())} words in all: read up to {MOST_WORDS} at once")
        found = await self._in_worker(self._answers.read, start, length)
        return web.json_response({"words": [part.tolist() for part in np.split(found.words, found.offsets[1:-1])]})

    async def _write(self, request: web.Request) -> web.Response:
        start, words = integers(await content(request), "start", "words")
        if words.ndim != 2 or start.shape != words.shape[:1]:
            raise DataError(f"words has shape {words.shape}: give {start.size} blocks of one length, one a start")
        if words.size and not (int(words.min()) >= 0 and int(words.max()) < 1 << 32):
            raise DataError("words has a number outside [0, 2^32): a word has 32 bits")
        receipt = await self._in_worker(self._answers.write, start, words.astype(np.uint32))
        return web.json_response({"sequence": int(receipt.sequence), "crc32": int(receipt.crc32)})


async def content(request: web.Request) -> Mapping[str, Any]:
    """The JSON object that a request brings.

    Raises:
        DataError: it brings something else.
    """
    try:
        found = await request.json()
    except (ValueError, RecursionError) as error:
        raise DataError(f"the request is no JSON ({error}): send an object") from None
    if not isinstance(found, dict):
        raise DataError(f"the request is a {type(found).__name__}: send a JSON object")
    return found


def integers(given: Mapping[str, Any], *names: str) -> list[np.ndarray]:
    """Fields that are (lists of) whole numbers, and no others.

    Raises:
        DataError: one is missing, not known, or something else.
    """
    if sorted(given) != sorted(names):
        raise DataError(f"the request has {', '.join(map(str, given)) or 'nothing'}: give {' and '.join(names)}")
    found = []
    for name in names:
        try:
            array = np.asarray(given[name])
        except ValueError:
            array = np.asarray(None)
        if array.size == 0 or array.ndim == 0 or array.dtype.kind not in "iu":
            raise DataError(f"{name} is no list of whole numbers: give addresses, lengths or words")
        found.append(array)
    return found


def status_of(error: LeWorldError) -> int:
    """What HTTP calls an error of ours."""
    if isinstance(error, RightsError):
        return 403
    if isinstance(error, ActorError | StoreError):
        return 503
    return 400 if isinstance(error, DataError | RangeError) else 500


def refused(status: int, line: str) -> web.Response:
    """An error, in one line."""
    return web.json_response({"error": line}, status=status)


def _end(waiting: asyncio.Future[Plain], answer: Plain | None = None, error: BaseException | None = None) -> None:
    # Who asked may have gone.
    if waiting.done():
        return
    if error is not None:
        waiting.set_exception(error)
    else:
        assert answer is not None
        waiting.set_result(answer)
