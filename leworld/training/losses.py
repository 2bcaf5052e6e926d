"""Losses that phases share.

Shapes: see ``leworld.types``.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from leworld.models.blm import BLM
from leworld.models.pooling import Pooled, Senses
from leworld.training.data_parallel import ALONE, LearnerGroup


def subset_loss(blm: BLM, senses: Senses, relevant: Tensor | None) -> Tensor | float:
    """Where few are asked, and the world says (B, N) who matters, that teaches whom to ask."""
    if senses.shortlist is None or relevant is None:
        return 0.0
    logit = blm.router.alone(senses.state).logit
    # The sum, as each SLM's key has a part of its own in it; over as many as can be asked.
    loss = F.binary_cross_entropy_with_logits(logit, relevant.float(), reduction="none").sum(1).mean()
    return loss / senses.shortlist.shape[1]


def verify_loss(pooled: Pooled, wrong: Tensor, known: Tensor, group: LearnerGroup = ALONE) -> Tensor:
    """Right reads are to be believed and wrong ones not: which is which, the learner knows of its own spoiling.

    It is this learner's share of the group's.

    Args:
        pooled: (B, N) reads.
        wrong: (B, N) bool.
        known: (B, N) bool, the reads for which that is known.
        group: of the learner.
    """
    target = (~wrong).float().unsqueeze(-1).expand_as(pooled.belief)
    loss = F.binary_cross_entropy_with_logits(pooled.belief, target, reduction="none")
    counted = (pooled.valid & known.unsqueeze(-1)).float()
    return (loss * counted).sum() / group.sum(counted.sum()).clamp(min=1)
