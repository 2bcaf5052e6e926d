"""One forward pass: propose, sense, route, read, look, predict. Predictions and every phase of training make it here.

The caller gives the stages what differs: the shortlist, what was seen of the episode, the router's noise, the ranges to
read (proposed, right or with read noise), the mask, and whether SLMs keep what learning needs.

Shapes: see ``leworld.types``; B: samples.
"""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from leworld.memory import Reader
from leworld.models.batched_reads import read_ranges
from leworld.models.blm import BLM, Prediction, Slots
from leworld.models.fleet import Fleet
from leworld.models.pooling import Pooled, Senses
from leworld.models.record_encoder import Records
from leworld.models.router import Routing
from leworld.models.tag_head import SURE
from leworld.types import Proposals, Query, Ranges
from leworld.worlds.base import WorldSpec


@dataclass
class Parts:
    """A BLM, its SLMs and a memory, which may be remote; this process computes on ``device``."""

    blm: BLM
    fleet: Fleet
    memory: Reader
    spec: WorldSpec
    device: str = "cpu"


class ForwardPass:
    """One pass over the samples of a query. Each stage uses the results of earlier stages.

    The caller chooses the order of the stages; random numbers and gradients depend on it.

    Attributes:
        proposals: (B, N, ...) of the SLMs on the shortlist; None if no SLM was asked.
        senses: (B, ...) encoding of what is known before reading.
        routing: (B, N) which SLMs the router trusts.
        records: of all distinct ranges that were read.
        pooled: (B, N[, K], ...) the ranges of the last look.
    """

    senses: Senses
    routing: Routing
    records: Records
    pooled: Pooled

    def __init__(self, parts: Parts, query: Query, shortlist: Tensor | None = None) -> None:
        self.parts = parts
        self.query = query
        self.shortlist = shortlist
        self.proposals: Proposals | None = None

    def propose(self, known: Proposals | None = None, *, learn: bool = False) -> Proposals:
        """Ask the SLMs of the shortlist.

        Args:
            known: proposals of all N SLMs to this query, used instead of asking.
            learn: keep what learning needs, and the gradient of ``hidden``.
        """
        device = self.parts.device
        if known is None:
            asked = self.query.map(Tensor.detach)
            self.proposals = self.parts.fleet.propose(asked, self.shortlist, learn=learn).to(device)
        else:
            self.proposals = known.to(device).map(lambda x: of_shortlist(x, self.shortlist))
        if learn:
            self.proposals.hidden.requires_grad_()
        return self.proposals

    def sense(self, seen: Tensor | None = None) -> Senses:
        """Encode what is known before reading; ``seen`` is the episode so far, from ``BLM.observe``."""
        self.senses = self.parts.blm.sense(self.query, seen, self.shortlist)
        return self.senses

    def route(self, temperature: float = 1.0, noise: Tensor | None = None) -> Routing:
        """Decide which SLMs to trust; without proposals, from the senses alone."""
        if self.proposals is None:
            self.routing = self.parts.blm.route_alone(self.senses, temperature, noise)
        else:
            self.routing = self.parts.blm.route(self.senses, self.proposals, temperature, noise)
        return self.routing

    def read(self, *ranges: Ranges) -> list[Tensor]:
        """Read and encode several sets of ranges in one call to the memory.

        Returns:
            for each set the index of its ranges in ``records``.
        """
        joined = Ranges(torch.cat([r.start.flatten() for r in ranges]), torch.cat([r.length.flatten() for r in ranges]))
        reads = read_ranges(self.parts.memory, joined, self.parts.spec.record_words, self.parts.device)
        self.records = self.parts.blm.encode(reads)
        parts = reads.index.split([r.start.numel() for r in ranges])
        return [part.view(r.start.shape) for part, r in zip(parts, ranges, strict=True)]

    def expect(self, index: Tensor, where: Tensor) -> ForwardPass:
        """The same pass, which expects the tags of these (B, N) records as if a request had named them.

        Args:
            index: from ``read``.
            where: (B, N) or (B, 1) bool; elsewhere the expected tags stay.
        """
        told = copy(self)
        tags = torch.where(where.unsqueeze(-1), SURE * self.records.tags[index, 0], self.senses.tags)
        told.senses = replace(self.senses, tags=tags)
        return told

    def look(self, index: Tensor) -> Slots:
        """Fill the SLMs' slots from (B, N[, K]) ranges."""
        self.pooled = self.parts.blm.pool(self.senses, self.records, index)
        if self.proposals is None:
            return Slots(self.pooled.content, self.pooled.notes, self.pooled.moments)
        return self.parts.blm.slots(self.pooled, self.proposals)

    def predict(self, slots: Slots, mask: Tensor) -> Prediction:
        """Predict and make a request from the slots that the (B, N) mask selects."""
        return self.parts.blm.predict(self.senses, slots, mask)

    def at(self, rows: Tensor) -> ForwardPass:
        """The same pass for (R,) of its samples, after ``sense`` and ``propose``."""
        some = copy(self)
        some.query = self.query.map(lambda x: x[rows])
        some.senses = self.senses.map(lambda x: x[rows])
        some.proposals = None if self.proposals is None else self.proposals.map(lambda x: x[rows])
        some.shortlist = None if self.shortlist is None else self.shortlist[rows]
        return some


def of_shortlist(x: Tensor, shortlist: Tensor | None) -> Tensor:
    """The columns of (B or 1, N, ...) for the (B, A) SLMs on the shortlist; None: all."""
    if shortlist is None:
        return x
    row = torch.arange(len(shortlist), device=shortlist.device).unsqueeze(1)
    return x.expand(len(shortlist), *x.shape[1:])[row, shortlist]
