"""Calls to many objects at once, wherever they live."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

RESUME = "continue from the last checkpoint with 'leworld resume'"

PendingAnswers = Callable[[], dict[int, Any]]
"""Waits for what was called, and gives each target's answer."""


class Peers(Protocol):
    """Some objects that can be called, wherever they live."""

    names: tuple[str, ...]

    def start(self, method: str, messages: Mapping[int, tuple[Any, ...]], patience: float = 1.0) -> PendingAnswers:
        """Send one message to each target.

        Args:
            method: to call.
            messages: target to its arguments.
            patience: multiple of the usual timeout.
        """
        ...


class PeerGroup:
    """Several ``Peers`` as one, numbered consecutively, except the target ``without``.

    Attributes:
        names: of all.
    """

    def __init__(self, parts: Sequence[Peers], without: int | None = None) -> None:
        every = [(part, target) for part in parts for target in range(len(part.names))]
        self._places = [place for number, place in enumerate(every) if number != without]
        self.names = tuple(part.names[target] for part, target in self._places)

    def start(self, method: str, messages: Mapping[int, tuple[Any, ...]], patience: float = 1.0) -> PendingAnswers:
        """See ``Peers``."""
        called: dict[int, tuple[Peers, dict[int, tuple[Any, ...]], dict[int, int]]] = {}
        for number, arguments in messages.items():
            part, target = self._places[number]
            _, own, numbers = called.setdefault(id(part), (part, {}, {}))
            own[target], numbers[target] = arguments, number
        pending = [(part.start(method, own, patience), numbers) for part, own, numbers in called.values()]

        def answers() -> dict[int, Any]:
            found = {numbers[target]: answer for wait, numbers in pending for target, answer in wait().items()}
            return {number: found[number] for number in messages}

        return answers


def call_all(peers: Peers, method: str, messages: Mapping[int, tuple[Any, ...]] | None = None) -> dict[int, Any]:
    """Send one message to each target (every one, without arguments, by default) and wait for the answers."""
    return peers.start(method, dict.fromkeys(range(len(peers.names)), ()) if messages is None else messages)()
