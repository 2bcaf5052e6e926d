"""LearnerGroup: learners that do each step together, each with its part of the samples.

All draw the same random numbers for all samples, and what is summed over samples is summed over learners too, so that a
step is the same, to rounding, however many they are. A ``LearnerGroup`` here is one learner; others are transport.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from leworld.types import Ranges


@dataclass(frozen=True)
class BatchPart:
    """Samples ``[first, stop)`` of ``total`` that one learner works on; 1 / ``weight`` learners work on the same."""

    total: int
    first: int
    stop: int
    weight: float = 1.0

    @property
    def share(self) -> float:
        """Of the mean over its samples, in the mean over all."""
        return self.weight * (self.stop - self.first) / self.total

    @classmethod
    def of_team(cls, total: int, rank: int, size: int) -> BatchPart:
        """The part of one of ``size`` learners; all of it, for each of them, where there are too few samples."""
        if total < size:
            return cls(total, 0, total, 1 / size)
        first, stop = total * rank // size, total * (rank + 1) // size
        return cls(total, first, stop)

    def of(self, rows: Tensor) -> Tensor:
        """Its rows of all."""
        return rows[self.first : self.stop]

    def times(self, steps: int) -> BatchPart:
        """The same of samples that have several steps each."""
        return BatchPart(self.total * steps, self.first * steps, self.stop * steps, self.weight)

    def holds(self, rows: Tensor) -> Tensor:
        """(R,) bool, which of the rows of all are its own."""
        return (rows >= self.first) & (rows < self.stop)


class LearnerGroup:
    """One learner alone.

    Attributes:
        rank: of this learner; the first one, 0, speaks with SLMs and keeps checkpoints.
        size: number of learners.
    """

    rank: int = 0
    size: int = 1

    def part(self, total: int) -> BatchPart:
        """What this learner does of ``total`` samples."""
        return BatchPart.of_team(total, self.rank, self.size)

    def sum(self, value: Tensor) -> Tensor:
        """The sum over learners, without a graph."""
        return value.detach()

    def mean(self, values: Tensor, part: BatchPart) -> Tensor:
        """The mean over all samples of what each learner has of them, without a graph."""
        return self.sum(values.detach().mean() * part.share)

    def gather(self, ranges: Ranges, part: BatchPart) -> Ranges:
        """The ranges of all samples, of those of each learner."""
        return ranges

    def share(self, make: Callable[[], Any]) -> Any:
        """What the first learner makes, for all of them: plain values and arrays."""
        return make()

    def exchange(self, value: Any) -> list[Any]:
        """The values of all learners, by rank."""
        return [value]

    def sum_gradients(self, module: nn.Module) -> None:
        """Put the sum over learners into every gradient."""

    def total(self, value: Tensor) -> Tensor:
        """The sum over learners, with the graph of this one's share in it."""
        return value + (self.sum(value) - value.detach())


ALONE = LearnerGroup()
