"""Phase 2, joint: SLMs learn from credit, the router to find the cheapest good mask, the BLM to lower the error.

Every SLM proposes K candidates. On part of the samples, hindsight finds the candidates and the mask that explain the
transition best, and teaches them. Nothing is recurrent here, so time folds into the batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from leworld.models.blm import BLM
from leworld.models.forward_pass import ForwardPass
from leworld.models.pooling import Senses
from leworld.models.router import Routing, logistic_noise
from leworld.optim import warmup_cosine
from leworld.rng import generator
from leworld.training.data_parallel import BatchPart, LearnerGroup
from leworld.training.hindsight import best_masks, candidate_credit
from leworld.training.losses import subset_loss, verify_loss
from leworld.training.read_noise import ReadNoise
from leworld.training.setting_checks import check_fractions, check_not_negative, check_positive
from leworld.training.train_state import Metrics, TrainState, recall
from leworld.types import Batch, Credit, Proposals, Ranges


@dataclass(frozen=True)
class JointConfig:
    """Phase 2.

    Attributes:
        steps: optimiser steps, of the BLM and of every SLM.
        sequences: sequences drawn per step; ``samples`` transitions of them are kept.
        lr: peak learning rate of the BLM; ``slm_lr`` of the SLMs; both warm up for ``warmup_steps``.
        irrelevant: part of the reads that are another sample's; ``dropped`` part left out; ``blind`` part of the
            samples that read nothing; ``cut`` part whose reads keep only some first records; ``forgotten`` part that
            knows nothing of its episode so far.
        scored: part of the samples on which hindsight scores candidates and masks.
        verify_weight: of the loss on read confidence.
        credit_weight: of hindsight over candidates in the SLMs' loss.
        credit_temperature: of its target, relative to the spread of the candidates' errors.
        label_weight: of the write log in the SLMs' loss.
        mask_weight: of hindsight over masks in the router's loss.
        shortlist_weight: of hindsight over masks in the shortlist's loss, if ``model.shortlist_size`` is set.
        subset_weight: of the shortlist's loss, if the world says which tables matter.
        read_price: error that one read less is worth.
        balance_weight, entropy_weight: of the router's own terms.
        temperature: of the router at the start; it falls geometrically to ``temperature_end``.
    """

    steps: int = 400
    sequences: int = 64
    samples: int = 256
    lr: float = 5e-4
    slm_lr: float = 1e-3
    warmup_steps: int = 20
    irrelevant: float = 0.3
    dropped: float = 0.1
    blind: float = 0.05
    cut: float = 0.1
    forgotten: float = 0.3
    scored: float = 0.25
    verify_weight: float = 0.1
    credit_weight: float = 0.2
    credit_temperature: float = 0.2
    label_weight: float = 0.1
    mask_weight: float = 0.5
    shortlist_weight: float = 0.5
    subset_weight: float = 1.0
    read_price: float = 0.0005
    balance_weight: float = 0.001
    entropy_weight: float = 0.001
    temperature: float = 1.0
    temperature_end: float = 0.1

    def __post_init__(self) -> None:
        check_fractions("phases.joint", self, "irrelevant", "dropped", "blind", "cut", "forgotten", "scored")
        check_positive(
            "phases.joint", self, "sequences", "samples", "lr", "slm_lr", "credit_temperature", "temperature"
        )
        check_positive("phases.joint", self, "temperature_end", "warmup_steps")
        check_not_negative(
            "phases.joint", self, "steps", "verify_weight", "credit_weight", "label_weight", "mask_weight"
        )
        check_not_negative("phases.joint", self, "shortlist_weight", "subset_weight")
        check_not_negative("phases.joint", self, "read_price", "balance_weight", "entropy_weight")

    def temperature_at(self, step: int) -> float:
        """Router temperature, falling geometrically."""
        part = min(1.0, step / max(1, self.steps - 1))
        return self.temperature * (self.temperature_end / self.temperature) ** part


SHOWN_SLMS = 64
"""With more SLMs, the use of each is not reported."""


@dataclass(frozen=True)
class Scores:
    """What hindsight found on the scored samples ``rows``.

    ``mask`` (R, N) best mask; ``candidate`` (R, N, K) and ``weight`` (R, N) credit; the whole
    group scored ``total`` samples.
    """

    rows: Tensor
    mask: Tensor
    candidate: Tensor
    weight: Tensor
    total: int


def joint_step(state: TrainState, config: JointConfig, step: int) -> Metrics:
    """One step: propose, route, read, predict, score in hindsight, send credit."""
    draw = generator(state.seed, "joint", step)
    # The refine phase teaches what only a request can find: without one, the right record seems useless.
    samples = state.samples(config.sequences, config.samples, draw, keyed=True)
    part, query = samples.part, state.query(samples.batch)
    relevant = state.concern(samples.batch, None).relevant
    shortlist = state.shortlist(query, config.temperature_at(step), part, "joint", step)
    batch = state.concern(samples.batch, shortlist)
    forward = state.forward(query, shortlist)
    proposals = forward.propose(learn=True)
    forward.sense(state.seen(samples, config.forgotten, draw))
    columns = proposals.confidence.shape[1]
    noise = part.of(logistic_noise(torch.Size((part.total, columns)), draw)).to(state.device)
    routing = forward.route(config.temperature_at(step), noise)
    read_noise = ReadNoise(config.irrelevant, config.dropped, config.blind, config.cut)
    noisy = state.add_read_noise(proposals.ranges(), read_noise, draw, part)
    scored = scored_rows(part.total, config.scored, draw)
    rows = (scored[part.holds(scored)] - part.first).to(state.device)
    index, candidates = forward.read(noisy.ranges, Ranges(proposals.start[rows], proposals.length[rows]))
    prediction = forward.predict(forward.look(index), routing.mask * noisy.kept)
    change = state.change(batch)
    error = (prediction.change - change).pow(2).mean() * part.share

    scores = score(forward, config, candidates, change, rows, len(scored))
    right = right_reads(batch, proposals) if state.labels else noisy.ranges.length > 0
    verify = verify_loss(forward.pooled, noisy.wrong, noisy.wrong | right, state.group)
    loss = error + config.verify_weight * verify + routing_loss(config, routing, scores, state.group, part)
    loss = loss + config.shortlist_weight * shortlist_loss(state.blm, forward.senses, scores, part)
    loss = loss + config.subset_weight * part.share * subset_loss(state.blm, forward.senses, relevant)
    loss.backward()
    lr = warmup_cosine(step, config.steps, config.lr, config.warmup_steps)
    norm = state.optimise(lr)
    credit = to_credit(config, batch, proposals, scores, part, config.label_weight if state.labels else 0.0)
    slm_lr = warmup_cosine(step, config.steps, config.slm_lr, config.warmup_steps)
    state.fleet.learn([credit], slm_lr, ("joint", step))
    return {
        "loss": state.group.sum(error).item(), "grad_norm": norm, "lr": lr,
        "temperature": config.temperature_at(step), **hit_metrics(batch, proposals), **recall(shortlist, relevant),
        **mask_metrics(batch, routing.logit, relevant, shortlist, state.fleet.members),
    }  # fmt: skip


def right_reads(batch: Batch, proposals: Proposals) -> Tensor:
    """(B, N) bool, True if the best candidate is the one in the write log."""
    return (proposals.start[..., 0] == batch.labels.start) & (batch.labels.length > 0)


def scored_rows(batch: int, part: float, generator: torch.Generator) -> Tensor:
    """(R,) the samples that hindsight scores, at least one."""
    return torch.randperm(batch, generator=generator)[: max(1, round(batch * part))]


@torch.no_grad()
def score(
    forward: ForwardPass, config: JointConfig, candidates: Tensor, change: Tensor, rows: Tensor, total: int
) -> Scores:
    """Score candidates and masks in hindsight.

    Args:
        forward: the pass of all B samples.
        config: of the phase.
        candidates: (R, N, K) places of the scored samples' candidates among the records.
        change: (B, Y) the true change.
        rows: (R,) the samples to score.
        total: samples that the whole group scores.
    """
    blm, some = forward.parts.blm, forward.at(rows)
    assert some.proposals is not None
    if not len(rows):
        nothing = some.proposals.confidence
        return Scores(rows, nothing, torch.zeros_like(some.proposals.log_prob), nothing, total)
    alternatives = some.look(candidates)
    best = alternatives.map(lambda tensor: tensor[:, :, 0])
    mask = best_masks(blm, some.senses, best, change[rows], config.read_price)
    temperature = config.credit_temperature
    candidate, weight = candidate_credit(blm, some.senses, best, alternatives, change[rows], temperature)
    return Scores(rows, mask, candidate, weight, total)


def routing_loss(config: JointConfig, routing: Routing, scores: Scores, group: LearnerGroup, part: BatchPart) -> Tensor:
    """This learner's share of the router's loss: hindsight's masks and its own terms."""
    taught = F.binary_cross_entropy_with_logits(routing.logit[scores.rows], scores.mask) if len(scores.rows) else 0.0
    taught = part.weight * len(scores.rows) / scores.total * taught
    use = group.total(routing.prob.mean(0) * part.share)
    own = config.balance_weight * routing.balance_loss(use) + config.entropy_weight * part.share * routing.entropy()
    return config.mask_weight * taught + own


def shortlist_loss(blm: BLM, senses: Senses, scores: Scores, part: BatchPart) -> Tensor | float:
    """This learner's share of the shortlist's loss: hindsight's masks teach which of the asked SLMs to ask."""
    if senses.shortlist is None or not len(scores.rows):
        return 0.0
    own = blm.router.alone(senses.state[scores.rows], shortlist=senses.shortlist[scores.rows])
    taught = F.binary_cross_entropy_with_logits(own.logit, scores.mask)
    return part.weight * len(scores.rows) / scores.total * taught


def to_credit(
    config: JointConfig, batch: Batch, proposals: Proposals, scores: Scores, part: BatchPart, label_weight: float
) -> Credit:
    """Teach SLMs the write log's address if it follows from the inputs, and hindsight on scored samples."""
    candidate = torch.zeros_like(proposals.log_prob)
    weight = torch.zeros_like(proposals.confidence)
    # The mean over the batch is taken later; scored rows represent all rows.
    share = part.total / scores.total
    candidate[scores.rows] = scores.candidate
    weight[scores.rows] = config.credit_weight * share * scores.weight
    hidden_grad = proposals.hidden.grad
    assert hidden_grad is not None
    return Credit(batch.labels, label_weight * batch.keyed.float(), candidate, weight, hidden_grad)


def hit_metrics(batch: Batch, proposals: Proposals) -> Metrics:
    """How often the best candidate, and any candidate, matches the write log; only known addresses count."""
    known = batch.keyed & (batch.labels.length > 0)
    if not bool(known.any()):
        return {}
    right = (proposals.start == batch.labels.start.unsqueeze(-1))[known]
    return {"hit_top1": right[:, 0].float().mean().item(), "hit_topk": right.any(1).float().mean().item()}


def mask_metrics(
    batch: Batch, logit: Tensor, relevant: Tensor | None, shortlist: Tensor | None, members: Sequence[int]
) -> Metrics:
    """Reads of the decision without noise, how often it is the true subset, and how much each SLM is used.

    Args:
        batch: with columns for the SLMs on the shortlist.
        logit: (B, A) of those SLMs.
        relevant: (B, N) bool of all SLMs, if the world knows it.
        shortlist: (B, A) places of the SLMs that were asked; None: all were.
        members: the numbers of all SLMs.
    """
    hard = logit > 0
    metrics = {"reads": hard.float().sum(1).mean().item()}
    if len(members) <= SHOWN_SLMS:
        used = hard if shortlist is None else hard.new_zeros(len(hard), len(members)).scatter(1, shortlist, hard)
        metrics |= {f"use_{i}": use for i, use in zip(members, used.float().mean(0).tolist(), strict=True)}
    if batch.relevant is not None and relevant is not None:
        all_asked = batch.relevant.sum(1) == relevant.sum(1)
        metrics["exact_mask"] = ((hard == batch.relevant).all(1) & all_asked).float().mean().item()
    return metrics
