"""Phase 1, pre-train: SLMs learn the placement from the write log, the BLM learns to use right reads.

Nothing is recurrent here, so time folds into the batch.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from leworld.models.router import logistic_noise
from leworld.models.tag_head import tag_loss
from leworld.optim import warmup_cosine
from leworld.rng import generator
from leworld.training.losses import subset_loss, verify_loss
from leworld.training.read_noise import ReadNoise
from leworld.training.setting_checks import check_fractions, check_not_negative, check_positive
from leworld.training.train_state import Metrics, TrainState, recall


@dataclass(frozen=True)
class PretrainConfig:
    """Phase 1.

    Attributes:
        steps: optimiser steps of the BLM.
        sequences: sequences drawn per step.
        samples: transitions of them that are kept.
        lr: peak learning rate of the BLM.
        warmup_steps: of the BLM and the SLMs.
        irrelevant: part of the reads that are another sample's.
        dropped: part of the reads that are left out.
        blind: part of the samples that read nothing.
        cut: part of the samples whose reads keep only some first records.
        forgotten: part of the samples that know nothing of their episode so far.
        temperature: of the router.
        verify_weight: of the loss on read confidence.
        codec_weight: of the loss of words decoded from their codes.
        ask_weight: of the loss of tags that requests name, if the next step depends on a request.
        subset_weight: of the shortlist's loss, if there is one and the world says which tables matter.
        slm_steps: optimiser steps of each SLM.
        slm_batch: keys per step.
        rule_steps: optimiser steps of the linear rule from key to address, per step of an SLM; ``rule_batch`` keys
            each. The BLM's rule for tags takes as many keys per step.
        slm_lr: peak learning rate of the SLMs.
        length_weight: of the length in the SLMs' loss.
        confidence_weight: of the confidence in the SLMs' loss.
    """

    steps: int = 600
    sequences: int = 64
    samples: int = 256
    lr: float = 1e-3
    warmup_steps: int = 50
    irrelevant: float = 0.3
    dropped: float = 0.2
    blind: float = 0.1
    cut: float = 0.2
    forgotten: float = 0.3
    temperature: float = 0.3
    verify_weight: float = 0.1
    codec_weight: float = 0.1
    ask_weight: float = 0.1
    subset_weight: float = 1.0
    slm_steps: int = 600
    slm_batch: int = 256
    rule_steps: int = 6
    rule_batch: int = 4096
    slm_lr: float = 1e-3
    length_weight: float = 0.5
    confidence_weight: float = 0.1

    def __post_init__(self) -> None:
        check_fractions("phases.pretrain", self, "irrelevant", "dropped", "blind", "cut", "forgotten")
        check_positive(
            "phases.pretrain", self, "sequences", "samples", "lr", "slm_batch", "rule_batch", "slm_lr", "rule_steps"
        )
        check_positive("phases.pretrain", self, "warmup_steps", "temperature")
        check_not_negative("phases.pretrain", self, "steps", "slm_steps", "verify_weight", "codec_weight", "ask_weight")
        check_not_negative("phases.pretrain", self, "subset_weight", "length_weight", "confidence_weight")


def pretrain_step(state: TrainState, config: PretrainConfig, step: int) -> Metrics:
    """One step of the BLM on reads from the write log, some of them with read noise."""
    draw = generator(state.seed, "pretrain", step)
    samples = state.samples(config.sequences, config.samples, draw)
    part, query = samples.part, state.query(samples.batch)
    relevant = state.concern(samples.batch, None).relevant
    shortlist = state.shortlist(query, config.temperature, part, "pretrain", step)
    batch = state.concern(samples.batch, shortlist)
    # Without labels, the SLMs say where to read; they pre-train on keys beside the BLM.
    own = batch.labels if state.labels else state.forward(query, shortlist).propose().ranges()
    forward = state.forward(query, shortlist)
    read_noise = ReadNoise(config.irrelevant, config.dropped, config.blind, config.cut)
    noisy = state.add_read_noise(own, read_noise, draw, part)
    requested = state.to_request(samples, shortlist)
    index, right, named = forward.read(noisy.ranges, own, requested)
    forward.sense(state.seen(samples, config.forgotten, draw))
    if state.labels:
        # If only a request can name the record, the right tags stand in for it.
        forward = forward.expect(right, ~batch.keyed)
    slots = forward.look(index)
    noise = part.of(logistic_noise(torch.Size((part.total, noisy.kept.shape[1])), draw)).to(state.device)
    routing = forward.route(config.temperature, noise)
    prediction = forward.predict(slots, routing.mask * noisy.kept)
    error = (prediction.change - state.change(batch)).pow(2).mean() * part.share
    verify = verify_loss(forward.pooled, noisy.wrong, noisy.ranges.length > 0, state.group)
    codec = state.blm.codec.reconstruction_loss(_random_words(state, step))
    known = (requested.length > 0) & ~noisy.wrong & (noisy.kept > 0)
    scores = state.blm.expected_tags(batch.characteristics, prediction.request, shortlist)
    # Requests should name the tags of the records that the next step needs, if known.
    naming = tag_loss(scores, forward.records.tags[named, 0], known, state.group.sum(known.sum()))
    loss = error + config.verify_weight * verify + config.ask_weight * naming
    loss = loss + config.subset_weight * part.share * subset_loss(state.blm, forward.senses, relevant)
    # Every learner computes the whole of what needs no samples.
    common = config.codec_weight * codec + _rule_loss(state, config, step)
    (loss + common / state.group.size).backward()
    lr = warmup_cosine(step, config.steps, config.lr, config.warmup_steps)
    norm = state.optimise(lr)
    total = state.group.sum(torch.stack([error, verify])).tolist()
    return {"loss": total[0], "verify_loss": total[1], "grad_norm": norm, "lr": lr, **recall(shortlist, relevant)}


def _rule_loss(state: TrainState, config: PretrainConfig, step: int) -> Tensor | float:
    """Loss of expected tags on fresh keys, from which the SLMs learn addresses."""
    if state.blm.tags is None:
        return 0.0
    keys = state.world.keys(config.rule_batch, generator(state.seed, "tags", step)).to(state.device)
    assert keys.tags is not None, state.world.spec.name
    return state.blm.tags.rule_loss(keys.characteristics, state.of_all(keys.tags))


def _random_words(state: TrainState, step: int) -> Tensor:
    """(64, 32) random bits for the codec's loss."""
    return torch.randint(0, 2, (64, 32), generator=generator(state.seed, "codec", step)).float().to(state.device)
