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
    """Teach the shortlist the (B, N) SLMs that matter, if the world knows them."""
    if senses.shortlist is None or relevant is None:
        return 0.0
    logit = blm.router.alone(senses.state).logit
    # A sum, as each SLM's key has its own term; divided by how many can be asked.
    loss = F.binary_cross_entropy_with_logits(logit, relevant.float(), reduction="none").sum(1).mean()
    return loss / senses.shortlist.shape[1]


def verify_loss(pooled: Pooled, wrong: Tensor, known: Tensor, group: LearnerGroup = ALONE) -> Tensor:
    """Teach the BLM to believe right reads and doubt wrong ones; the read noise says which are wrong.

    This is the learner's share of the group's loss.

    Args:
        pooled: (B, N) reads.
        wrong: (B, N) bool.
        known: (B, N) bool, True if that is known.
        group: the learner's group.
    """
    target = (~wrong).float().unsqueeze(-1).expand_as(pooled.belief)
    loss = F.binary_cross_entropy_with_logits(pooled.belief, target, reduction="none")
    counted = (pooled.valid & known.unsqueeze(-1)).float()
    return (loss * counted).sum() / group.sum(counted.sum()).clamp(min=1)
