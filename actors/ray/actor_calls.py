"""Calls to many Ray actors at once: every one has a timeout, and a failure names the actor and the way out."""

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
    """Call actors what may be called again; those that are just being started again are waited for.

    Raises:
        ActorError: one does not come up.
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
    """Sees whether actors are gone, without a call."""

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


def translate(error: Exception, name: str, way_out: str = f"mend the cause, then {RESUME}") -> LeWorldError:
    """Turn what Ray raises for a call into an error of ours."""
    cause = error.cause if isinstance(error, RayTaskError) else error
    if isinstance(cause, LeWorldError):
        return cause
    if isinstance(cause, RayActorError):
        return ActorError(name, DIED, f"see that machine's memory and Ray's logs, then {RESUME}")
    if isinstance(cause, ActorUnschedulableError):
        return LostError(name, "was lost with its machine", f"{RESUME}, which takes the machines that are there")
    first_line = (str(cause).strip() or "no message").splitlines()[0]
    return ActorError(name, f"failed with {type(cause).__name__} ({first_line})", way_out)
