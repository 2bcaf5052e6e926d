"""Calls to many actors at once: every one has a timeout, and a failure names the actor and the way out."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import ray
from ray.exceptions import ActorUnschedulableError, GetTimeoutError, RayActorError, RayError, RayTaskError

from actors.errors import ActorError, LostError
from leworld.errors import LeWorldError

PAUSE_S, DIED = 0.2, "died"
RESUME = "continue from the last checkpoint with 'leworld resume'"

PredictionService = Callable[[], dict[int, Any]]
"""Waits for what was asked, and gives each target's answer."""


class Peers(Protocol):
    """Some objects that can be asked, wherever they live."""

    names: tuple[str, ...]

    def start(self, method: str, messages: Mapping[int, tuple[Any, ...]], patience: float = 1.0) -> PredictionService:
        """Send one message to each target.

        Args:
            method: what to call.
            messages: target to the arguments that it gets.
            patience: multiple of the usual timeout.
        """
        ...


class PeerGroup:
    """Several ``Peers`` as one, numbered one after the other, but for one of them.

    Attributes:
        names: of all.
    """

    def __init__(self, parts: Sequence[Peers], without: int | None = None) -> None:
        every = [(part, target) for part in parts for target in range(len(part.names))]
        self._places = [place for number, place in enumerate(every) if number != without]
        self.names = tuple(part.names[target] for part, target in self._places)

    def start(self, method: str, messages: Mapping[int, tuple[Any, ...]], patience: float = 1.0) -> PredictionService:
        """See ``Peers``."""
        asked: dict[int, tuple[Peers, dict[int, tuple[Any, ...]], dict[int, int]]] = {}
        for number, arguments in messages.items():
            part, target = self._places[number]
            _, own, numbers = asked.setdefault(id(part), (part, {}, {}))
            own[target], numbers[target] = arguments, number
        pending = [(part.start(method, own, patience), numbers) for part, own, numbers in asked.values()]

        def answers() -> dict[int, Any]:
            found = {numbers[target]: answer for wait, numbers in pending for target, answer in wait().items()}
            return {number: found[number] for number in messages}

        return answers


class ActorPeers:
    """Ray actors as ``Peers``."""

    def __init__(self, handles: Sequence[Any], names: Sequence[str], timeout_s: float) -> None:
        assert len(handles) == len(names), (len(handles), len(names))
        self.handles = tuple(handles)
        self.names = tuple(names)
        self.timeout_s = timeout_s

    def start(self, method: str, messages: Mapping[int, tuple[Any, ...]], patience: float = 1.0) -> PredictionService:
        """See ``Peers``."""
        refs = [getattr(self.handles[target], method).remote(*arguments) for target, arguments in messages.items()]
        names = [self.names[target] for target in messages]
        return lambda: dict(zip(messages, gather(refs, names, patience * self.timeout_s), strict=True))


def when_up(
    handles: Sequence[Any], method: str, messages: Sequence[tuple[Any, ...]], names: Sequence[str], timeout_s: float
) -> list[Any]:
    """Ask actors what may be asked again; those that are just being started again are waited for.

    Raises:
        ActorError: one does not come up.
    """
    end = time.monotonic() + timeout_s
    while True:
        try:
            asked = [getattr(handle, method).remote(*given) for handle, given in zip(handles, messages, strict=True)]
            return gather(asked, names, timeout_s)
        except ActorError as error:
            if error.problem != DIED or time.monotonic() > end:
                raise
        time.sleep(PAUSE_S)


class Watch:
    """Sees whether actors are gone, without asking them anything."""

    def __init__(self, handles: Sequence[Any], names: Sequence[str]) -> None:
        """Watch actors that have a method ``watch``, which never returns."""
        self._refs, self._names = [handle.watch.remote() for handle in handles], tuple(names)

    def is_lost(self, target: int) -> LeWorldError | None:
        """What to raise where an actor is gone, by its number."""
        if not _is_done(self._refs[target]):
            return None
        try:
            ray.get(self._refs[target], timeout=0)
        except (RayError, LeWorldError) as error:
            return translate(error, self._names[target])
        return None


def ask(peers: Peers, method: str, messages: Mapping[int, tuple[Any, ...]] | None = None) -> dict[int, Any]:
    """Send one message to each target (everyone, without arguments, by default) and wait for the answers."""
    return peers.start(method, dict.fromkeys(range(len(peers.names)), ()) if messages is None else messages)()


def gather(refs: Sequence[Any], names: Sequence[str], timeout_s: float) -> list[Any]:
    """Get the results of many calls.

    Args:
        refs: one a call.
        names: of the actors called.
        timeout_s: for all of them together.

    Raises:
        ActorError: an actor died, was too slow or failed.
        LeWorldError: the one that an actor raised.
    """
    try:
        return ray.get(list(refs), timeout=timeout_s)
    except GetTimeoutError:
        raise _too_slow(refs, names, timeout_s) from None
    except (RayError, LeWorldError) as error:
        raise _first_failure(refs, names, error) from None


def _too_slow(refs: Sequence[Any], names: Sequence[str], timeout_s: float) -> ActorError:
    late = [name for ref, name in zip(refs, names, strict=True) if not _is_done(ref)]
    who = ", ".join(late) or names[0]
    return ActorError(who, f"did not answer in {timeout_s:g} s", f"raise cluster.timeout_s, or {RESUME}")


def _first_failure(refs: Sequence[Any], names: Sequence[str], error: Exception) -> LeWorldError:
    """One get over many calls does not say which of them failed."""
    for ref, name in zip(refs, names, strict=True):
        if _is_done(ref):
            try:
                ray.get(ref, timeout=0)
            except (RayError, LeWorldError) as own:
                return translate(own, name)
    return translate(error, ", ".join(names))


def _is_done(ref: Any) -> bool:
    done, _ = ray.wait([ref], timeout=0, fetch_local=False)
    return bool(done)


def translate(error: Exception, name: str) -> LeWorldError:
    """Turn what Ray raises for a call into an error of ours."""
    cause = error.cause if isinstance(error, RayTaskError) else error
    if isinstance(cause, LeWorldError):
        return cause
    if isinstance(cause, RayActorError):
        return ActorError(name, DIED, f"see that machine's memory and Ray's logs, then {RESUME}")
    if isinstance(cause, ActorUnschedulableError):
        return LostError(name, "was lost with its machine", f"{RESUME}, which takes the machines that are there")
    first_line = (str(cause).strip() or "no message").splitlines()[0]
    return ActorError(name, f"failed with {type(cause).__name__} ({first_line})", f"mend the cause, then {RESUME}")
