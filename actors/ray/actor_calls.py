"""Calls to many Ray actors at once: each has a timeout, and an error names the actor and what to do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import ray
from ray.exceptions import ActorUnschedulableError, GetTimeoutError, RayActorError, RayError, RayTaskError

from actors.errors import ActorError, LostError
from actors.rpc.calls import RESUME
from actors.rpc.retry import Pause, attempts
from leworld.errors import LeWorldError

PAUSE, DIED = Pause(0.2), "died"


def when_up(
    handles: Sequence[Any], method: str, messages: Sequence[tuple[Any, ...]], names: Sequence[str], timeout_s: float
) -> list[Any]:
    """Call a repeatable method of actors; wait for those that are restarting.

    Raises:
        ActorError: an actor does not start.
    """
    problem = ActorError(", ".join(names), DIED, RESUME)
    for _ in attempts(timeout_s, PAUSE):
        try:
            refs = [getattr(handle, method).remote(*given) for handle, given in zip(handles, messages, strict=True)]
            return gather(refs, names, timeout_s)
        except ActorError as error:
            if error.problem != DIED:
                raise
            problem = error
    raise problem


class Watch:
    """Detects lost actors without a call."""

    def __init__(self, handles: Sequence[Any], names: Sequence[str]) -> None:
        """Watch actors that have a method ``watch``, which never returns."""
        self._refs, self._names = [handle.watch.remote() for handle in handles], tuple(names)

    def is_lost(self, target: int) -> LeWorldError | None:
        """Return the error for a lost actor, by its number; None if it lives."""
        if not _is_done(self._refs[target]):
            return None
        try:
            ray.get(self._refs[target], timeout=0)
        except (RayError, LeWorldError) as error:
            return translate(error, self._names[target])
        return None


def gather(refs: Sequence[Any], names: Sequence[str], timeout_s: float) -> list[Any]:
    """Return the results of many calls.

    Args:
        refs: one for each call.
        names: of the called actors.
        timeout_s: for all of them together.

    Raises:
        ActorError: an actor died, was too slow or failed.
        LeWorldError: an actor raised it.
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
    """Find the failed call; one get over many calls does not name it."""
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


def translate(error: Exception, name: str, way_out: str = f"mend the cause, then {RESUME}") -> LeWorldError:
    """Turn Ray's error for a call into a LeWorldError."""
    cause = error.cause if isinstance(error, RayTaskError) else error
    if isinstance(cause, LeWorldError):
        return cause
    if isinstance(cause, RayActorError):
        return ActorError(name, DIED, f"see that machine's memory and Ray's logs, then {RESUME}")
    if isinstance(cause, ActorUnschedulableError):
        return LostError(name, "was lost with its machine", f"{RESUME}, which takes the machines that are there")
    first_line = (str(cause).strip() or "no message").splitlines()[0]
    return ActorError(name, f"failed with {type(cause).__name__} ({first_line})", way_out)
