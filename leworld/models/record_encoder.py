"""Encode the words of ranges as features, tags and, if they hold transitions, points of a regression.

Shapes:
    E: read width.  U: distinct ranges.  M: records.  W: words.  G: bits of a tag.  F: features of the regression.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from leworld.models.batched_reads import Reads
from leworld.models.codec import CODE_DIM
from leworld.models.layers import mlp

MIX_LAYERS = 2
"""A record's meaning is seldom linear in its fields."""


@dataclass(frozen=True)
class Records:
    """Encoded records: ``features`` (U, M, 4 E): keys, values, marks and notes; ``tags`` (U, M, G), -1 or 1; ``valid``
    (U, M); if records are transitions, their decoded ``values`` (U, M, S + Y) and ``points`` (U, M, F + Y) for the
    regression.
    """

    features: Tensor
    tags: Tensor
    valid: Tensor
    values: Tensor | None = None
    points: Tensor | None = None


class RecordEncoder(nn.Module):
    """Words to features of records, with the record's position in the range.

    Codes learn what the bits mean; if the records' schema is known, the fields' values are inputs too.
    """

    frequency: Tensor
    decode: Tensor | None

    def __init__(self, record_words: int, read_dim: int, decode: Tensor | None, tag: tuple[int, int]) -> None:
        super().__init__()
        self.record_words = record_words
        self.tag = slice(tag[0], sum(tag))
        self.join = nn.Linear(record_words * CODE_DIM, read_dim)
        self.register_buffer("decode", decode, persistent=False)
        self.fields = None if decode is None else nn.Linear(decode.shape[1], read_dim)
        self.mix = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(read_dim), mlp(read_dim, 4 * read_dim, read_dim)) for _ in range(MIX_LAYERS)
        )
        self.features = nn.Linear(read_dim, 3 * read_dim)
        self.notes = nn.Linear(record_words * CODE_DIM, read_dim)
        self.position = nn.Parameter(torch.zeros(read_dim))
        self.register_buffer("frequency", 10_000 ** -torch.linspace(0, 1, read_dim), persistent=False)

    def forward(self, codes: Tensor, reads: Reads) -> Records:
        """(W, 128) codes of the words of ``reads`` to records; missing words of a last record count as zeros."""
        codes, bits = self._by_record(codes, reads), self._by_record(reads.bits, reads)
        x = self.join(codes)
        values = None
        if self.decode is not None and self.fields is not None:
            decoded = bits @ self.decode[:-1] + self.decode[-1]
            x = x + self.fields(decoded)
            values = x.new_zeros(*reads.valid.shape, decoded.shape[-1])
            values[reads.valid] = decoded
        x = x + self.position * torch.sin(reads.valid.nonzero()[:, 1:] * self.frequency)
        for mix in self.mix:
            x = x + mix(x)
        features = x.new_zeros(*reads.valid.shape, 4 * x.shape[-1])
        # Notes come straight from the codes: x keeps only what the prediction uses.
        features[reads.valid] = torch.cat([self.features(x), self.notes(codes)], dim=-1)
        tags = x.new_zeros(*reads.valid.shape, self.tag.stop - self.tag.start)
        tags[reads.valid] = 2 * bits[:, self.tag] - 1
        return Records(features, tags, reads.valid, values)

    def _by_record(self, words: Tensor, reads: Reads) -> Tensor:
        """(W, F) of every word to (records, record_words * F), only for records that exist."""
        num_ranges, num_records = reads.valid.shape
        padded = words.new_zeros(num_ranges, num_records * self.record_words, words.shape[-1])
        padded[reads.row, reads.column] = words
        return padded.unflatten(1, (num_records, self.record_words)).flatten(2)[reads.valid]
