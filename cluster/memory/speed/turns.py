"""Rivals take turns, so that a disturbance of the machine affects all of them equally."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

ROUNDS, MOST_ROUNDS = 5, 15
TURN_S = 0.2
"""The shorter the turns, the more alike is what disturbs them; but some need a while."""


@dataclass
class Sample:
    """What a rival did in its turns.

    Attributes:
        rates: units a second, of each turn.
        times: seconds of each batch of all turns.
    """

    rates: list[float] = field(default_factory=list)
    times: list[float] = field(default_factory=list)

    def at(self, percent: float) -> float:
        """Seconds that so many of a hundred batches took at most."""
        return float(np.percentile(self.times, percent))

    @property
    def rate(self) -> float:
        """Units a second, in the middle turn."""
        return float(np.median(self.rates))

    def against(self, other: Sample) -> NDArray[np.float64]:
        """How many times the rate of another one, in each round."""
        return np.array(self.rates) / np.array(other.rates)


Turn = Callable[[float], Sample]
"""Works for about so many seconds, one batch at least; what it did, as one rate."""


def turn_of(batch: Callable[[], int]) -> Turn:
    """Turns of a function that does a batch and says of how many units."""

    def turn(seconds: float) -> Sample:
        times, units, begin = [], 0, time.perf_counter()
        now = begin
        while not times or now - begin < seconds:
            before = now
            units += batch()
            now = time.perf_counter()
            times.append(now - before)
        return Sample([units / (now - begin)], times)

    return turn


def timed_turn(batch: Callable[[], float]) -> Turn:
    """Turns of a function that does something and says how many seconds of it count."""

    def turn(seconds: float) -> Sample:
        times: list[float] = []
        end = time.perf_counter() + seconds
        while not times or time.perf_counter() < end:
            times.append(batch())
        return Sample([len(times) / sum(times)], times)

    return turn


def num_rounds(seconds: float) -> int:
    """Into how many turns so many seconds are cut."""
    return max(ROUNDS, min(MOST_ROUNDS, int(seconds / TURN_S)))


def interleave(turns: Mapping[str, Turn], seconds: float, say: Callable[[str], None]) -> dict[str, Sample]:
    """What rivals do in ``seconds`` each, cut into rounds in which each has a turn, in an order of its own.

    A first round, which is short, is not counted.
    """
    names, found = list(turns), {name: Sample() for name in turns}
    order, rounds = np.random.default_rng(0), num_rounds(seconds)
    for number in range(rounds + 1):
        say(f"round {number} of {rounds}" if number else "warming up")
        for place in order.permutation(len(names)).tolist():
            sample = turns[names[place]](seconds / rounds / (1 if number else 4))
            if number:
                found[names[place]].rates += sample.rates
                found[names[place]].times += sample.times
    return found
