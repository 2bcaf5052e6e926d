"""SharedFleet: one fleet of SLMs for a group of learners. The first learner calls it for all of them at once.

So SLMs get the same samples and credits and make one step for any number of learners.

Shapes: see ``leworld.types``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from actors.rpc.tensors import from_wire, to_wire
from actors.training.distributed_group import joined
from leworld.training.data_parallel import LearnerGroup
from leworld.training.slm_training import Metrics, Moment, TrainableFleet
from leworld.types import Credit, Proposals, Query


class SharedFleet:
    """A ``Fleet`` for one learner of a group; each has rows of its own."""

    def __init__(self, group: LearnerGroup, fleet: TrainableFleet | None, num_slms: int) -> None:
        """Share a fleet.

        Args:
            group: of this learner.
            fleet: of the first learner; None for the others.
            num_slms: of the fleet.
        """
        assert (fleet is not None) == (group.rank == 0), group.rank
        self.members, self._group, self._fleet = list(range(num_slms)), group, fleet

    @property
    def num_slms(self) -> int:
        """See ``TrainableFleet``."""
        return len(self.members)

    def join(self, slm_id: int, steps: int) -> None:
        """See ``TrainableFleet``; every learner must call it."""
        if self._fleet is not None:
            self._fleet.join(slm_id, steps)
        self.members = [*self.members, slm_id]

    def leave(self, slm_id: int) -> None:
        """See ``TrainableFleet``; every learner must call it."""
        if self._fleet is not None:
            self._fleet.leave(slm_id)
        self.members = [member for member in self.members if member != slm_id]

    def pretrain(self, first_step: int, num_steps: int) -> Callable[[], list[Metrics]]:
        """See ``TrainableFleet``."""
        pending = self._fleet.pretrain(first_step, num_steps) if self._fleet is not None else list
        return lambda: self._group.share(pending)

    def propose(self, query: Query, shortlist: Tensor | None = None, *, learn: bool = False) -> Proposals:
        """See ``TrainableFleet``."""
        parts = self._group.exchange((to_wire(query), None if shortlist is None else to_array(shortlist)))
        questions = joined([part for part, _ in parts])
        whom = None if shortlist is None else torch.cat([torch.tensor(part) for _, part in parts])
        made = self._group.share(lambda: to_wire(self._own().propose(questions, whom, learn=learn)))
        return from_wire(made).map(self._rows([len(part.current) for part, _ in parts]))

    def learn(self, credits: Sequence[Credit], lr: float, moment: Moment) -> list[Tensor]:
        """See ``TrainableFleet``."""
        parts = self._group.exchange([to_wire(credit) for credit in credits])
        together = [joined(list(each)) for each in zip(*parts, strict=True)]
        found = self._group.share(lambda: [to_array(x) for x in self._own().learn(together, lr, moment)])
        sizes = [[len(part[i].hidden_grad) for part in parts] for i in range(len(credits))]
        return [self._rows(size)(torch.tensor(each)) for size, each in zip(sizes, found, strict=True)]

    def state(self) -> dict[str, Tensor]:
        """See ``TrainableFleet``; of the first learner only."""
        return self._own().state()

    def load_state(self, state: dict[str, Tensor]) -> None:
        """See ``TrainableFleet``; of the first learner only."""
        self._own().load_state(state)

    def _own(self) -> TrainableFleet:
        assert self._fleet is not None, "only the first learner speaks with the SLMs"
        return self._fleet

    def _rows(self, sizes: Sequence[int]) -> Callable[[Tensor], Tensor]:
        first = sum(sizes[: self._group.rank])
        return lambda tensor: tensor[first : first + sizes[self._group.rank]]


def to_array(tensor: Tensor) -> Any:
    """Convert a tensor to an array that can be sent."""
    return tensor.detach().cpu().contiguous().numpy()
