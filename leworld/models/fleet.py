"""Fleet: the BLM's view of the SLMs, in this or other processes. ``leworld.training.slm_training`` trains them.

Shapes: see ``leworld.types``; A: SLMs asked about a sample; P: pairs of a sample and an SLM.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Protocol

import torch
from torch import Tensor, nn

from leworld.models.routing_pairs import Pairs
from leworld.models.slm import SLM, SLMConfig, SLMOutput
from leworld.models.stack import Stack
from leworld.rng import derive_seed
from leworld.types import Proposals, Query
from leworld.worlds.base import WorldSpec

STACK_SLMS = 4
"""A process with this many SLMs or more uses batched products; with fewer, answers do not depend on which SLMs share
the process, to the bit."""
STACK_ROWS = 32
"""If an SLM gets more samples than this, plain products are as fast."""


@dataclass(frozen=True)
class FleetConfig:
    """Settings to build any SLM of a system, the same in every process."""

    slm: SLMConfig
    num_slms: int
    query_dim: int
    seed: int


class Fleet(Protocol):
    """N SLMs that propose ranges, wherever they are."""

    @property
    def num_slms(self) -> int:
        """The number of SLMs."""
        ...

    @property
    def members(self) -> list[int]:
        """The SLMs' numbers, ascending; columns have this order."""
        ...

    def propose(self, query: Query, shortlist: Tensor | None = None, *, learn: bool = False) -> Proposals:
        """Ask SLMs.

        Args:
            query: of B samples.
            shortlist: (B, A) int64, places in ``members`` of the SLMs that each sample asks; None asks all.
            learn: keep what each call needs to learn from credit later.

        Returns:
            a column for each SLM on the shortlist, or for all.
        """
        ...


@dataclass(frozen=True)
class AnsweredPart:
    """Answers of one batch: (R, ...) of the pairs at ``place``, from the host's ``members``."""

    output: SLMOutput
    place: slice
    members: tuple[int, ...]


@dataclass(frozen=True)
class Kept:
    """A proposal that waits for credit: ``start`` (P, K) of its pairs."""

    query: Query
    pairs: Pairs
    parts: list[AnsweredPart]
    start: Tensor


class SLMHost:
    """SLMs of a fleet in this process; with all SLMs it is a ``Fleet``.

    Attributes:
        slm_ids: their numbers.
        slms: the models, in that order.
        kept: proposals that wait for credit.
    """

    def __init__(
        self, config: FleetConfig, spec: WorldSpec, slm_ids: Sequence[int] | None = None, device: str = "cpu"
    ) -> None:
        self.config = config
        self.spec = spec
        self.device = device
        self.num_words = 1 << spec.address_bits
        self.slm_ids: list[int] = []
        self.slms: list[SLM] = []
        self.host(range(config.num_slms) if slm_ids is None else slm_ids)

    @property
    def num_slms(self) -> int:
        """See ``Fleet``."""
        return len(self.slm_ids)

    @property
    def members(self) -> list[int]:
        """See ``Fleet``."""
        return self.slm_ids

    def host(self, slm_ids: Sequence[int]) -> None:
        """Host exactly these SLMs; those already here keep their weights, others start new."""
        there = dict(zip(self.slm_ids, self.slms, strict=True))
        self.slm_ids = list(slm_ids)
        self.slms = [there[slm_id] if slm_id in there else self._build(slm_id) for slm_id in slm_ids]
        self.stack = Stack(self.slms) if self.num_slms >= STACK_SLMS else None
        self.kept: list[Kept] = []

    def propose(self, query: Query, shortlist: Tensor | None = None, *, learn: bool = False) -> Proposals:
        """See ``Fleet``."""
        if shortlist is None:
            pairs = Pairs.all(len(query.current), self.num_slms, self.device)
        else:
            pairs = Pairs.of(shortlist.to(self.device))
        return self.propose_pairs(query, pairs, learn=learn)

    def propose_pairs(self, query: Query, pairs: Pairs, *, learn: bool = False) -> Proposals:
        """``propose`` for listed pairs of a sample and an SLM of this host."""
        query = query.to(self.device)
        if learn:
            query = replace(query, info_query=query.info_query.detach().requires_grad_())
        with torch.set_grad_enabled(learn):
            parts = list(self._answers(query, pairs))
        # One by one: vectorised functions round by place, which must not depend on the SLMs of a process.
        answers = [to_proposals(part.output, self.config.slm.candidates, self.num_words) for part in parts]
        proposals = answers[0].map(lambda *same: torch.cat(same), *answers[1:])
        if learn:
            self.kept.append(Kept(query, pairs, parts, proposals.start))
        return pairs.put(proposals)

    def _answers(self, query: Query, pairs: Pairs) -> Iterator[AnsweredPart]:
        """Run SLMs one by one, or all at once by batched products if that is faster."""
        runs = list(pairs.runs())
        most = max(place.stop - place.start for _, place in runs)
        if self.stack is not None and len(runs) >= STACK_SLMS and most <= STACK_ROWS:
            yield self._answer_at_once(self.stack, query, pairs, runs, most)
            return
        for i, place in runs:
            whole = place.stop - place.start == len(query.current)
            own = query if whole else query.map(lambda x, place=place: x[pairs.row[place]])
            yield AnsweredPart(self.slms[i](own), place, (i,))

    def _answer_at_once(
        self, stack: Stack, query: Query, pairs: Pairs, runs: list[tuple[int, slice]], most: int
    ) -> AnsweredPart:
        """Give every SLM the same number of samples, some of them padding."""
        members = tuple(i for i, _ in runs)
        index = torch.zeros(len(runs), most, dtype=torch.int64, device=pairs.row.device)
        wanted = torch.zeros_like(index, dtype=torch.bool)
        for place, (_, run) in enumerate(runs):
            index[place, : run.stop - run.start] = pairs.row[run]
            wanted[place, : run.stop - run.start] = True
        answer = stack(members, query.map(lambda x: x[index]))
        output = SLMOutput(*(getattr(answer, part.name)[wanted] for part in fields(answer)))
        return AnsweredPart(output, slice(0, len(pairs.row)), members)

    def _build(self, slm_id: int) -> SLM:
        return build_slm(self.config, self.spec, slm_id).to(self.device)


def build_slm(config: FleetConfig, spec: WorldSpec, slm_id: int) -> SLM:
    """Build one SLM; its number fixes its initial weights in every process."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(config.seed, "slm", slm_id))
        return SLM(config.slm, spec.state_dim, spec.char_dim, config.query_dim, spec.address_bits // 8)


def to_proposals(output: SLMOutput, k: int, num_words: int) -> Proposals:
    """Proposals from (P,) answers, without a graph; ranges are clipped at the end of the memory."""
    start, log_prob, length = output.candidates(k)
    wanted = length.unsqueeze(-1).expand_as(start)
    clipped = torch.minimum(wanted, num_words - start)
    confidence = output.confidence_logit.sigmoid()
    return Proposals(
        start, clipped, clipped < wanted, log_prob.detach(), confidence.detach(), output.hidden.detach()
    )  # fmt: skip


def join_proposals(parts: Sequence[Proposals]) -> Proposals:
    """Join the answers of several hosts side by side."""
    names = ("start", "length", "clipped", "log_prob", "confidence", "hidden")
    return Proposals(*(torch.cat([getattr(part, name) for part in parts], dim=1) for name in names))


def num_parameters(module: nn.Module) -> int:
    """The number of learnt parameters."""
    return sum(p.numel() for p in module.parameters())
