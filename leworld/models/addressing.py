"""Product-digit addressing: the exact best K of 256**D addresses from D * 256 scores.

Source: Lample et al. 2019, https://arxiv.org/abs/1907.05242

Shapes:
    B: batch.  D: address digits, most significant first.  K: candidates kept.  H: hidden width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from leworld.errors import ConfigError
from leworld.models.layers import zeroed

DIGIT_BITS = 8
BASE = 1 << DIGIT_BITS
RULE_GAIN = 10_000.0
REQUEST_GAIN = 10.0
"""The gain lets weights of usual size give the large scores that a sign near zero needs."""
FIRM = 8.0
"""The rule's largest score of a bit; the layers can still outvote a wrong rule."""


def digits_of(address: Tensor, num_digits: int) -> Tensor:
    """(...,) int64 addresses to (..., D) digits, most significant first."""
    shifts = torch.arange(num_digits - 1, -1, -1, device=address.device) * DIGIT_BITS
    return (address.unsqueeze(-1) >> shifts) & (BASE - 1)


def best_k(log_prob: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The exact K most probable addresses, for any size of the address space.

    Args:
        log_prob: (B, D, 256) log-probability of every digit.
        k: 1 <= k <= 256.

    Returns:
        (B, K) int64 addresses, best first, and their (B, K) log-probabilities.

    Raises:
        ConfigError: ``k`` is out of range.
    """
    check_candidates(k)
    score, address = log_prob[:, 0].topk(k)
    for d in range(1, log_prob.shape[1]):
        # The K best sums are always among the K x K sums of the K best heads and the K best digits.
        digit_score, digit = log_prob[:, d].topk(k)
        sums = (score.unsqueeze(2) + digit_score.unsqueeze(1)).flatten(1)
        joined = (address.unsqueeze(2) * BASE + digit.unsqueeze(1)).flatten(1)
        score, kept = sums.topk(k)
        address = joined.gather(1, kept)
    return address, score


def check_candidates(k: int) -> None:
    """Raise ConfigError unless ``1 <= k <= 256``."""
    if not 1 <= k <= BASE:
        raise ConfigError(f"candidates {k} is outside [1, {BASE}]: set slm.candidates to a number in that range")


def bits_of(number: Tensor, num_bits: int) -> Tensor:
    """(...,) int64 to (..., num_bits) float bits, least significant first."""
    return ((number.unsqueeze(-1) >> torch.arange(num_bits, device=number.device)) & 1).float()


class SignRule(nn.Module):
    """A linear rule from a key to bits, such as a sign projection.

    It learns alone, from keys with known bits, to a precision that layers with norms do not keep.
    """

    def __init__(self, key_dim: int, num_bits: int) -> None:
        super().__init__()
        self.linear = zeroed(nn.Linear(key_dim, num_bits))

    def forward(self, key: Tensor) -> Tensor:
        """(B, C) keys to (B, bits) scores in [-1, 1]; only ``loss`` trains them."""
        return torch.tanh(RULE_GAIN / FIRM * self.linear(key).detach())

    def some(self, key: Tensor, shape: tuple[int, int], chosen: Tensor) -> Tensor:
        """(B, A, G) scores of (B, A) chosen groups of bits, if the bits are ``shape`` groups of G."""
        with torch.no_grad():
            weight, bias = (part.unflatten(0, shape)[chosen] for part in (self.linear.weight, self.linear.bias))
            return torch.tanh(RULE_GAIN / FIRM * (torch.einsum("bagc,bc->bag", weight, key) + bias))

    def loss(self, key: Tensor, bits: Tensor) -> Tensor:
        """Binary cross-entropy of (B, C) keys and their (B, bits), divided by the gain."""
        logit = 2 * RULE_GAIN * self.linear(key)
        return F.binary_cross_entropy_with_logits(logit, bits, reduction="none").sum(-1).mean() / RULE_GAIN


class DigitHead(nn.Module):
    """Scores the digits of an address: a free score for each value plus a sum of bit scores.

    The 256 values of a digit share the bit scores, so the head can also name digits that training never showed. Bit
    scores also see key and request directly: a sign-projection address is a linear rule of the key (``SignRule``).
    ``heed`` weighs the rule against the layers, as a request may name another address.
    """

    code: Tensor

    def __init__(self, d_model: int, key_dim: int, query_dim: int, num_digits: int) -> None:
        super().__init__()
        self.num_digits = num_digits
        self.value = nn.Linear(d_model, num_digits * BASE)
        self.bit = nn.Linear(d_model, num_digits * DIGIT_BITS)
        self.rule = SignRule(key_dim, num_digits * DIGIT_BITS)
        self.request = zeroed(nn.Linear(query_dim, num_digits * DIGIT_BITS, bias=False))
        self.heed = zeroed(nn.Linear(d_model, 1))
        # The rule learns first: layers that add to a firm sign can only turn it.
        nn.init.constant_(self.heed.bias, 3.0)
        nn.init.zeros_(self.value.weight)
        nn.init.zeros_(self.value.bias)
        values = torch.arange(BASE).unsqueeze(0)
        shifts = torch.arange(DIGIT_BITS).unsqueeze(1)
        self.register_buffer("code", ((values >> shifts) & 1).float() * 2 - 1, persistent=False)

    def forward(self, hidden: Tensor, key: Tensor, request: Tensor) -> Tensor:
        """(..., H), the (..., C) key and the (..., Q) request to (..., D, 256) log-probabilities."""
        heed = torch.sigmoid(self.heed(hidden))
        value = self.value((1 - heed) * hidden)
        bit = (1 - heed) * self.bit(hidden) + heed * FIRM * self.rule(key) + REQUEST_GAIN * self.request(request)
        scores = torch.addmm(value.view(-1, BASE), bit.view(-1, DIGIT_BITS), self.code)
        return F.log_softmax(scores, dim=-1).view(*hidden.shape[:-1], self.num_digits, BASE)

    def rule_loss(self, key: Tensor, address: Tensor) -> Tensor:
        """The rule's loss alone: (B, C) keys and their (B,) addresses to a scalar."""
        # Digits come most significant first, the bits of a digit least significant first.
        bits = bits_of(address, self.num_digits * DIGIT_BITS).unflatten(-1, (self.num_digits, DIGIT_BITS))
        return self.rule.loss(key, bits.flip(-2).flatten(-2))


def address_loss(log_prob: Tensor, address: Tensor) -> Tensor:
    """(B, D, 256) log-probabilities and (B,) addresses to the (B,) cross-entropy in nats."""
    digits = digits_of(address, log_prob.shape[1])
    return -log_prob.gather(2, digits.unsqueeze(-1)).squeeze(-1).sum(-1)
