"""Router: which SLMs to trust, as a hard mask such as ``[1, 0, 1]``.

Source: straight-through estimator, https://arxiv.org/abs/1308.3432; binary concrete noise, https://arxiv.org/abs/1611.00712;
balance term in the manner of Switch Transformers, https://arxiv.org/abs/2101.03961

Shapes:
    B: batch.  N: SLMs.  A: SLMs on the shortlist, or all.  D: BLM width.  H: SLM hidden width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from leworld.models.routing_pairs import rows_of


@dataclass(frozen=True)
class Routing:
    """``logit``, ``prob`` and ``mask``, all (B, A); the mask is 0 or 1, at least one 1 a row, and passes gradient."""

    logit: Tensor
    prob: Tensor
    mask: Tensor

    def balance_loss(self, use: Tensor | None = None) -> Tensor:
        """Variance of the (N,) use of the SLMs, by default their mean over the batch; 0 if all are used alike."""
        return (self.prob.mean(0) if use is None else use).var(unbiased=False)

    def entropy(self) -> Tensor:
        """Mean entropy of the decisions at temperature 1, in nats; 0 if every decision is firm."""
        return (F.softplus(self.logit) - torch.sigmoid(self.logit) * self.logit).mean()


def mask_ste(logit: Tensor, temperature: float, noise: Tensor | None) -> tuple[Tensor, Tensor]:
    """Hard decisions that pass the gradient of their sigmoid.

    Args:
        logit: (B, N).
        temperature: > 0; scales the noise and sharpens the gradient as it falls.
        noise: (B, N) logistic noise for exploration, or None for the plain decision.

    Returns:
        (B, N) mask and (B, N) probability. A row that selects nothing selects its highest logit, gradient kept.
    """
    prob = torch.sigmoid(logit / temperature)
    score = logit if noise is None else logit + temperature * noise
    hard = (score > 0).float()
    best = F.one_hot(score.argmax(-1), logit.shape[-1]).float()
    hard = torch.where(hard.any(-1, keepdim=True), hard, best)
    # The bracket is exactly 0, so that the mask is exactly 0 or 1.
    return hard + (prob - prob.detach()), prob


def logistic_noise(shape: torch.Size, generator: torch.Generator) -> Tensor:
    """Standard logistic noise, drawn on the CPU."""
    uniform = torch.rand(shape, generator=generator).clamp(1e-6, 1 - 1e-6)
    return torch.logit(uniform)


class Router(nn.Module):
    """Compares a key for each of any number of SLMs with the BLM's state and the SLM's confidence."""

    def __init__(self, d_model: int, slm_dim: int, num_slms: int) -> None:
        super().__init__()
        d = d_model // 2
        self.state = nn.Linear(d_model, d)
        self.hidden = nn.Linear(slm_dim, d, bias=False)
        self.trust = nn.Linear(2, d, bias=False)
        self.key = nn.Parameter(torch.randn(num_slms, d) * 0.02)
        # Each SLM's key also selects the parts of the state that concern it.
        self.key_scale = nn.Parameter(1 + torch.randn(num_slms, d) * 0.5)
        self.norm = nn.LayerNorm(d)
        self.score = nn.Linear(d, 1)
        nn.init.constant_(self.score.bias, 1.0)

    def forward(
        self,
        state: Tensor,
        hidden: Tensor,
        trust: Tensor,
        temperature: float = 1.0,
        noise: Tensor | None = None,
        shortlist: Tensor | None = None,
    ) -> Routing:
        """Decide which SLMs to trust.

        Args:
            state: (B, D) of the BLM.
            hidden: (B, A, H) of each SLM.
            trust: (B, A, 2) each SLM's confidence and the log-probability of its best address.
            temperature: see ``mask_ste``.
            noise: see ``mask_ste``.
            shortlist: (B, A) int64, which SLMs these are; None: all.
        """
        return self._decide(self._see(state, shortlist) + self.hidden(hidden) + self.trust(trust), temperature, noise)

    def alone(
        self, state: Tensor, temperature: float = 1.0, noise: Tensor | None = None, shortlist: Tensor | None = None
    ) -> Routing:
        """Decide from the state (B, D) alone, without the SLMs' output."""
        return self._decide(self._see(state, shortlist), temperature, noise)

    def _see(self, state: Tensor, shortlist: Tensor | None) -> Tensor:
        """(B, A, D / 2) the part of the state that concerns each SLM."""
        return self.state(state).unsqueeze(1) * rows_of(self.key_scale, shortlist) + rows_of(self.key, shortlist)

    def _decide(self, x: Tensor, temperature: float, noise: Tensor | None) -> Routing:
        logit = self.score(F.gelu(self.norm(x))).squeeze(-1)
        mask, prob = mask_ste(logit, temperature, noise)
        return Routing(logit, prob, mask)
