"""Predictions that wait. Those that wait at the same time are answered together."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from actors.serving.http_messages import MOST_SAMPLES
from actors.serving.predictor import Plain, PredictionCall

Predict = Callable[[Sequence[PredictionCall]], Awaitable[list[Plain]]]


class Overloaded(Exception):
    """Too many calls wait; its text is one line."""


@dataclass(frozen=True)
class PendingCall:
    """A call, and the future of its response."""

    call: PredictionCall
    response: asyncio.Future[Plain]


class PendingCalls:
    """The calls of one event loop."""

    def __init__(self, predict: Predict, most: int) -> None:
        """Make an empty queue.

        Args:
            predict: answers several calls at once.
            most: calls that may wait.
        """
        self._predict, self._most = predict, most
        self._queue: asyncio.Queue[PendingCall] = asyncio.Queue(most)

    def __len__(self) -> int:
        return self._queue.qsize()

    async def answered(self, call: PredictionCall) -> Plain:
        """Wait for the response to a call.

        Raises:
            Overloaded: too many wait already.
            LeWorldError: the prediction failed.
        """
        response: asyncio.Future[Plain] = asyncio.get_running_loop().create_future()
        try:
            self._queue.put_nowait(PendingCall(call, response))
        except asyncio.QueueFull:
            raise Overloaded(f"{self._most} predictions wait already: try again later") from None
        return await response

    async def answer_all(self) -> None:
        """Answer calls until cancelled."""
        while True:
            waiting = await self._batch()
            try:
                responses = await self._predict([each.call for each in waiting])
            except Exception as error:
                for each in waiting:
                    if not each.response.done():
                        each.response.set_exception(error)
                continue
            for each, response in zip(waiting, responses, strict=True):
                # The client may have gone.
                if not each.response.done():
                    each.response.set_result(response)

    async def _batch(self) -> list[PendingCall]:
        """Take the next call, and those that wait with it, up to so many samples."""
        found = [await self._queue.get()]
        samples = len(found[0].call)
        while not self._queue.empty() and samples < MOST_SAMPLES:
            found.append(self._queue.get_nowait())
            samples += len(found[-1].call)
        return found
