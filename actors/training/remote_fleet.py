"""RemoteFleet: SLMs in other processes as one fleet. One message an actor a step, all sent before any is waited for.

Shapes: see ``leworld.types``; P: pairs of a sample and an SLM of its shortlist.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

import torch
from torch import Tensor

from actors.rpc.calls import PeerGroup, Peers, call_all
from actors.rpc.tensor_dict import pack, unpack
from actors.rpc.tensors import from_wire, to_wire
from leworld.errors import ConfigError
from leworld.models.fleet import join_proposals
from leworld.models.routing_pairs import Pairs
from leworld.training.slm_training import Metrics, Moment
from leworld.types import Credit, Proposals, Query

Recruit = Callable[[int], Peers]
"""Starts an actor for an SLM, and connects to it alone."""
START_PATIENCE = 16.0
"""Pre-training takes many times longer than an answer."""


@dataclass(frozen=True)
class Share:
    """An actor's part: the pairs at ``place``, of the samples ``rows`` (b,), and the ``row`` there of each pair."""

    place: slice
    rows: Tensor
    row: Tensor


@dataclass(frozen=True)
class Asked:
    """The shortlist of a batch, and each actor's share by its number."""

    pairs: Pairs
    shares: dict[int, Share]


class RemoteFleet:
    """A ``Fleet`` over SLM actors.

    An actor gets the samples that ask one of its SLMs, and no message where there are none.

    Where everyone is asked, the gradient of the info query is summed over the actors in their order. With one SLM an
    actor, or one actor, that is the order in which one process sums. So with less than ``STACK_SLMS`` SLMs the numbers
    are then the same to the bit; in all other cases they agree to rounding.
    """

    def __init__(self, slm_actors: Peers, slm_ids: Sequence[Sequence[int]], recruit: Recruit | None = None) -> None:
        """Connect to SLM actors.

        Args:
            slm_actors: the actors.
            slm_ids: which SLMs each of them hosts; together all SLMs, ascending.
            recruit: starts an actor for an SLM that joins.
        """
        flat = [slm_id for ids in slm_ids for slm_id in ids]
        assert flat == sorted(set(flat)), slm_ids
        assert len(slm_ids) == len(slm_actors.names), (slm_ids, slm_actors.names)
        self.slm_actors = slm_actors
        self.slm_ids = tuple(tuple(ids) for ids in slm_ids)
        self.recruit = recruit
        # None if every SLM was asked.
        self.kept: list[Asked | None] = []

    @property
    def members(self) -> list[int]:
        """See ``TrainableFleet``."""
        return [slm_id for ids in self.slm_ids for slm_id in ids]

    @property
    def num_slms(self) -> int:
        """See ``TrainableFleet``."""
        return len(self.members)

    def join(self, slm_id: int, steps: int) -> None:
        """See ``TrainableFleet``: in an actor of its own.

        Raises:
            ConfigError: there is no ``recruit``.
            ActorError: the actor does not start.
        """
        if self.recruit is None:
            raise ConfigError(f"SLM {slm_id} cannot join: this fleet cannot start actors; connect by launch.Handles")
        peers = self.recruit(slm_id)
        peers.start("pretrain", {0: (0, steps)}, START_PATIENCE)()
        self.slm_actors = PeerGroup([self.slm_actors, peers])
        self.slm_ids = (*self.slm_ids, (slm_id,))

    def leave(self, slm_id: int) -> None:
        """See ``TrainableFleet``: an actor without any other SLM gets no calls any more, whether it runs or not."""
        target = next(target for target, ids in enumerate(self.slm_ids) if slm_id in ids)
        left = tuple(other for other in self.slm_ids[target] if other != slm_id)
        if left:
            call_all(self.slm_actors, "host", {target: (left,)})
        else:
            self.slm_actors = PeerGroup([self.slm_actors], without=target)
        now = [*self.slm_ids[:target], left, *self.slm_ids[target + 1 :]]
        self.slm_ids = tuple(ids for ids in now if ids)

    def pretrain(self, first_step: int, num_steps: int) -> Callable[[], list[Metrics]]:
        """See ``TrainableFleet``: the actors begin at once."""
        # An actor's SLMs train one after another, so its answer takes as many times longer.
        patience = max(len(ids) for ids in self.slm_ids)
        answers = self.slm_actors.start("pretrain", self._to_all(first_step, num_steps), patience)
        return lambda: [metrics for part in answers().values() for metrics in part]

    def propose(self, query: Query, shortlist: Tensor | None = None, *, learn: bool = False) -> Proposals:
        """See ``TrainableFleet``."""
        chosen = None if shortlist is None else self._split(Pairs.of(shortlist.cpu()))
        proposals = self._call_all(query, learn) if chosen is None else self._call_some(query, chosen, learn)
        if learn:
            self.kept.append(chosen)
        return proposals

    def learn(self, credits: Sequence[Credit], lr: float, moment: Moment) -> list[Tensor]:
        """See ``TrainableFleet``."""
        assert len(credits) == len(self.kept), (len(credits), len(self.kept))
        kept, self.kept = self.kept, []
        parts: dict[int, list[Credit]] = {}
        for chosen, credit in zip(kept, credits, strict=True):
            for target, part in self._parts(chosen, credit).items():
                parts.setdefault(target, []).append(to_wire(part))
        messages = {target: (parts[target], lr, moment) for target in sorted(parts)}
        answers = {target: iter(part) for target, part in call_all(self.slm_actors, "learn", messages).items()}
        return [_sum_in_order(chosen, answers) for chosen in kept]

    def state(self) -> dict[str, Tensor]:
        """See ``TrainableFleet``."""
        return {
            name: tensor
            for part in call_all(self.slm_actors, "state").values()
            for name, tensor in unpack(part).items()
        }

    def load_state(self, state: dict[str, Tensor]) -> None:
        """See ``TrainableFleet``."""
        messages = {}
        for target, ids in enumerate(self.slm_ids):
            prefixes = tuple(f"slm.{slm_id}." for slm_id in ids)
            messages[target] = (pack({name: t for name, t in state.items() if name.startswith(prefixes)}),)
        # One that a fleet before this one told to drop an SLM takes it up again.
        call_all(self.slm_actors, "host", dict(enumerate((ids,) for ids in self.slm_ids)))
        call_all(self.slm_actors, "load_state", messages)
        self.kept = []

    def _call_all(self, query: Query, learn: bool) -> Proposals:
        parts = call_all(self.slm_actors, "propose", self._to_all(to_wire(query), learn))
        return join_proposals([from_wire(part) for part in parts.values()])

    def _call_some(self, query: Query, shortlist: Asked, learn: bool) -> Proposals:
        messages, samples, first = {}, shortlist.pairs.samples, self._borders()
        for target, share in shortlist.shares.items():
            own = to_wire(query.map(lambda x, rows=share.rows: x[rows.to(x.device)]))
            slm = shortlist.pairs.slm[share.place] - first[target]
            messages[target] = (own, learn, share.row.numpy(), slm.numpy(), samples)
        answers = [from_wire(part) for part in call_all(self.slm_actors, "propose_some", messages).values()]
        listed = answers[0].map(lambda *same: torch.cat([part.flatten(0, 1) for part in same]), *answers[1:])
        return shortlist.pairs.put(listed)

    def _split(self, pairs: Pairs) -> Asked:
        """SLMs ascend over the actors, and pairs over the SLMs: each actor's are side by side."""
        borders = torch.searchsorted(pairs.slm, torch.tensor(self._borders())).tolist()
        shares = {}
        for target, (first, end) in enumerate(pairwise(borders)):
            if end > first:
                rows, row = torch.unique(pairs.row[first:end], return_inverse=True)
                shares[target] = Share(slice(first, end), rows, row)
        return Asked(pairs, shares)

    def _parts(self, shortlist: Asked | None, credit: Credit) -> dict[int, Credit]:
        """Return the credit for each actor."""
        if shortlist is None:
            return {target: _columns(credit, *border) for target, border in enumerate(pairwise(self._borders()))}
        listed = shortlist.pairs.take(credit.to("cpu"))
        return {t: listed.map(lambda x, s=share: x[s.place].unsqueeze(1)) for t, share in shortlist.shares.items()}

    def _borders(self) -> list[int]:
        """The place of each actor's first SLM among all, and their number."""
        return [0, *accumulate(len(ids) for ids in self.slm_ids)]

    def _to_all(self, *arguments: Any) -> dict[int, tuple[Any, ...]]:
        return dict.fromkeys(range(len(self.slm_ids)), arguments)


def _columns(credit: Credit, first: int, end: int) -> Credit:
    """The credit of SLMs ``[first, end)``: every field has the SLMs as its second axis."""
    return credit.map(lambda tensor: tensor[:, first:end])


def _sum_in_order(shortlist: Asked | None, answers: Mapping[int, Iterator[Any]]) -> Tensor:
    """The (B, Q) gradient of a query: each actor's next answer, added where its samples are."""
    if shortlist is None:
        first, *others = (torch.tensor(next(parts)) for parts in answers.values())
        return sum(others, start=first)
    parts = {target: torch.tensor(next(answers[target])) for target in shortlist.shares}
    width = next(iter(parts.values())).shape[1]
    total = torch.zeros(shortlist.pairs.samples, width)
    for target, part in parts.items():
        total.index_add_(0, shortlist.shares[target].rows, part)
    return total
