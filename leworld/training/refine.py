"""Phase 3, refine: the BLM learns to make requests.

The request made at t goes to the SLMs at t + 1, and the gradient of their loss comes back to it. The weight of an
address is what a request could gain: the error without requests less the error with the right reads, on the same
samples. The BLM learns to predict that worth, and later sends a request only if the worth is above a price.

Two rounds replace a walk through time, so that all steps of all sequences are one batch. In the first, every step makes
a request; in the second, every step receives the request of the step before. In the first round, guided sequences read
what the write log names; the others read what the SLMs propose.

Source: paired branches as in ProactAgent, https://arxiv.org/abs/2604.20572
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from leworld.models.blm import Prediction
from leworld.models.forward_pass import ForwardPass
from leworld.models.tag_head import tag_loss
from leworld.optim import warmup_cosine
from leworld.rng import generator
from leworld.training.data_parallel import BatchPart
from leworld.training.hindsight import best_masks, variant_errors
from leworld.training.losses import verify_loss
from leworld.training.read_noise import ReadNoise
from leworld.training.setting_checks import check_fractions, check_not_negative, check_positive
from leworld.training.train_state import Metrics, TrainState
from leworld.types import Batch, Credit, Proposals, Ranges


@dataclass(frozen=True)
class RefineConfig:
    """Phase 3.

    Attributes:
        steps: optimiser steps, of the BLM and of every SLM.
        sequences: sequences per step.
        horizon: their length at most.
        lr: peak learning rate of the BLM; ``slm_lr`` of the SLMs; both warm up for ``warmup_steps``.
        irrelevant: part of the reads that are another sample's.
        guided: part of the sequences that read the write log's ranges instead of the proposed ones.
        request_weight: of the SLMs' gradient in the request at the end. It grows from 0, as SLMs at first cannot read
            requests. At 0 nothing teaches the requests.
        label_weight: in the SLMs' loss, of addresses that follow from the inputs.
        tag_weight: of the tags that a request names.
        verify_weight, mask_weight, read_price: as in the joint phase.
    """

    steps: int = 100
    sequences: int = 16
    horizon: int = 8
    lr: float = 3e-4
    slm_lr: float = 1e-3
    warmup_steps: int = 10
    irrelevant: float = 0.3
    guided: float = 0.9
    request_weight: float = 1.0
    label_weight: float = 0.5
    tag_weight: float = 1.0
    verify_weight: float = 0.1
    mask_weight: float = 0.5
    read_price: float = 0.0005

    def __post_init__(self) -> None:
        check_fractions("phases.refine", self, "irrelevant", "guided")
        check_positive("phases.refine", self, "sequences", "horizon", "lr", "slm_lr", "warmup_steps")
        check_not_negative("phases.refine", self, "steps", "request_weight", "label_weight", "verify_weight")
        check_not_negative("phases.refine", self, "tag_weight")
        check_not_negative("phases.refine", self, "mask_weight", "read_price")

    def request_weight_at(self, step: int) -> float:
        """Weight of the SLMs' gradient in the request at a step."""
        return self.request_weight * step / max(1, self.steps - 1)


@dataclass(frozen=True)
class Round:
    """One pass over all (M = B * T) steps at once.

    ``error`` (M,), ``taught`` the scalar loss of hindsight, ``proposals`` whose ``hidden`` has a gradient, ``batch``
    with columns for the SLMs on the shortlist.
    """

    error: Tensor
    taught: Tensor
    proposals: Proposals
    batch: Batch


def refine_step(state: TrainState, config: RefineConfig, step: int) -> Metrics:
    """One step: the same samples without and with requests; the outcome teaches the requests."""
    draw = generator(state.seed, "refine", step)
    batch = state.world.batch("train", config.sequences, draw)
    batch = batch.map(lambda tensor: tensor[:, : config.horizon]).to(state.device)
    horizon = batch.shape[1]
    sequences = state.group.part(len(batch.current))
    guided = sequences.of(torch.rand(sequences.total, generator=draw) < config.guided).to(state.device)
    batch, part = batch.map(sequences.of), sequences.times(horizon)
    guided = guided.repeat_interleave(horizon)
    seen = state.blm.observe(batch.past, batch.current)
    seen = None if seen is None else seen.flatten(0, 1)
    batch = batch.fold_time().at(0)
    without, worth = request_worth(state, batch, seen, part)

    received = first_requests(state, config, batch, seen, guided, horizon)
    made = make_requests(state, config, batch, seen, received, guided)
    requests = delay(sent(made, guided, state.blm.config.request_price), horizon)
    requests = requests if config.request_weight else requests.detach()
    result = run_round(state, config, batch, seen, requests, guided, draw, part)
    foreseen = foresight_loss(made.worth, worth, horizon)
    own = result.error.mean() + foreseen
    (own * part.share + result.taught).backward(retain_graph=requests.requires_grad)
    slm_lr = warmup_cosine(step, config.steps, config.slm_lr, config.warmup_steps)
    credit = to_credit(config, result.batch, result.proposals, worth)
    (gradient,) = state.fleet.learn([credit], slm_lr, ("refine", step))
    if requests.requires_grad:
        torch.autograd.backward(requests, config.request_weight_at(step) * gradient.to(state.device))
    lr = warmup_cosine(step, config.steps, config.lr, config.warmup_steps)
    norm = state.optimise(lr)
    error = result.error.detach()
    loss, gain = (state.group.mean(values, part).item() for values in (error, without - error))
    return {
        "loss": loss, "gain": gain, "grad_norm": norm, "lr": lr,
        **asked_metrics(result.batch, result.proposals),
    }  # fmt: skip


def delay(requests: Tensor, horizon: int) -> Tensor:
    """(M, Q) requests made to (M, Q) requests received: those of the step before, zeros at the first step."""
    made = requests.unflatten(0, (-1, horizon))
    return torch.cat([torch.zeros_like(made[:, :1]), made[:, :-1]], dim=1).flatten(0, 1)


@torch.no_grad()
def first_requests(
    state: TrainState, config: RefineConfig, batch: Batch, seen: Tensor | None, guided: Tensor, horizon: int
) -> Tensor:
    """(M, Q) requests received from steps that had received none, as the BLM expects them."""
    nothing = state.query(batch).info_query
    made = make_requests(state, config, batch, seen, nothing, guided)
    return delay(sent(made, guided, state.blm.config.request_price), horizon)


def sent(made: Prediction, guided: Tensor, price: float) -> Tensor:
    """(M, Q) requests that are sent: all of guided rows, to learn their worth; else those worth the price."""
    return made.request * (guided | (made.worth > price)).unsqueeze(1)


def foresight_loss(foreseen: Tensor, worth: Tensor, horizon: int) -> Tensor:
    """Loss of the (M,) worth foreseen at each step against the (M,) worth found at the next; not at the last."""
    ahead, found = foreseen.unflatten(0, (-1, horizon))[:, :-1], worth.unflatten(0, (-1, horizon))[:, 1:]
    return (ahead - found).pow(2).sum() / len(worth)


def make_requests(
    state: TrainState, config: RefineConfig, batch: Batch, seen: Tensor | None, received: Tensor, guided: Tensor
) -> Prediction:
    """Predict at every step, with the request's graph; guided rows use the mask of hindsight."""
    forward, batch = begun(state, batch, received)
    proposals = forward.propose()
    forward.sense(seen)
    (index,) = forward.read(guide(proposals.ranges(), batch.labels, guided))
    forward = forward.expect(index, guided.unsqueeze(1))
    slots = forward.look(index)
    best = best_masks(state.blm, forward.senses, slots, state.change(batch), config.read_price)
    mask = torch.where(guided.unsqueeze(1), best, forward.route().mask)
    return forward.predict(slots, mask)


def begun(state: TrainState, batch: Batch, received: Tensor | None = None) -> tuple[ForwardPass, Batch]:
    """A pass with (M, Q) received requests, or none; and the batch with columns for its shortlist."""
    query = state.query(batch, received)
    shortlist = state.blm.shortlist(query)
    return state.forward(query, shortlist), state.concern(batch, shortlist)


def run_round(
    state: TrainState,
    config: RefineConfig,
    batch: Batch,
    seen: Tensor | None,
    received: Tensor,
    guided: Tensor,
    draw: torch.Generator,
    part: BatchPart,
) -> Round:
    """Run all steps with the requests that they receive, as at test time."""
    forward, batch = begun(state, batch, received)
    proposals = forward.propose(learn=True)
    forward.sense(seen)
    routing = forward.route()
    # Guided rows make the right reads, so that the BLM keeps using reads while requests are still poor.
    wanted = guide(proposals.ranges(), batch.labels, guided)
    noisy = state.add_read_noise(wanted, ReadNoise(config.irrelevant, 0.0, 0.0), draw, part)
    index, right = forward.read(noisy.ranges, batch.labels)
    there = batch.labels.length > 0
    named = tag_loss(forward.senses.tags, forward.records.tags[right, 0], there, state.group.sum(there.sum()))
    forward = forward.expect(right, guided.unsqueeze(1))
    slots = forward.look(index)
    prediction = forward.predict(slots, routing.mask)
    change = state.change(batch)
    known = forward.senses.map(Tensor.detach)
    best = best_masks(state.blm, known, slots.map(Tensor.detach), change, config.read_price)
    # The worth of a read with noise says nothing about the mask.
    fair = (~noisy.wrong.any(1)).float()
    mask_loss = F.binary_cross_entropy_with_logits(routing.logit, best, reduction="none").mean(1)
    mask_loss = (mask_loss * fair).sum() / state.group.sum(fair.sum()).clamp(min=1)
    verify = verify_loss(forward.pooled, noisy.ranges.start != batch.labels.start, there, state.group)
    taught = config.mask_weight * mask_loss + config.verify_weight * verify + config.tag_weight * named
    return Round((prediction.change - change).pow(2).mean(-1), taught, proposals, batch)


def guide(proposed: Ranges, labels: Ranges, guided: Tensor) -> Ranges:
    """(M, N) the write log's range if it is known and the row is guided, else the proposed one."""
    use = guided.unsqueeze(1) & (labels.length > 0)
    return Ranges(torch.where(use, labels.start, proposed.start), torch.where(use, labels.length, proposed.length))


@torch.no_grad()
def request_worth(state: TrainState, batch: Batch, seen: Tensor | None, part: BatchPart) -> tuple[Tensor, Tensor]:
    """What requests could gain: all proposed reads against all reads of the write log.

    Returns:
        (M,) error without requests, and (M,) in [-1, 1] the part of the mean error that the right reads save.
    """
    forward, batch = begun(state, batch)
    proposed = forward.propose().ranges()
    forward.sense(seen)
    own = forward.route().mask
    everyone = torch.ones(len(own), dtype=torch.bool, device=own.device)
    index, right = forward.read(proposed, guide(proposed, batch.labels, everyone))
    proposed_slots, right_slots = forward.look(index), forward.expect(right, everyone.unsqueeze(1)).look(right)
    slots = proposed_slots.map(lambda *both: torch.stack(both), right_slots)
    change = state.change(batch)
    without = (forward.predict(proposed_slots, own).change - change).pow(2).mean(-1)
    everything = torch.ones_like(own[:1]).repeat(2, 1)
    plain, best = variant_errors(state.blm, forward.senses, slots, everything, change)
    return without, ((plain - best) / state.group.mean(plain, part).clamp(min=1e-8)).clamp(-1, 1)


def to_credit(config: RefineConfig, batch: Batch, proposals: Proposals, worth: Tensor) -> Credit:
    """Weigh addresses that follow from the inputs as in the joint phase, the others by their worth."""
    hidden_grad = proposals.hidden.grad
    assert hidden_grad is not None
    keyed = torch.full_like(hidden_grad[..., 0], config.label_weight)
    weight = torch.where(batch.keyed, keyed, worth.clamp(min=0).unsqueeze(1))
    zeros = torch.zeros_like(proposals.log_prob)
    return Credit(batch.labels, weight, zeros, zeros[..., 0], hidden_grad)


def asked_metrics(batch: Batch, proposals: Proposals) -> Metrics:
    """Hit rates of addresses that follow from the inputs, and of those that only a request can find."""
    right = proposals.start[..., 0] == batch.labels.start
    metrics = {}
    for name, known in (("hit_top1", batch.keyed), ("hit_asked", ~batch.keyed)):
        known = known & (batch.labels.length > 0)
        if bool(known.any()):
            metrics[name] = right[known].float().mean().item()
    return metrics
