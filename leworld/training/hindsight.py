"""Hindsight: after a transition is known, find the candidate and the mask that explain it best.

Source: reader-to-retriever distillation, Atlas https://arxiv.org/abs/2208.03299, REPLUG https://arxiv.org/abs/2301.12652

Shapes:
    B: batch.  N: SLMs.  K: candidates.  D: BLM width.  V: variants scored.
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from leworld.models.blm import BLM, Slots
from leworld.models.pooling import Senses

EXHAUSTIVE_SLMS = 4
"""Up to this many SLMs every mask is scored; beyond it, only all, all but one, and one alone."""


def masks_to_score(num_slms: int) -> Tensor:
    """(V, N) the masks that hindsight compares; none of them is empty."""
    if num_slms <= EXHAUSTIVE_SLMS:
        return torch.tensor([m for m in itertools.product((0.0, 1.0), repeat=num_slms) if any(m)])
    alone = torch.eye(num_slms)
    return torch.cat([torch.ones(1, num_slms), 1 - alone, alone])


@torch.no_grad()
def variant_errors(blm: BLM, senses: Senses, slots: Slots, masks: Tensor, change: Tensor) -> Tensor:
    """The error of each variant of slots and mask, on the same samples.

    Args:
        blm: the model that judges.
        senses: B samples.
        slots: (V, B, N, ...).
        masks: (V, N).
        change: (B, Y) the true change, in the BLM's units.

    Returns:
        (V, B).
    """
    num_variants, batch = slots.content.shape[:2]
    repeated = senses.map(lambda tensor: tensor.repeat(num_variants, *[1] * (tensor.dim() - 1)))
    mask = masks.repeat_interleave(batch, dim=0)
    prediction = blm.predict(repeated, slots.map(lambda tensor: tensor.flatten(0, 1)), mask)
    return (prediction.change.unflatten(0, (num_variants, batch)) - change).pow(2).mean(-1)


def best_masks(blm: BLM, senses: Senses, slots: Slots, change: Tensor, read_price: float) -> Tensor:
    """(B, N) the mask with the least sum of error and read prices, for each sample.

    Args:
        blm: the model that judges.
        senses: B samples.
        slots: (B, N, ...).
        change: (B, Y).
        read_price: the error that one read must save.
    """
    masks = masks_to_score(slots.content.shape[1]).to(change.device)
    errors = variant_errors(blm, senses, repeat(slots, len(masks)), masks, change)
    return masks[(errors + read_price * masks.sum(1, keepdim=True)).argmin(0)]


def candidate_credit(
    blm: BLM, senses: Senses, slots: Slots, alternatives: Slots, change: Tensor, temperature: float
) -> tuple[Tensor, Tensor]:
    """Which of an SLM's candidates explain the change, with the other SLMs' best reads unchanged.

    Args:
        blm: the model that judges.
        senses: B samples.
        slots: (B, N, ...) with every SLM's best candidate.
        alternatives: (B, N, K, ...) slots of all candidates; the first of each SLM is in ``slots``.
        change: (B, Y).
        temperature: of the target distribution, relative to the spread of a sample's candidates.

    Returns:
        (B, N, K) target distribution and (B, N) weight in [0, 1]: the part of the worst error that choosing well saves.
    """
    num_slms, num_candidates = alternatives.content.shape[1:3]
    variants = repeat(slots, num_slms * num_candidates).map(Tensor.clone)
    for n, k in itertools.product(range(num_slms), range(num_candidates)):
        variants.map(lambda into, of, n=n, k=k: into[n * num_candidates + k, :, n].copy_(of[:, n, k]), alternatives)
    masks = change.new_ones(num_slms * num_candidates, num_slms)
    errors = variant_errors(blm, senses, variants, masks, change)
    errors = errors.unflatten(0, (num_slms, num_candidates)).permute(2, 0, 1)
    worst, best = errors.amax(-1, keepdim=True), errors.amin(-1, keepdim=True)
    spread = (worst - best).clamp(min=1e-8)
    target = torch.softmax((best - errors) / (temperature * spread), dim=-1)
    return target, ((worst - best) / worst.clamp(min=1e-8)).squeeze(-1)


def repeat(slots: Slots, count: int) -> Slots:
    """(B, N, ...) to (count, B, N, ...), without a copy."""
    return slots.map(lambda tensor: tensor.expand(count, *tensor.shape))
