"""Processes that work at once and say how much they did."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any

from store_speed.rounds import Rate


class Team:
    """Some processes, each with a rate of its own; what they do in a turn is added up."""

    def __init__(self, make: Callable[..., Rate], *arguments: Any, members: int = 2) -> None:
        """Start them, and wait until each has made its rate.

        Args:
            make: function of a module: (number of the member, *arguments) to a rate.
            arguments: for ``make``.
            members: how many.
        """
        context = multiprocessing.get_context("spawn")
        self._pipes, self._processes = [], []
        for number in range(members):
            near, far = context.Pipe()
            process = context.Process(target=_serve, args=(far, make, number, *arguments), daemon=True)
            process.start()
            far.close()
            self._pipes.append(near)
            self._processes.append(process)
        for pipe in self._pipes:
            pipe.recv()

    def __enter__(self) -> Team:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        for pipe in self._pipes:
            pipe.send(None)
        for process in self._processes:
            process.join()

    def rate(self, seconds: float) -> float:
        """Units a second of all of them at once."""
        for pipe in self._pipes:
            pipe.send(seconds)
        return sum(pipe.recv() for pipe in self._pipes)


def _serve(pipe: Connection, make: Callable[..., Rate], number: int, *arguments: Any) -> None:
    rate = make(number, *arguments)
    pipe.send("ready")
    while (seconds := pipe.recv()) is not None:
        pipe.send(rate(seconds))
