"""SLM: a small model that looks at a state and proposes ranges of the memory.

Shapes:
    B: batch.  S: state.  C: characteristics.  Q: info query.  H: width.  D: address digits.  K: candidates.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from leworld.errors import ConfigError
from leworld.memory import PAGE_WORDS
from leworld.models.addressing import DigitHead, best_k, check_candidates
from leworld.models.layers import Block, check_heads, mlp, zeroed
from leworld.types import Query


@dataclass(frozen=True)
class SLMConfig:
    """Sizes of one SLM; the defaults give the seeds' 745 K parameters."""

    d_model: int = 128
    num_heads: int = 4
    num_layers: int = 3
    candidates: int = 4

    def __post_init__(self) -> None:
        if problem := check_heads("slm", self.d_model, self.num_heads):
            raise ConfigError(problem)
        check_candidates(self.candidates)


@dataclass(frozen=True)
class SLMOutput:
    """One SLM's answer, with its graph.

    ``digits`` (B, D, 256) and ``length`` (B, 256) log-probabilities; ``confidence_logit`` (B,); ``hidden`` (B, H).
    """

    digits: Tensor
    length: Tensor
    confidence_logit: Tensor
    hidden: Tensor

    def candidates(self, k: int) -> tuple[Tensor, Tensor, Tensor]:
        """The K best starts (B, K), their log-probabilities (B, K), and the most probable length (B,)."""
        start, log_prob = best_k(self.digits, k)
        return start, log_prob, self.length.argmax(-1) + 1


class SLM(nn.Module):
    """Past, current, characteristics and info query are tokens; a fifth token reads out the answer."""

    def __init__(self, config: SLMConfig, state_dim: int, char_dim: int, query_dim: int, num_digits: int) -> None:
        super().__init__()
        d = config.d_model
        self.past = nn.Linear(state_dim, d)
        self.current = nn.Linear(state_dim, d)
        self.characteristics = nn.Linear(char_dim, d)
        # Requests have no effect before one was worth making.
        self.info_query = zeroed(nn.Linear(query_dim, d))
        self.readout = nn.Parameter(torch.randn(1, 1, d) * 0.02)
        self.kind = nn.Parameter(torch.randn(1, 4, d) * 0.02)
        self.blocks = nn.ModuleList([Block(d, config.num_heads) for _ in range(config.num_layers)])
        self.norm = nn.LayerNorm(d)
        self.digits = DigitHead(d, char_dim, query_dim, num_digits)
        self.length = mlp(d, d // 2, PAGE_WORDS)
        self.confidence = mlp(d, d // 4, 1)

    def forward(self, query: Query) -> SLMOutput:
        """Score every digit and every length, and give a confidence."""
        tokens = [self.past(query.past), self.current(query.current)]
        tokens += [self.characteristics(query.characteristics), self.info_query(query.info_query)]
        inputs = torch.stack(tokens, dim=-2) + self.kind
        # The read-out starts from the sum of its inputs, so that linear parts bypass the attention.
        x = torch.cat([self.readout + inputs.sum(-2, keepdim=True), inputs], dim=-2)
        for block in self.blocks:
            x = block(x)
        hidden = self.norm(x[..., 0, :])
        length = F.log_softmax(self.length(hidden), dim=-1)
        digits = self.digits(hidden, query.characteristics, query.info_query)
        return SLMOutput(digits, length, self.confidence(hidden).squeeze(-1), hidden)
