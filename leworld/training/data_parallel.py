"""LearnerGroup: learners that share each step; each takes its part of the samples.

All draw the same random numbers for all samples, and sums over samples also run over learners. So a step is the same,
to rounding, for any number of learners. The ``LearnerGroup`` here is one learner; subclasses add transport.
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
        """The weight of its samples' mean in the mean over all samples."""
        return self.weight * (self.stop - self.first) / self.total

    @classmethod
    def of_team(cls, total: int, rank: int, size: int) -> BatchPart:
        """The part of one of ``size`` learners; if there are too few samples, each learner gets all."""
        if total < size:
            return cls(total, 0, total, 1 / size)
        first, stop = total * rank // size, total * (rank + 1) // size
        return cls(total, first, stop)

    def of(self, rows: Tensor) -> Tensor:
        """The learner's own rows of ``rows``."""
        return rows[self.first : self.stop]

    def times(self, steps: int) -> BatchPart:
        """The same part of samples that have several steps each."""
        return BatchPart(self.total * steps, self.first * steps, self.stop * steps, self.weight)

    def holds(self, rows: Tensor) -> Tensor:
        """(R,) bool, which of the rows are the learner's own."""
        return (rows >= self.first) & (rows < self.stop)


class LearnerGroup:
    """One learner alone.

    Attributes:
        rank: of this learner; rank 0 talks to the SLMs and keeps training state checkpoints.
        size: number of learners.
    """

    rank: int = 0
    size: int = 1

    def part(self, total: int) -> BatchPart:
        """This learner's part of ``total`` samples."""
        return BatchPart.of_team(total, self.rank, self.size)

    def sum(self, value: Tensor) -> Tensor:
        """The sum over learners, without a graph."""
        return value.detach()

    def mean(self, values: Tensor, part: BatchPart) -> Tensor:
        """The mean over the samples of all learners, without a graph."""
        return self.sum(values.detach().mean() * part.share)

    def gather(self, ranges: Ranges, part: BatchPart) -> Ranges:
        """Join the ranges of all learners' samples."""
        return ranges

    def share(self, make: Callable[[], Any]) -> Any:
        """Give all learners what the first one makes: plain values and arrays."""
        return make()

    def exchange(self, value: Any) -> list[Any]:
        """The values of all learners, by rank."""
        return [value]

    def sum_gradients(self, module: nn.Module) -> None:
        """Replace every gradient by its sum over learners."""

    def total(self, value: Tensor) -> Tensor:
        """The sum over learners, with the graph of this learner's share."""
        return value + (self.sum(value) - value.detach())


ALONE = LearnerGroup()
