"""ActorFleet: SLMs in other processes as one fleet. One message an actor a step, all sent before any is waited for.

Shapes: see ``leworld.types``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from actors.calls import Peers, ask
from actors.weights import pack, unpack
from actors.wire import from_wire, to_wire
from leworld.models.fleet import Metrics, Moment, join_proposals
from leworld.types import Credit, Proposals, Query


class ActorFleet:
    """A ``Fleet`` over SLM actors.

    The gradient of the info query is summed over the actors in their order. With one actor, or one SLM an actor, that
    is the order in which one process sums, so the numbers are the same to the bit; otherwise they agree to rounding.
    """

    def __init__(self, slm_actors: Peers, slm_ids: Sequence[Sequence[int]]) -> None:
        """Connect to SLM actors.

        Args:
            slm_actors: the actors.
            slm_ids: which SLMs each of them hosts; together all SLMs, ascending.
        """
        flat = [slm_id for ids in slm_ids for slm_id in ids]
        assert flat == list(range(len(flat))), slm_ids
        assert len(slm_ids) == len(slm_actors.names), (slm_ids, slm_actors.names)
        self.slm_actors = slm_actors
        self.slm_ids = tuple(tuple(ids) for ids in slm_ids)
        self.num_slms = len(flat)

    def pretrain(self, first_step: int, num_steps: int) -> Callable[[], list[Metrics]]:
        """See ``Fleet``: the actors begin at once."""
        # An actor's SLMs train one after another, so its answer takes as many times longer.
        patience = max(len(ids) for ids in self.slm_ids)
        answers = self.slm_actors.start("pretrain", self._to_all(first_step, num_steps), patience)
        return lambda: [metrics for part in answers().values() for metrics in part]

    def propose(self, query: Query, *, learn: bool = False) -> Proposals:
        """See ``Fleet``."""
        parts = ask(self.slm_actors, "propose", self._to_all(to_wire(query), learn))
        return join_proposals([from_wire(part) for part in parts.values()])

    def learn(self, credits: Sequence[Credit], lr: float, moment: Moment) -> list[Tensor]:
        """See ``Fleet``."""
        messages = {}
        for target, ids in enumerate(self.slm_ids):
            messages[target] = ([to_wire(_columns(credit, ids[0], ids[-1] + 1)) for credit in credits], lr, moment)
        parts = ask(self.slm_actors, "learn", messages).values()
        return [_sum_in_order(gradients) for gradients in zip(*parts, strict=True)]

    def state(self) -> dict[str, Tensor]:
        """See ``Fleet``."""
        return {
            name: tensor for part in ask(self.slm_actors, "state").values() for name, tensor in unpack(part).items()
        }

    def load_state(self, state: dict[str, Tensor]) -> None:
        """See ``Fleet``."""
        messages = {}
        for target, ids in enumerate(self.slm_ids):
            prefixes = tuple(f"slm.{slm_id}." for slm_id in ids)
            messages[target] = (pack({name: t for name, t in state.items() if name.startswith(prefixes)}),)
        ask(self.slm_actors, "load_state", messages)

    def _to_all(self, *arguments: Any) -> dict[int, tuple[Any, ...]]:
        return dict.fromkeys(range(len(self.slm_ids)), arguments)


def _columns(credit: Credit, first: int, end: int) -> Credit:
    """The credit of SLMs ``[first, end)``: every field has the SLMs as its second axis."""
    return credit.map(lambda tensor: tensor[:, first:end])


def _sum_in_order(gradients: Sequence[Any]) -> Tensor:
    total = torch.tensor(gradients[0])
    for gradient in gradients[1:]:
        total = total + torch.tensor(gradient)
    return total
