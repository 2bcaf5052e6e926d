"""Phase 3, refine: the BLM learns to ask.

Sequences run step by step, each request going to the SLMs of the next step. The gradient of the SLMs' loss at t + 1
goes to the request made at t. How much an address counts there is what a request could gain: the error without any,
less the error with the right reads, on the same samples.

Source: paired branches as in ProactAgent, https://arxiv.org/abs/2604.20572, compared like for like.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from leworld.models.blm import Senses
from leworld.optim import warmup_cosine
from leworld.phases.checks import check_fractions, check_positive
from leworld.phases.hindsight import best_masks, variant_errors
from leworld.phases.joint import attach_hidden
from leworld.phases.learner import Learner, Metrics, slots_of
from leworld.rng import generator
from leworld.types import Batch, Credit, Proposals, Ranges


@dataclass(frozen=True)
class RefineConfig:
    """Phase 3.

    Attributes:
        steps: optimiser steps, of the BLM and of every SLM.
        sequences: sequences a step.
        horizon: their length at most.
        lr: peak learning rate of the BLM; ``slm_lr`` of the SLMs; both warm up for ``warmup_steps``.
        guided: part of the sequences at the start that read what the write log names instead of what was proposed;
            it falls to 0 over the phase.
        request_weight: of the SLMs' gradient in the request.
        label_weight: of addresses that follow from the inputs, in the SLMs' loss.
        mask_weight, read_price: of hindsight over masks, as in the joint phase.
    """

    steps: int = 100
    sequences: int = 16
    horizon: int = 8
    lr: float = 3e-4
    slm_lr: float = 1e-3
    warmup_steps: int = 10
    guided: float = 0.9
    request_weight: float = 1.0
    label_weight: float = 0.5
    mask_weight: float = 0.5
    read_price: float = 0.0005

    def __post_init__(self) -> None:
        check_fractions("phases.refine", self, "guided")
        check_positive("phases.refine", self, "sequences", "horizon", "lr", "slm_lr", "warmup_steps")

    def guided_at(self, step: int) -> float:
        """Part of the sequences that are guided at a step."""
        return self.guided * max(0.0, 1 - step / max(1, self.steps - 1))


@dataclass(frozen=True)
class Trace:
    """What one step of a sequence left behind.

    ``error`` (B,), ``mask_loss`` scalar, ``request`` (B, Q) with graph, ``proposals`` whose ``hidden`` has a gradient.
    """

    error: Tensor
    mask_loss: Tensor
    request: Tensor
    proposals: Proposals


def refine_step(learner: Learner, config: RefineConfig, step: int) -> Metrics:
    """One step: sequences with requests, the same samples without, and the requests taught by what they led to."""
    draw = generator(learner.seed, "refine", step)
    batch = learner.world.batch("train", config.sequences, draw)
    batch = batch.map(lambda tensor: tensor[:, : config.horizon]).to(learner.device)
    guided = (torch.rand(len(batch.current), generator=draw) < config.guided_at(step)).to(learner.device)
    without, worth = request_worth(learner, batch)
    traces = roll_out(learner, config, batch, guided)

    errors = torch.stack([trace.error for trace in traces], dim=1)
    mask_loss = torch.stack([trace.mask_loss for trace in traces]).mean()
    (errors.mean() + config.mask_weight * mask_loss).backward(retain_graph=True)
    credits = [credit_at(config, batch.at(t), trace.proposals, worth[:, t]) for t, trace in enumerate(traces)]
    slm_lr = warmup_cosine(step, config.steps, config.slm_lr, config.warmup_steps)
    gradients = learner.fleet.learn(credits, slm_lr, ("refine", step))
    teach_requests(traces, gradients, config.request_weight)
    lr = warmup_cosine(step, config.steps, config.lr, config.warmup_steps)
    norm = learner.optimizer.step(lr)
    gain = (without - errors.detach()).mean().item()
    return {"loss": errors.mean().item(), "gain": gain, "grad_norm": norm, "lr": lr, **asked_metrics(batch, traces)}


def roll_out(learner: Learner, config: RefineConfig, batch: Batch, guided: Tensor) -> list[Trace]:
    """Run (B, T) sequences step by step; guided sequences (B,) read what the write log names."""
    request, traces = None, []
    for t in range(batch.shape[1]):
        trace = request_step(learner, config, batch.at(t), request, guided)
        request = trace.request
        traces.append(trace)
    return traces


def request_step(learner: Learner, config: RefineConfig, batch: Batch, request: Tensor | None, guided: Tensor) -> Trace:
    """One step of a sequence, with the request of the step before."""
    query = learner.query(batch, request)
    proposals = attach_hidden(learner.fleet.propose(query.map(Tensor.detach), learn=True).to(learner.device))
    senses = learner.blm.sense(query)
    routing = learner.blm.route(senses, proposals)
    records, (index,) = learner.read(guide(proposals.ranges(), batch.labels, guided))
    slots = slots_of(learner, senses, records, index, proposals)
    prediction = learner.blm.predict(senses, slots, routing.mask)
    change = learner.change(batch)
    seen = Senses(senses.tokens.detach(), senses.state.detach())
    best = best_masks(learner.blm, seen, slots.detach(), change, config.read_price)
    mask_loss = F.binary_cross_entropy_with_logits(routing.logit, best)
    return Trace((prediction.change - change).pow(2).mean(-1), mask_loss, prediction.info_query, proposals)


def guide(proposed: Ranges, labels: Ranges, guided: Tensor) -> Ranges:
    """(B, N) what the write log names where it does and the row is guided, what was proposed elsewhere."""
    use = guided.unsqueeze(1) & (labels.length > 0)
    return Ranges(torch.where(use, labels.start, proposed.start), torch.where(use, labels.length, proposed.length))


@torch.no_grad()
def request_worth(learner: Learner, batch: Batch) -> tuple[Tensor, Tensor]:
    """What requests could gain.

    Returns:
        (B, T) error without requests, and (B, T) in [0, 1] the part of the mean error that the right reads would save.
    """
    folded = batch.fold_time().at(0)
    query = learner.query(folded)
    proposals = learner.fleet.propose(query).to(learner.device)
    senses = learner.blm.sense(query)
    mask = learner.blm.route(senses, proposals).mask
    everyone = torch.ones(len(mask), dtype=torch.bool, device=mask.device)
    right = guide(proposals.ranges(), folded.labels, everyone)
    records, indices = learner.read(proposals.ranges(), right)
    slots = torch.stack([slots_of(learner, senses, records, index, proposals) for index in indices])
    change = learner.change(folded)
    own = (learner.blm.predict(senses, slots[0], mask).change - change).pow(2).mean(-1)
    best = variant_errors(learner.blm, senses, slots[1:], torch.ones_like(mask[:1]), change)[0]
    worth = ((own - best) / own.mean().clamp(min=1e-8)).clamp(0, 1)
    return own.view(batch.shape), worth.view(batch.shape)


def credit_at(config: RefineConfig, batch: Batch, proposals: Proposals, worth: Tensor) -> Credit:
    """Addresses that follow from the inputs count as in the joint phase, the others by what they are worth."""
    hidden_grad = proposals.hidden.grad
    assert hidden_grad is not None
    weight = torch.where(batch.keyed, torch.full_like(hidden_grad[..., 0], config.label_weight), worth.unsqueeze(1))
    zeros = torch.zeros_like(proposals.log_prob)
    return Credit(batch.labels, weight, zeros, zeros[..., 0], hidden_grad)


def teach_requests(traces: list[Trace], gradients: list[Tensor], weight: float) -> None:
    """Send each step's gradient to the request that the step before had made."""
    requests = [trace.request for trace in traces[:-1]]
    if requests:
        torch.autograd.backward(requests, [weight * gradient.to(requests[0].device) for gradient in gradients[1:]])


def asked_metrics(batch: Batch, traces: list[Trace]) -> Metrics:
    """Hit rates of addresses that follow from the inputs, and of those that only a request can find."""
    start = torch.stack([trace.proposals.start[..., 0] for trace in traces], dim=1)
    right = start == batch.labels.start
    metrics = {}
    for name, known in (("hit_top1", batch.keyed), ("hit_asked", ~batch.keyed)):
        known = known & (batch.labels.length > 0)
        if bool(known.any()):
            metrics[name] = right[known].float().mean().item()
    return metrics
