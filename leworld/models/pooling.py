"""Pooling: sum up the records of a range for a sample, weighed by its belief in them.

Shapes:
    B: batch.  N: SLMs.  K: candidates.  D: width.  E: read width.  U: distinct ranges.  M: records.  R = B * N * K.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from leworld.models.layers import zeroed
from leworld.models.record_encoder import Records
from leworld.models.routing_pairs import rows_of
from leworld.types import _Record

FIRST_DOUBT = 3.0
"""At first, belief in a record whose tag fits equals doubt in one with half of its bits wrong."""


@dataclass(frozen=True)
class Senses(_Record):
    """What the BLM knows before it reads.

    ``state`` (B, D) past, current, characteristics and request together; ``drift`` (B, Y) the part of the change that
    is linear in them; ``tags`` (B, N, G) scores of the tag bits to expect in records of each table; if records are
    transitions, the state's ``inputs`` (B, S) and ``features`` (B, F), and ``seen`` (B, .), the episode so far.
    ``shortlist`` (B, A) int64 are the SLMs that are asked, ascending, and N is A everywhere; None: all are asked.
    """

    state: Tensor
    drift: Tensor
    tags: Tensor
    inputs: Tensor | None = None
    features: Tensor | None = None
    seen: Tensor | None = None
    shortlist: Tensor | None = None


@dataclass(frozen=True)
class Pooled:
    """Pooled reads.

    ``content`` (B, N[, K], D) for the prediction; ``notes`` (B, N[, K], E) from the words; ``belief`` (B, N[, K], M)
    logit that a record is what the sample needs; ``valid`` (B, N[, K], M); ``moments`` (B, N[, K], .) of the
    transitions, if records are transitions.
    """

    content: Tensor
    notes: Tensor
    belief: Tensor
    valid: Tensor
    moments: Tensor | None = None


class Pooling(nn.Module):
    """Attention over the records of a range, each weighed by the belief that the sample needs it.

    A record that is not believed gives its weight to a null value, so that a wrong read does no harm. Attention depends
    on a record's content. Belief depends on its owner: it compares the record's tag and marks with what is expected.
    """

    def __init__(self, d_model: int, read_dim: int, num_heads: int, num_slots: int, tag_bits: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.tag_bits = tag_bits
        self.query = nn.Linear(d_model, 2 * read_dim)
        self.slot = nn.Parameter(torch.randn(num_slots, 2 * read_dim) * 0.02)
        # A product lets a slot attend to its own part of the state; a sum cannot.
        self.slot_scale = nn.Parameter(1 + torch.randn(num_slots, 2 * read_dim) * 0.5)
        # The weight of a fitting tag.
        self.vouch = zeroed(nn.Linear(d_model, 1))
        nn.init.constant_(self.vouch.bias, 2 * FIRST_DOUBT)
        self.doubt = nn.Parameter(torch.tensor(FIRST_DOUBT if tag_bits else 0.0))
        self.null_value = nn.Parameter(torch.zeros(read_dim))
        self.out = nn.Sequential(nn.LayerNorm(read_dim), nn.Linear(read_dim, d_model))

    def forward(self, senses: Senses, records: Records, index: Tensor) -> Pooled:
        """Pool the ranges that each sample reads.

        Args:
            senses: of B samples.
            records: U encoded ranges.
            index: (B, N) or (B, N, K) int64 in [0, U).
        """
        scale, slot = rows_of(self.slot_scale, senses.shortlist), rows_of(self.slot, senses.shortlist)
        query = self.query(senses.state).unsqueeze(1) * scale + slot
        tags = self.vouch(senses.state).unsqueeze(1) * torch.tanh(senses.tags)
        if index.dim() == 3:
            query, tags = (part.unsqueeze(2).expand(*index.shape, -1) for part in (query, tags))
        flat = index.flatten()
        match = torch.einsum("rg,rmg->rm", tags.reshape(len(flat), -1), records.tags[flat]) / max(self.tag_bits, 1)
        found = self._pool(query.reshape(len(flat), -1), records.features[flat], records.valid[flat], match)
        content, notes, belief = (part.unflatten(0, index.shape) for part in found)
        return Pooled(self.out(content), notes, belief, records.valid[index])

    def _pool(self, query: Tensor, features: Tensor, valid: Tensor, match: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(R, 2 E) queries, (R, M, 4 E) features, (R, M) match of tags to content, notes (R, E) and (R, M) belief."""
        heads, width = self.num_heads, query.shape[-1] // 2 // self.num_heads
        ask, expect = query.chunk(2, dim=-1)
        keys, values, marks, notes = features.unflatten(-1, (4, -1)).unbind(-2)
        belief = torch.einsum("re,rme->rm", expect, marks) / expect.shape[-1] ** 0.5
        belief = belief + match - self.doubt
        score = torch.einsum("rhe,rmhe->rhm", ask.unflatten(-1, (heads, width)), keys.unflatten(-1, (heads, width)))
        # Without a read, all weight goes to the null value below.
        score = (score / width**0.5).masked_fill(~valid.unsqueeze(1), -1e9)
        weight = torch.softmax(score, dim=-1) * (torch.sigmoid(belief) * valid).unsqueeze(1)
        pooled = torch.einsum("rhm,rmhe->rhe", weight, values.unflatten(-1, (heads, width)))
        pooled = pooled + (1 - weight.sum(-1, keepdim=True)) * self.null_value.unflatten(0, (heads, width))
        noted = torch.einsum("rhm,rmhe->rhe", weight, notes.unflatten(-1, (heads, width)))
        return pooled.flatten(1), noted.flatten(1), belief
