"""What a body is: a simulator whose physics can be drawn anew.

Shapes:
    T: time steps.  Y: state.  A: action.  P: context.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


class Body(Protocol):
    """One simulator that is every body of a world in turn."""

    state_dim: int
    """Y."""

    def draw(self, random: np.random.Generator) -> Floats:
        """Become another body: draw its physics and return what there is to know of it, (P,)."""
        ...

    def episode(self, num_steps: int, random: np.random.Generator) -> Floats:
        """(T, Y + A + Y) states, random actions and next states, from a random start.

        Raises:
            DataError: the simulation did not stay finite.
        """
        ...


def transitions(states: list[Floats], actions: Floats) -> Floats:
    """(T, Y + A + Y) from T + 1 states (Y,) and actions (T, A)."""
    observed = np.stack(states)
    return np.concatenate([observed[:-1], actions, observed[1:]], axis=1)


def log_uniform(low: float, high: float, random: np.random.Generator, count: int | None = None) -> Floats:
    """A number between ``low`` and ``high``, or (count,), uniform in its logarithm."""
    return np.exp(random.uniform(np.log(low), np.log(high), size=count))
