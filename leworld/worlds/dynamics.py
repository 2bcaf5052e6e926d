"""The linear dynamics that the synthetic worlds share: decay, a drive of bits read from memory, and noise.

``next = decay * state + drive + 0.05 * characteristics + noise * eps``, as the seed generator has it.

Shapes:
    B: batch.  T: time steps.  S: state.  C: characteristics.
"""

from __future__ import annotations

import torch
from torch import Tensor

CHARACTERISTICS_WEIGHT = 0.05
FIRST_STATE_STD = 0.5


def tile(values: Tensor, dim: int) -> Tensor:
    """(..., C) repeated along the last axis and cut to (..., dim)."""
    repeats = -(-dim // values.shape[-1])
    return torch.cat([values] * repeats, dim=-1)[..., :dim]


def roll_out(
    first: Tensor, drive: Tensor, characteristics: Tensor, decay: float, noise: float, generator: torch.Generator
) -> Tensor:
    """Run the dynamics.

    Args:
        first: (B, S) the first state.
        drive: (B, T, S) what memory adds at every step.
        characteristics: (B, T, C).

    Returns:
        (B, T + 1, S) states, the first included.
    """
    push = drive + CHARACTERISTICS_WEIGHT * tile(characteristics, drive.shape[-1])
    push = push + noise * torch.randn(push.shape, generator=generator)
    states = [first]
    for t in range(push.shape[1]):
        states.append(decay * states[-1] + push[:, t])
    return torch.stack(states, dim=1)


def before(current: Tensor) -> Tensor:
    """(B, T, S) the state before each of ``current``; at t = 0 ``current`` itself, as there is none."""
    return torch.cat([current[:, :1], current[:, :-1]], dim=1)
