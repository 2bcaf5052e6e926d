"""Fleet: the SLMs as the BLM meets them, here or in other processes. How they learn: ``leworld.training.slm_training``.

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
"""From as many SLMs on a process answers by batched products; with less, its answers are the same to the bit whoever
shares the process."""
STACK_ROWS = 32
"""Where an SLM is asked about more samples, plain products are as fast."""


@dataclass(frozen=True)
class FleetConfig:
    """All that is needed to build any of the SLMs of a system, alike in every process."""

    slm: SLMConfig
    num_slms: int
    query_dim: int
    seed: int


class Fleet(Protocol):
    """N SLMs that propose ranges, wherever they are."""

    @property
    def num_slms(self) -> int:
        """How many there are."""
        ...

    @property
    def members(self) -> list[int]:
        """Their numbers, ascending; what has a column for each SLM has them in this order."""
        ...

    def propose(self, query: Query, shortlist: Tensor | None = None, *, learn: bool = False) -> Proposals:
        """Ask SLMs.

        Args:
            query: of B samples.
            shortlist: (B, A) int64, places of the SLMs that each sample asks among ``members``; None asks all.
            learn: keep what learning needs, call by call, as credit will come.

        Returns:
            columns are as ``shortlist`` has them, or all SLMs.
        """
        ...


@dataclass(frozen=True)
class AnsweredPart:
    """What was answered at once: (R, ...) of the pairs at ``place``, of the group's ``members``."""

    output: SLMOutput
    place: slice
    members: tuple[int, ...]


@dataclass(frozen=True)
class Kept:
    """A proposal that credit is to come for: ``start`` (P, K) of its pairs."""

    query: Query
    pairs: Pairs
    parts: list[AnsweredPart]
    start: Tensor


class SLMHost:
    """Some of a fleet's SLMs in this process; all of them make a whole ``Fleet``.

    Attributes:
        slm_ids: their numbers.
        slms: the models, in that order.
        kept: proposals that credit is to come for.
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
        """Have exactly these SLMs: those that stay keep what they learnt, others begin."""
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
        """``propose`` where it is listed which SLMs of this group are asked about which samples."""
        query = query.to(self.device)
        if learn:
            query = replace(query, info_query=query.info_query.detach().requires_grad_())
        with torch.set_grad_enabled(learn):
            parts = list(self._answers(query, pairs))
        # Each by itself: vectorised functions round by a number's place, which must not depend on who shares a process.
        answers = [to_proposals(part.output, self.config.slm.candidates, self.num_words) for part in parts]
        proposals = answers[0].map(lambda *same: torch.cat(same), *answers[1:])
        if learn:
            self.kept.append(Kept(query, pairs, parts, proposals.start))
        return pairs.put(proposals)

    def _answers(self, query: Query, pairs: Pairs) -> Iterator[AnsweredPart]:
        """One after another, or where that is faster by batched products, all at once."""
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
        """Every SLM about as many samples, some of them for nothing."""
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
    """One SLM with the initial weights that its number gives it in every process."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(config.seed, "slm", slm_id))
        return SLM(config.slm, spec.state_dim, spec.char_dim, config.query_dim, spec.address_bits // 8)


def to_proposals(output: SLMOutput, k: int, num_words: int) -> Proposals:
    """What (P,) answers propose; ranges are clipped at the end of the memory, and the graph is cut."""
    start, log_prob, length = output.candidates(k)
    wanted = length.unsqueeze(-1).expand_as(start)
    clipped = torch.minimum(wanted, num_words - start)
    confidence = output.confidence_logit.sigmoid()
    return Proposals(
        start, clipped, clipped < wanted, log_prob.detach(), confidence.detach(), output.hidden.detach()
    )  # fmt: skip


def join_proposals(parts: Sequence[Proposals]) -> Proposals:
    """Put the answers of groups side by side."""
    names = ("start", "length", "clipped", "log_prob", "confidence", "hidden")
    return Proposals(*(torch.cat([getattr(part, name) for part in parts], dim=1) for name in names))


def num_parameters(module: nn.Module) -> int:
    """How many numbers are learnt."""
    return sum(p.numel() for p in module.parameters())
