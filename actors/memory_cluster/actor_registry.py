"""The actors of a cluster's memory by their names: asked all at once, and ended."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import ray
from ray.exceptions import RayActorError, RayError, RayTaskError

from actors.errors import ActorError
from actors.memory.shard_map import shard_name
from leworld.errors import LeWorldError

RAY_NAMESPACE = "leworld"
PAUSE_S = 0.1
STOP_S = 30.0
GONE_S = 10.0
LOGS = "see Ray's logs, and whether its node is up"

Place = tuple[int, int]
"""A shard and which copy of it."""


def keeper_name(memory: str) -> str:
    """Of the actor that keeps a memory."""
    return f"{memory}/keeper"


def copy_name(memory: str, place: Place) -> str:
    """Of a copy's actor."""
    return f"{memory}/{shard_name(place[0])}/copy-{place[1]}"


def is_up(name: str) -> bool:
    """Whether there is an actor of a name; it may be starting."""
    try:
        ray.get_actor(name, RAY_NAMESPACE)
    except ValueError:
        return False
    return True


def copies_of(memory: str) -> dict[Place, str]:
    """Names of the actors of all copies that run or are starting, whoever started them."""
    found = {}
    actors: list[Any] = ray.util.list_named_actors(all_namespaces=True)
    for actor in actors:
        owner, _, rest = actor["name"].partition("/shard-")
        if actor["namespace"] == RAY_NAMESPACE and owner == memory and rest:
            shard, _, copy = rest.partition("/copy-")
            found[int(shard), int(copy)] = actor["name"]
    return found


def ask_actors(names: Mapping[Any, str], method: str, timeout_s: float, *arguments: Any) -> dict[Any, Any]:
    """Ask actors, and again those that are lost and started again meanwhile.

    Args:
        names: of the actors, by what they are called in the answer.
        method: to call; it may be called more than once.
        timeout_s: for all of them together.
        arguments: of the method.

    Raises:
        LeWorldError: the first that one of them raises.
        ActorError: one does not answer in time, or there is none of its name.
    """
    end, answers, asked = time.monotonic() + timeout_s, {}, {}
    while len(answers) < len(names):
        for key, name in names.items():
            if key not in answers and key not in asked:
                with suppress(ValueError):
                    asked[key] = getattr(ray.get_actor(name, RAY_NAMESPACE), method).remote(*arguments)
        done = ray.wait(list(asked.values()), num_returns=len(asked), timeout=PAUSE_S)[0] if asked else []
        for key in [key for key, ref in asked.items() if ref in done]:
            with suppress(RayActorError):
                answers[key] = _answer(asked[key], names[key])
            del asked[key]
        late = [name for key, name in names.items() if key not in answers]
        if late and time.monotonic() > end:
            raise ActorError(", ".join(late), f"did not answer in {timeout_s:g} s", LOGS)
        if len(asked) < len(late):
            time.sleep(PAUSE_S)
    return answers


def end_actors(names: Mapping[Any, str], method: str = "stop") -> None:
    """Have actors stop, and end them, whatever they answer, and those that do not; they are gone when this returns."""
    handles = {}
    for name in names.values():
        with suppress(ValueError):
            handles[name] = ray.get_actor(name, RAY_NAMESPACE)
    asked = [getattr(handle, method).remote() for handle in handles.values()]
    if asked:
        ray.wait(asked, num_returns=len(asked), timeout=STOP_S)
    for handle in handles.values():
        ray.kill(handle)
    end = time.monotonic() + GONE_S
    while any(is_up(name) for name in handles) and time.monotonic() < end:
        time.sleep(PAUSE_S)


def _answer(ref: Any, name: str) -> Any:
    try:
        return ray.get(ref, timeout=0)
    except RayActorError:
        raise
    except (RayError, LeWorldError) as error:
        cause = error.cause if isinstance(error, RayTaskError) else error
        if isinstance(cause, LeWorldError):
            raise cause from None
        first_line = (str(cause).strip() or "no message").splitlines()[0]
        raise ActorError(name, f"failed with {type(cause).__name__} ({first_line})", LOGS) from None
