"""Metering: where a learner's seconds go, what it reads, and what its SLMs propose; counted around fleet and memory."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from numpy.typing import NDArray
from torch import Tensor

from leworld.memory import Memory
from leworld.memory.protocol import Receipt, Snapshot, Words
from leworld.training.slm_training import Metrics, Moment, TrainableFleet
from leworld.types import Credit, Proposals, Query

PARTS = ("propose", "read", "learn")


class Meter:
    """Counts since it was asked last: seconds by part as ``propose_s``, ``reads`` (ranges) and ``read_bytes``."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()

    @contextmanager
    def timed(self, part: str) -> Iterator[None]:
        """Add the seconds of what is done inside to a part."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.add(f"{part}_s", time.perf_counter() - start)

    def add(self, name: str, amount: float) -> None:
        """Count."""
        self._counts[name] += amount  # pyright: ignore[reportArgumentType]

    def take(self) -> dict[str, float]:
        """What was counted, and begin anew."""
        found = {name: round(float(value), 6) for name, value in self._counts.items()}
        self._counts.clear()
        return found


class MeteredFleet:
    """A ``Fleet`` whose answers are timed."""

    def __init__(self, fleet: TrainableFleet, meter: Meter) -> None:
        self._fleet, self._meter = fleet, meter

    @property
    def num_slms(self) -> int:
        """See ``TrainableFleet``."""
        return self._fleet.num_slms

    @property
    def members(self) -> list[int]:
        """See ``TrainableFleet``."""
        return self._fleet.members

    def join(self, slm_id: int, steps: int) -> None:
        """See ``TrainableFleet``."""
        self._fleet.join(slm_id, steps)

    def leave(self, slm_id: int) -> None:
        """See ``TrainableFleet``."""
        self._fleet.leave(slm_id)

    def pretrain(self, first_step: int, num_steps: int) -> Callable[[], list[Metrics]]:
        """See ``TrainableFleet``; the waiting counts."""
        pending = self._fleet.pretrain(first_step, num_steps)

        def wait() -> list[Metrics]:
            with self._meter.timed("learn"):
                return pending()

        return wait

    def propose(self, query: Query, shortlist: Tensor | None = None, *, learn: bool = False) -> Proposals:
        """See ``TrainableFleet``."""
        with self._meter.timed("propose"):
            return self._fleet.propose(query, shortlist, learn=learn)

    def learn(self, credits: Sequence[Credit], lr: float, moment: Moment) -> list[Tensor]:
        """See ``TrainableFleet``."""
        with self._meter.timed("learn"):
            return self._fleet.learn(credits, lr, moment)

    def state(self) -> dict[str, Tensor]:
        """See ``TrainableFleet``."""
        return self._fleet.state()

    def load_state(self, state: dict[str, Tensor]) -> None:
        """See ``TrainableFleet``."""
        self._fleet.load_state(state)


class MeteredMemory:
    """A ``Memory`` whose reads are timed and counted."""

    def __init__(self, memory: Memory, meter: Meter) -> None:
        self.address_bits, self._memory, self._meter = memory.address_bits, memory, meter

    def read(self, start: NDArray, length: NDArray) -> Words:
        """See ``Reader``."""
        with self._meter.timed("read"):
            found = self._memory.read(start, length)
        self._meter.add("reads", len(start))
        self._meter.add("read_bytes", found.words.nbytes)
        return found

    def write(self, start: NDArray, words: NDArray) -> Receipt:
        """See ``Memory``."""
        return self._memory.write(start, words)

    def snapshot(self) -> Snapshot:
        """See ``Memory``."""
        return self._memory.snapshot()

    def restore(self, snapshot: Snapshot) -> None:
        """See ``Memory``."""
        self._memory.restore(snapshot)
