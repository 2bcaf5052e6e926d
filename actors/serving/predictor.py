"""Predictions of a system as plain values. A part that dies is replaced, and the call is made again.

Shapes: see ``leworld.types``. Every field of a call or a response has the samples as its first axis.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from actors.errors import ActorError
from actors.serving.http_messages import MOST_SAMPLES, AboutResponse, PredictRequest, TrainedTo, Widths
from actors.training.learner_process import LearnerProcess
from leworld.errors import DataError
from leworld.memory import Receipt, Words
from leworld.memory.ranges import Ints
from leworld.models.system import System, check_query
from leworld.types import Query, Step

Plain = dict[str, Any]


@dataclass(frozen=True)
class PredictionCall:
    """Samples to predict; ``seen`` (B, ...) comes from an earlier response of the same episodes, None at a start."""

    query: Query
    seen: Tensor | None

    def __len__(self) -> int:
        return len(self.query.current)


class PredictionService:
    """The system of a learner that does not learn.

    Attributes:
        events: what died and what was done, a line each, in order.
    """

    def __init__(self, make: Callable[[], LearnerProcess], max_failures: int) -> None:
        """Make the system.

        Args:
            make: a learner with clients of living parts, that is served.
            max_failures: how often in a row a part may die.
        """
        self.events: list[str] = []
        self._make, self._max_failures = make, max_failures
        # The clients of its parts are for one thread at a time.
        self._lock = threading.Lock()
        self._learner = make()

    @property
    def _system(self) -> System:
        return self._learner.system

    def about(self) -> AboutResponse:
        """Describe the world's sizes, the SLMs, and where training stood."""
        spec, position = self._system.spec, self._learner.runner.position
        return AboutResponse(
            world=spec.name,
            widths=Widths(
                state=spec.state_dim,
                next_state=spec.target_dim,
                characteristics=spec.char_dim,
                info_query=self._system.blm.config.query_dim,
            ),
            slms=list(self._system.fleet.members),
            trained_to=TrainedTo(phase=position.phase, step=position.step),
            address_bits=spec.address_bits,
        )

    def prepare(self, request: PredictRequest) -> PredictionCall:
        """Turn a request into tensors.

        Raises:
            DataError: a field has rows of different lengths, or does not fit the world.
        """
        fields = {name: to_tensor(name, value) for name, value in request if value is not None}
        current = fields["current"]
        if current.dim() != 2 or not 1 <= len(current) <= MOST_SAMPLES:
            shape = tuple(current.shape)
            raise DataError(f"current has shape {shape}: give 1 to {MOST_SAMPLES} samples, each a list of numbers")
        query_dim = self._system.blm.config.query_dim
        info = fields.get("info_query", torch.zeros(len(current), query_dim))
        query = Query(fields.get("past", current), current, fields["characteristics"], info)
        check_query(query, self._system.spec, query_dim)
        return PredictionCall(query, self._seen(query, fields.get("seen")))

    def _seen(self, query: Query, seen: Tensor | None) -> Tensor | None:
        wanted = self._system.observe(query)
        if seen is None:
            return None
        if wanted is None or seen.shape != wanted.shape or not bool(seen.isfinite().all()):
            shape = "none" if wanted is None else tuple(wanted.shape)
            raise DataError(
                f"seen has shape {tuple(seen.shape)}: give what a response said of these episodes ({shape})"
            )
        return seen

    def predict(self, calls: Sequence[PredictionCall]) -> list[Plain]:
        """Predict for several calls together. Each gets the numbers that it would get alone, to rounding.

        Returns:
            the fields of a ``PredictResponse`` for each call.

        Raises:
            ActorError: a part died more often than it may.
        """
        found: list[Plain] = [{} for _ in calls]
        for has_seen in (False, True):
            chosen = [n for n, call in enumerate(calls) if (call.seen is not None) == has_seen]
            if chosen:
                for n, response in zip(chosen, self._together([calls[n] for n in chosen]), strict=True):
                    found[n] = response
        return found

    def read(self, start: Ints, length: Ints) -> Words:
        """Read R ranges; see ``Reader.read``."""
        with self._lock:
            return self._learner.runner.train_state.memory.read(start, length)

    def write(self, start: Ints, words: NDArray[np.uint32]) -> Receipt:
        """Write R blocks of one length, which the next prediction reads; see ``Memory.write``."""
        with self._lock:
            return self._learner.runner.train_state.memory.write(start, words)

    def _together(self, calls: Sequence[PredictionCall]) -> list[Plain]:
        first, *others = [call.query for call in calls]
        query = first.map(lambda *parts: torch.cat(parts), *others)
        seen = None if calls[0].seen is None else torch.cat([q.seen for q in calls if q.seen is not None])
        with self._lock:
            step, now = self._predicted(query, seen)
        whole = plain(step, now, self._system.fleet.members)
        borders = np.cumsum([0, *map(len, calls)])
        return [{name: rows and rows[begin:end] for name, rows in whole.items()} for begin, end in pairwise(borders)]

    def _predicted(self, query: Query, seen: Tensor | None) -> tuple[Step, Tensor | None]:
        failures = 0
        while True:
            try:
                now = self._system.observe(query, seen)
                return self._system.predict(query, seen=now), now
            except ActorError as error:
                failures += 1
                if failures > self._max_failures:
                    raise
                self.events.append(f"{error.actor} {error.problem}; goes on from the checkpoint when all are there")
                self._learner = self._make()


def plain(step: Step, seen: Tensor | None, members: Sequence[int]) -> Plain:
    """A step as lists of numbers, a row a sample."""
    shortlist = (
        torch.arange(len(members)).expand(len(step.mask), -1) if step.shortlist is None else step.shortlist.cpu()
    )
    slms = torch.tensor(list(members))[shortlist].tolist()
    reads = zip(slms, step.reads.start.tolist(), step.reads.length.tolist(), step.read_confidence.tolist(), strict=True)
    return {
        "next_state": step.next_state.tolist(),
        "mask": step.mask.int().tolist(),
        "slms": slms,
        "reads": [
            [
                {"slm": slm, "start": start, "length": length, "read_confidence": round(confidence, 4)}
                for slm, start, length, confidence in zip(*row, strict=True)
                if length
            ]
            for row in reads
        ],
        "info_query": step.info_query.tolist(),
        "seen": None if seen is None else seen.tolist(),
    }


def to_tensor(name: str, value: Any) -> Tensor:
    """Convert lists of numbers to float32.

    Raises:
        DataError: they hold something else, or rows of different lengths.
    """
    try:
        array = np.asarray(value)
    except ValueError:
        array = np.asarray(None)
    if array.dtype.kind not in "iuf":
        raise DataError(f"{name} is not an array of numbers: give a list of samples, each a list of as many numbers")
    return torch.from_numpy(array.astype(np.float32))
