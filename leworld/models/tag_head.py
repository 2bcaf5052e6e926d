"""Tag head: predicts the tag of the records that a sample can use.

Shapes:
    B: batch.  N: tables.  A: SLMs on the shortlist.  G: bits of a tag.  C: characteristics.  Q: info query.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from leworld.models.addressing import REQUEST_GAIN, SignRule, bits_of
from leworld.models.layers import zeroed
from leworld.models.routing_pairs import rows_of

TAG_GAIN = 30.0
"""The gain lets weights of usual size turn a request into firm tags."""
HEED = 2.0
"""The key's initial weight against the request, as a logit."""
SURE = 3.0
"""The largest score of a tag's bit from the key alone."""


class TagHead(nn.Module):
    """Predicts a record's tag from a rule of the key or from the request, as ``DigitHead`` does for addresses."""

    def __init__(self, key_dim: int, query_dim: int, num_tables: int, tag_bits: int) -> None:
        super().__init__()
        self.shape = (num_tables, tag_bits)
        self.rule = SignRule(key_dim, num_tables * tag_bits)
        self.request = zeroed(nn.Linear(query_dim, num_tables * tag_bits, bias=False))
        # With a request, each table learns whether to use the key too; at first it does not.
        self.heed = nn.Parameter(torch.full((num_tables, 1), 2 * HEED / REQUEST_GAIN))

    def forward(self, key: Tensor, request: Tensor, tables: Tensor | None = None) -> Tensor:
        """The (B, C) key and the (B, Q) request to (B, N, G) scores of the bits; of (B, A) ``tables`` alone."""
        requested = request.any(-1)[:, None, None].float()
        heed = torch.sigmoid(HEED - requested * REQUEST_GAIN * rows_of(self.heed, tables))
        if tables is None:
            rule, named = self.rule(key).unflatten(1, self.shape), self.request(request).unflatten(1, self.shape)
        else:
            rule = self.rule.some(key, self.shape, tables)
            named = torch.einsum("bagq,bq->bag", self.request.weight.unflatten(0, self.shape)[tables], request)
        return heed * SURE * rule + TAG_GAIN * named

    def rule_loss(self, key: Tensor, tags: Tensor) -> Tensor:
        """The rule's loss: (B, C) keys and the (B, N) int64 tags of their records to a scalar."""
        return self.rule.loss(key, bits_of(tags, self.shape[1]).flatten(1))


def tag_loss(scores: Tensor, tags: Tensor, known: Tensor, count: Tensor | None = None) -> Tensor:
    """Cross-entropy of the (M, N, G) scores of tags that are -1 or 1, for those that are (M, N) ``known``, a scalar.

    It is a sum over the known tags, divided by ``count``, by default their number.
    """
    loss = F.softplus(-2 * scores * tags) * known.unsqueeze(-1)
    count = known.sum() if count is None else count
    return loss.sum() / (count * max(scores.shape[-1], 1)).clamp(min=1)
