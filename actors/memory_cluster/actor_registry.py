"""Calls and ends the actors of a cluster's memory by their names."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import ray
from ray.exceptions import RayActorError, RayError

from actors.errors import ActorError
from actors.memory.shard_map import shard_name
from actors.ray.actor_calls import translate
from actors.rpc.retry import Pause, attempts
from leworld.errors import LeWorldError

RAY_NAMESPACE = "leworld"
PAUSE = Pause(0.1)
STOP_S = 30.0
GONE_S = 10.0
LOGS = "see Ray's logs, and whether its node is up"

Place = tuple[int, int]
"""A shard and which replica of it."""


def supervisor_name(memory: str) -> str:
    """Return the name of a memory's supervisor actor."""
    return f"{memory}/keeper"


def replica_name(memory: str, place: Place) -> str:
    """Return the name of a replica's actor."""
    return f"{memory}/{shard_name(place[0])}/copy-{place[1]}"


def is_up(name: str) -> bool:
    """Whether an actor of this name exists; it may be starting."""
    try:
        ray.get_actor(name, RAY_NAMESPACE)
    except ValueError:
        return False
    return True


def replicas_of(memory: str) -> dict[Place, str]:
    """Return the names of all replica actors that run or are starting."""
    found = {}
    actors: list[Any] = ray.util.list_named_actors(all_namespaces=True)
    for actor in actors:
        owner, _, rest = actor["name"].partition("/shard-")
        if actor["namespace"] == RAY_NAMESPACE and owner == memory and rest:
            shard, _, copy = rest.partition("/copy-")
            found[int(shard), int(copy)] = actor["name"]
    return found


def call_actors(names: Mapping[Any, str], method: str, timeout_s: float, *arguments: Any) -> dict[Any, Any]:
    """Call actors, and call again those that restart meanwhile.

    Args:
        names: of the actors, by their keys in the answer.
        method: to call; it may be called more than once.
        timeout_s: for all of them together.
        arguments: of the method.

    Raises:
        LeWorldError: the first error that an actor raises.
        ActorError: an actor does not answer in time or does not exist.
    """
    answers, pending, late = {}, {}, list[str]()
    for _ in attempts(timeout_s, PAUSE):
        for key, name in names.items():
            if key not in answers and key not in pending:
                with suppress(ValueError):
                    pending[key] = getattr(ray.get_actor(name, RAY_NAMESPACE), method).remote(*arguments)
        done = ray.wait(list(pending.values()), num_returns=len(pending), timeout=PAUSE.first_s)[0] if pending else []
        for key in [key for key, ref in pending.items() if ref in done]:
            with suppress(RayActorError):
                answers[key] = _answer(pending[key], names[key])
            del pending[key]
        late = [name for key, name in names.items() if key not in answers]
        if not late:
            return answers
    raise ActorError(", ".join(late), f"did not answer in {timeout_s:g} s", LOGS)


def end_actors(names: Mapping[Any, str], method: str = "stop") -> None:
    """Ask actors to stop, then end them whether they answer or not; none is left on return."""
    handles = {}
    for name in names.values():
        with suppress(ValueError):
            handles[name] = ray.get_actor(name, RAY_NAMESPACE)
    pending = [getattr(handle, method).remote() for handle in handles.values()]
    if pending:
        ray.wait(pending, num_returns=len(pending), timeout=STOP_S)
    for handle in handles.values():
        ray.kill(handle)
    for _ in attempts(GONE_S, PAUSE):
        if not any(is_up(name) for name in handles):
            return


def _answer(ref: Any, name: str) -> Any:
    try:
        return ray.get(ref, timeout=0)
    except RayActorError:
        raise
    except (RayError, LeWorldError) as error:
        raise translate(error, name, LOGS) from None
