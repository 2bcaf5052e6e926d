"""Objects in this process that are asked as if they were far away: everything is pickled, and arrays come read-only."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np


class LocalPeers:
    """``Peers`` whose calls are counted."""

    def __init__(self, objects: Sequence[Any]) -> None:
        self.objects = tuple(objects)
        self.names = tuple(f"{type(each).__name__} {i}" for i, each in enumerate(objects))
        self.calls: list[tuple[int, str]] = []

    def start(
        self, method: str, messages: Mapping[int, tuple[Any, ...]], patience: float = 1.0
    ) -> Callable[[], dict[int, Any]]:
        """Call at once."""
        answers = {}
        for target, arguments in messages.items():
            self.calls.append((target, method))
            answers[target] = travel(getattr(self.objects[target], method)(*travel(arguments)))
        return lambda: answers


def travel(value: Any) -> Any:
    """A copy as Ray would deliver it."""
    copy = pickle.loads(pickle.dumps(value))
    freeze(copy)
    return copy


def freeze(value: Any) -> None:
    """Make arrays read-only, wherever they are."""
    if isinstance(value, np.ndarray):
        value.flags.writeable = False
    elif isinstance(value, list | tuple):
        for part in value:
            freeze(part)
    elif is_dataclass(value) and not isinstance(value, type):
        for field in fields(value):
            freeze(getattr(value, field.name))
