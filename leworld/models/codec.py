"""Memory codec: words of bits to vectors and back.

Shapes:
    W: words.  E: code width (128).
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from leworld.memory import WORD_BITS

CODE_DIM = 128
HIDDEN_DIM = 64


class Codec(nn.Module):
    """Learns what bit patterns mean (21,024 parameters).

    Bits enter as -1 and +1, so that a word of zeros has an effect.
    """

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Linear(WORD_BITS, HIDDEN_DIM), nn.GELU(), nn.Linear(HIDDEN_DIM, CODE_DIM), nn.LayerNorm(CODE_DIM)
        )
        self.decoder = nn.Sequential(nn.Linear(CODE_DIM, HIDDEN_DIM), nn.GELU(), nn.Linear(HIDDEN_DIM, WORD_BITS))

    def encode(self, bits: Tensor) -> Tensor:
        """(W, 32) bits in {0, 1} to (W, E)."""
        return self.encoder(2.0 * bits - 1.0)

    def decode(self, code: Tensor) -> Tensor:
        """(W, E) to (W, 32) logits of the bits."""
        return self.decoder(code)

    def reconstruction_loss(self, bits: Tensor) -> Tensor:
        """Binary cross-entropy of words decoded from their codes."""
        return F.binary_cross_entropy_with_logits(self.decode(self.encode(bits)), bits)


def soft_read(codec: Codec, bits: Tensor, weights: Tensor) -> Tensor:
    """Content-based read by weights over the words of a memory: differentiable in the weights.

    Args:
        bits: (W, 32) in {0, 1}.
        weights: (B, W), rows sum to 1.

    Returns:
        (B, E) weighted code.
    """
    return weights @ codec.encode(bits)
