"""The transformer block of SLMs and the BLM.

Source: Vaswani et al. 2017, https://arxiv.org/abs/1706.03762; pre-norm as in https://arxiv.org/abs/2002.04745

Shapes:
    B: batch.  L: tokens.  D: model width.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class Block(nn.Module):
    """Pre-norm self-attention and feed-forward, both residual."""

    def __init__(self, d_model: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norm_attention = nn.LayerNorm(d_model)
        self.qkv = nn.Linear(d_model, 3 * d_model)
        self.out = nn.Linear(d_model, d_model)
        self.norm_mlp = nn.LayerNorm(d_model)
        self.mlp = mlp(d_model, 4 * d_model, d_model)

    def forward(self, x: Tensor) -> Tensor:
        """(..., L, D) to (..., L, D)."""
        x = x + self._attend(self.norm_attention(x))
        return x + self.mlp(self.norm_mlp(x))

    def _attend(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.num_heads, -1)).movedim(-3, 0).transpose(-3, -2)
        return self.out(F.scaled_dot_product_attention(q, k, v).transpose(-3, -2).flatten(-2))


def mlp(d_in: int, d_hidden: int, d_out: int) -> nn.Sequential:
    """One hidden layer with GELU."""
    return nn.Sequential(nn.Linear(d_in, d_hidden), nn.GELU(), nn.Linear(d_hidden, d_out))


def zeroed(linear: nn.Linear) -> nn.Linear:
    """Set the layer's weights to zero, so that it adds nothing at first."""
    nn.init.zeros_(linear.weight)
    if linear.bias is not None:
        nn.init.zeros_(linear.bias)
    return linear


def check_heads(owner: str, d_model: int, num_heads: int) -> str | None:
    """What is wrong with a width and its number of heads, or None."""
    if num_heads < 1 or d_model % num_heads:
        return f"{owner}: d_model {d_model} is not a multiple of num_heads {num_heads}; choose one that is"
    return None
