"""Frozen records that the parts of a system exchange.

Shapes:
    B: batch.  T: time steps.  N: SLMs (and memory tables).  K: candidates an SLM proposes.
    S: state (with its action).  Y: the part of the state that is predicted.  C: characteristics.
    Q: info query.  H: SLM hidden.  P: the oracle's context.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Literal, TypeVar

import torch
from torch import Tensor

Split = Literal["train", "valid", "test"]
R = TypeVar("R", bound="_Record")


class _Record:
    """Tensor records that can be sliced, reshaped and moved as one."""

    def map(self: R, function, *others: R) -> R:
        """Apply ``function`` to each tensor, nested ones too, and its counterparts in ``others``; None stays None."""
        changed = {}
        for field in fields(self):  # pyright: ignore[reportArgumentType]
            value = getattr(self, field.name)
            if isinstance(value, Tensor):
                changed[field.name] = function(value, *(getattr(other, field.name) for other in others))
            elif isinstance(value, _Record):
                changed[field.name] = value.map(function, *(getattr(other, field.name) for other in others))
        return replace(self, **changed)  # pyright: ignore[reportArgumentType]

    def to(self: R, device: torch.device | str) -> R:
        """Copy every tensor to ``device``."""
        return self.map(lambda tensor: tensor.to(device))


@dataclass(frozen=True)
class Ranges(_Record):
    """Word ranges ``[start, start + length)``; length 0 means no read.

    ``start`` and ``length`` are int64 of one shape.
    """

    start: Tensor
    length: Tensor


@dataclass(frozen=True)
class Batch(_Record):
    """Transitions, in the order they happened.

    Attributes:
        past: (B, T, S) the state with its action before ``current``; equal to ``current`` if there is none.
        current: (B, T, S) state with its action.
        target: (B, T, Y) next state.
        characteristics: (B, T, C) which world this is.
        labels: (B, T, N) from the write log: where table n keeps what this sample needs.
        keyed: (B, T, N) bool, True if that address follows from this step's inputs alone, without a request.
        relevant: (B, T, N) bool, which tables matter, if the world knows it.
        context: (B, T, P) what an oracle is told, if the world knows it.
        world: (B, T) int64, the sample's body or data set, if the world has several.
    """

    past: Tensor
    current: Tensor
    target: Tensor
    characteristics: Tensor
    labels: Ranges
    keyed: Tensor
    relevant: Tensor | None = None
    context: Tensor | None = None
    world: Tensor | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """(B, T)."""
        return self.current.shape[0], self.current.shape[1]

    def fold_time(self) -> Batch:
        """(B, T, ...) to (B * T, 1, ...), for everything that is not recurrent."""
        return self.map(lambda tensor: tensor.flatten(0, 1).unsqueeze(1))

    def at(self, t: int) -> Batch:
        """Step ``t`` alone, without the time axis: (B, ...)."""
        return self.map(lambda tensor: tensor[:, t])

    def columns(self, tables: Tensor | None) -> Batch:
        """Give each of N SLMs the column of its table, from (N,) ``tables``; None: SLM n has table n."""
        if tables is None:
            return self
        relevant = None if self.relevant is None else self.relevant[..., tables]
        labels = self.labels.map(lambda tensor: tensor[..., tables])
        return replace(self, labels=labels, keyed=self.keyed[..., tables], relevant=relevant)

    def of(self, slms: Tensor | None) -> Batch:
        """Drop the time axis and keep the columns of the (B, A) SLMs, in their order; None keeps all."""
        if slms is None:
            return self
        relevant = None if self.relevant is None else self.relevant.gather(1, slms)
        labels = self.labels.map(lambda tensor: tensor.gather(1, slms))
        return replace(self, labels=labels, keyed=self.keyed.gather(1, slms), relevant=relevant)


@dataclass(frozen=True)
class Query(_Record):
    """What the learner sends to the SLMs: one message a step.

    ``past``, ``current`` (B, S); ``characteristics`` (B, C); ``info_query`` (B, Q), zeros without a request.
    """

    past: Tensor
    current: Tensor
    characteristics: Tensor
    info_query: Tensor


@dataclass(frozen=True)
class Proposals(_Record):
    """What N SLMs answer, best candidate first.

    Attributes:
        start: (B, N, K) int64.
        length: (B, N, K) int64, clipped to the end of the memory.
        clipped: (B, N, K) bool, True if it was clipped.
        log_prob: (B, N, K) log-probability of the start, over the whole address space.
        confidence: (B, N) probability that the best candidate is the right one.
        hidden: (B, N, H).
    """

    start: Tensor
    length: Tensor
    clipped: Tensor
    log_prob: Tensor
    confidence: Tensor
    hidden: Tensor

    def ranges(self, k: int = 0) -> Ranges:
        """(B, N) candidate ``k`` of every SLM."""
        return Ranges(self.start[..., k], self.length[..., k])


@dataclass(frozen=True)
class Step:
    """One prediction and how it was made.

    Attributes:
        next_state: (B, Y).
        mask: (B, N) 0 or 1.
        reads: (B, N) the ranges whose words were used; length 0 if the SLM was not trusted.
        num_reads_tried: (B, N) int64, ranges read for each SLM; above 1 after a second look.
        proposals: what the SLMs said.
        info_query: (B, Q) the request to the next step; zeros if it was not worth its price.
        read_confidence: (B, N) in [0, 1], how much the BLM believes each read; 0 without a read.
        first_read_confidence: (B, N) the same for the best candidate, before a second look; the health check uses it.
        shortlist: (B, A) int64, the SLMs that were asked; N is A then, see ``over``. None: all were asked.
    """

    next_state: Tensor
    mask: Tensor
    reads: Ranges
    num_reads_tried: Tensor
    proposals: Proposals
    info_query: Tensor
    read_confidence: Tensor
    first_read_confidence: Tensor
    shortlist: Tensor | None = None

    def over(self, num_slms: int) -> Step:
        """The same with a column for each of N SLMs; an SLM that was not asked has address -1 and length 0."""
        if self.shortlist is None:
            return self
        shortlist = self.shortlist

        def spread(x: Tensor, rest: float = 0) -> Tensor:
            whole = x.new_full((len(x), num_slms, *x.shape[2:]), rest)
            return whole.scatter_(1, shortlist.view(*shortlist.shape, *[1] * (x.dim() - 2)).expand_as(x), x)

        own = self.proposals
        proposals = replace(own.map(spread), start=spread(own.start, -1), log_prob=spread(own.log_prob, -torch.inf))
        single = {
            name: spread(getattr(self, name))
            for name in ("mask", "num_reads_tried", "read_confidence", "first_read_confidence")
        }
        return replace(self, reads=self.reads.map(spread), proposals=proposals, shortlist=None, **single)


@dataclass(frozen=True)
class Credit(_Record):
    """What the learner sends back to the SLMs once it knows the transition.

    Attributes:
        labels: (B, N) the right range from the write log; length 0 if unknown.
        label_weight: (B, N) weight of that label.
        candidate: (B, N, K) target distribution over the candidates, from hindsight; zero rows if not scored.
        candidate_weight: (B, N) weight of that target.
        hidden_grad: (B, N, H) gradient of the learner's loss with respect to ``Proposals.hidden``.
    """

    labels: Ranges
    label_weight: Tensor
    candidate: Tensor
    candidate_weight: Tensor
    hidden_grad: Tensor
