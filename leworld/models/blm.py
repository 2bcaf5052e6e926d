"""BLM: the big model that trusts, reads, predicts, and asks.

Shapes:
    B: batch.  N: SLMs.  D: width.  E: read width.  U: distinct ranges.  M: records.  S, Y, C, Q, H: see leworld.types.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import isnan

import torch
from torch import Tensor, nn

from leworld.errors import ConfigError
from leworld.models.codec import CODE_DIM, Codec
from leworld.models.layers import Block, check_heads, mlp, zeroed
from leworld.models.reads import Reads
from leworld.models.router import Router, Routing
from leworld.types import Proposals, Query


@dataclass(frozen=True)
class BLMConfig:
    """Sizes of the BLM; the defaults give the seeds' 11.2 M parameters.

    ``read_dim`` is the width of an encoded record, ``read_heads`` the heads that pool records, ``query_dim`` the
    width of the info query; ``request_price`` the part of the error that a request must be expected to save.
    """

    d_model: int = 384
    num_heads: int = 6
    num_layers: int = 6
    read_dim: int = 128
    read_heads: int = 8
    query_dim: int = 128
    request_price: float = 0.1

    def __post_init__(self) -> None:
        for name, width, heads in (
            ("blm", self.d_model, self.num_heads),
            ("blm.read", self.read_dim, self.read_heads),
        ):
            if problem := check_heads(name, width, heads):
                raise ConfigError(problem)
        if isnan(self.request_price):
            raise ConfigError("blm.request_price nan is no number: give the part of the error to be saved, such as 0.1")


@dataclass(frozen=True)
class Senses:
    """What the BLM sees before it reads: past, current, characteristics and request together, ``state`` (B, D)."""

    state: Tensor


@dataclass(frozen=True)
class Records:
    """Encoded records: ``features`` (U, M, 4 E): keys, values, marks and notes; ``valid`` (U, M)."""

    features: Tensor
    valid: Tensor


@dataclass(frozen=True)
class Pooled:
    """What reads tell.

    ``content`` (B, N[, K], D) for the prediction; ``notes`` (B, N[, K], E) for the request; ``belief`` (B, N[, K], M)
    logit that a record is what the sample needs; ``valid`` (B, N[, K], M).
    """

    content: Tensor
    notes: Tensor
    belief: Tensor
    valid: Tensor


@dataclass(frozen=True)
class Prediction:
    """What the BLM says.

    ``change`` (B, Y) in units of the world's scale; ``request`` (B, Q) what the next step should look for;
    ``worth`` (B,) the part of the error that asking for it is expected to save.
    """

    change: Tensor
    request: Tensor
    worth: Tensor

    def info_query(self, price: float) -> Tensor:
        """(B, Q) the request where it is worth its price, zeros where nothing is asked."""
        return self.request * (self.worth > price).unsqueeze(1)


class RecordEncoder(nn.Module):
    """Codes of words to features of records, with the record's position in the range."""

    frequency: Tensor

    def __init__(self, record_words: int, read_dim: int) -> None:
        super().__init__()
        self.record_words = record_words
        self.join = nn.Linear(record_words * CODE_DIM, read_dim)
        self.mix = nn.Sequential(nn.LayerNorm(read_dim), mlp(read_dim, 2 * read_dim, read_dim))
        self.features = nn.Linear(read_dim, 3 * read_dim)
        self.notes = nn.Linear(record_words * CODE_DIM, read_dim)
        self.position = nn.Parameter(torch.zeros(read_dim))
        self.register_buffer("frequency", 10_000 ** -torch.linspace(0, 1, read_dim), persistent=False)

    def forward(self, codes: Tensor, reads: Reads) -> Records:
        """(W, 128) codes of the words of ``reads`` to records; missing words of a last record count as zero codes."""
        num_ranges, num_records = reads.valid.shape
        padded = codes.new_zeros(num_ranges, num_records * self.record_words, CODE_DIM)
        padded[reads.row, reads.column] = codes
        joined = padded.unflatten(1, (num_records, self.record_words)).flatten(2)
        # Only records that exist are encoded; the rest of the padding is never looked at.
        codes = joined[reads.valid]
        x = self.join(codes)
        x = x + self.position * torch.sin(reads.valid.nonzero()[:, 1:] * self.frequency)
        x = x + self.mix(x)
        features = x.new_zeros(num_ranges, num_records, 4 * x.shape[-1])
        # Notes come straight from the codes: what the prediction has no use for is lost on the way to x.
        features[reads.valid] = torch.cat([self.features(x), self.notes(codes)], dim=-1)
        return Records(features, reads.valid)


class Pooling(nn.Module):
    """Attention over the records of a range, each weighed by the belief that it is what this sample needs.

    A record that is not believed gives its weight to a null value, so that a wrong read does no harm. Attention asks
    what a record says, belief asks whose it is: a mark in the record, such as a tag, against what the sample expects.
    """

    def __init__(self, d_model: int, read_dim: int, num_heads: int, num_slots: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.query = nn.Linear(d_model, 2 * read_dim)
        self.slot = nn.Parameter(torch.randn(num_slots, 2 * read_dim) * 0.02)
        # A sum of state and slot could not make a slot look at its own part of the state; a product can.
        self.slot_scale = nn.Parameter(1 + torch.randn(num_slots, 2 * read_dim) * 0.5)
        self.doubt = nn.Parameter(torch.zeros(()))
        self.null_value = nn.Parameter(torch.zeros(read_dim))
        self.out = nn.Sequential(nn.LayerNorm(read_dim), nn.Linear(read_dim, d_model))

    def forward(self, state: Tensor, records: Records, index: Tensor) -> Pooled:
        """Pool the ranges that each sample reads.

        Args:
            state: (B, D).
            records: U encoded ranges.
            index: (B, N) or (B, N, K) int64 in [0, U).
        """
        query = self.query(state).unsqueeze(1) * self.slot_scale + self.slot
        if index.dim() == 3:
            query = query.unsqueeze(2).expand(*index.shape, -1)
        flat = index.flatten()
        found = self._pool(query.reshape(len(flat), -1), records.features[flat], records.valid[flat])
        content, notes, belief = (part.unflatten(0, index.shape) for part in found)
        return Pooled(self.out(content), notes, belief, records.valid[index])

    def _pool(self, query: Tensor, features: Tensor, valid: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(R, 2 E) queries and (R, M, 4 E) features to (R, E) content, (R, E) notes and (R, M) belief."""
        heads, width = self.num_heads, query.shape[-1] // 2 // self.num_heads
        ask, expect = query.chunk(2, dim=-1)
        keys, values, marks, notes = features.unflatten(-1, (4, -1)).unbind(-2)
        belief = torch.einsum("re,rme->rm", expect, marks) / expect.shape[-1] ** 0.5 - self.doubt
        score = torch.einsum("rhe,rmhe->rhm", ask.unflatten(-1, (heads, width)), keys.unflatten(-1, (heads, width)))
        # Where nothing was read, all weight is lost to the null value below.
        score = (score / width**0.5).masked_fill(~valid.unsqueeze(1), -1e9)
        weight = torch.softmax(score, dim=-1) * (torch.sigmoid(belief) * valid).unsqueeze(1)
        pooled = torch.einsum("rhm,rmhe->rhe", weight, values.unflatten(-1, (heads, width)))
        pooled = pooled + (1 - weight.sum(-1, keepdim=True)) * self.null_value.unflatten(0, (heads, width))
        noted = torch.einsum("rhm,rmhe->rhe", weight, notes.unflatten(-1, (heads, width)))
        return pooled.flatten(1), noted.flatten(1), belief


class BLM(nn.Module):
    """Sees past, current, characteristics, the last request, and a slot for each SLM; predicts and asks."""

    def __init__(
        self,
        config: BLMConfig,
        *,
        state_dim: int,
        target_dim: int,
        char_dim: int,
        slm_dim: int,
        num_slms: int,
        record_words: int,
    ) -> None:
        super().__init__()
        d = config.d_model
        self.config = config
        self.codec = Codec()
        self.past = nn.Linear(state_dim, d)
        self.current = nn.Linear(state_dim, d)
        self.characteristics = nn.Linear(char_dim, d)
        # A request has no effect until one was worth making, nor has what an SLM says of itself until joint training.
        self.info_query = zeroed(nn.Linear(config.query_dim, d))
        self.kind = nn.Parameter(torch.randn(1, 4, d) * 0.02)
        self.norm_state = nn.LayerNorm(d)
        self.router = Router(d, slm_dim, num_slms)
        self.records = RecordEncoder(record_words, config.read_dim)
        self.pooling = Pooling(d, config.read_dim, config.read_heads, num_slms)
        self.slm_hidden = zeroed(nn.Linear(slm_dim, d))
        self.trust = zeroed(nn.Linear(2, d, bias=False))
        self.slot = nn.Parameter(torch.randn(1, num_slms, d) * 0.02)
        self.unread = nn.Parameter(torch.randn(d) * 0.02)
        self.readout = nn.Parameter(torch.randn(1, 1, d) * 0.02)
        self.blocks = nn.ModuleList([Block(d, config.num_heads) for _ in range(config.num_layers)])
        self.norm = nn.LayerNorm(d)
        self.change = nn.Sequential(nn.Linear(d, d), nn.GELU(), zeroed(nn.Linear(d, target_dim)))
        # Prediction needs little of what a read says of the future: the request has its own way to it.
        self.ask = mlp(d, config.query_dim, config.query_dim)
        self.norm_notes = nn.LayerNorm(config.read_dim)
        self.ask_notes = nn.Linear(num_slms * config.read_dim, config.query_dim)
        self.norm_ask = nn.LayerNorm(config.query_dim)
        self.worth = zeroed(nn.Linear(d, 1))

    def sense(self, query: Query) -> Senses:
        """Encode everything that is known before reading."""
        parts = [self.past(query.past), self.current(query.current)]
        parts += [self.characteristics(query.characteristics), self.info_query(query.info_query)]
        return Senses(self.norm_state((torch.stack(parts, dim=1) + self.kind).sum(1)))

    def route(
        self, senses: Senses, proposals: Proposals, temperature: float = 1.0, noise: Tensor | None = None
    ) -> Routing:
        """Decide which SLMs to trust, before anything is read."""
        return self.router(senses.state, proposals.hidden, trust_features(proposals), temperature, noise)

    def encode(self, reads: Reads) -> Records:
        """Encode the words of every distinct range once."""
        return self.records(self.codec.encode(reads.bits), reads)

    def pool(self, senses: Senses, records: Records, index: Tensor) -> Pooled:
        """What each of (B, N[, K]) ranges tells this sample."""
        return self.pooling(senses.state, records, index)

    def slots(self, pooled: Pooled, hidden: Tensor, trust: Tensor) -> Tensor:
        """(B, N[, K], D) what each slot holds if it is selected."""
        return pooled.content + self.slm_hidden(hidden) + self.trust(trust)

    def predict(self, senses: Senses, slots: Tensor, mask: Tensor, notes: Tensor | None = None) -> Prediction:
        """Predict, and ask, from what is sensed and the slots and notes (B, N, E) that the mask (B, N) lets through."""
        gate = mask.unsqueeze(-1)
        content = gate * slots + (1 - gate) * self.unread + self.slot
        # The read-out starts from the sum of its inputs: what is linear in them need not pass the attention.
        first = self.readout + senses.state.unsqueeze(1) + content.sum(1, keepdim=True)
        x = torch.cat([first, content], dim=1)
        for block in self.blocks:
            x = block(x)
        x = self.norm(x[:, 0])
        request = self.ask(x)
        if notes is not None:
            request = request + self.ask_notes((gate * self.norm_notes(notes)).flatten(1))
        # What asking is worth is learnt from the state as it is: it must not bend the prediction.
        return Prediction(self.change(x), self.norm_ask(request), self.worth(x.detach()).squeeze(-1))


def trust_features(proposals: Proposals) -> Tensor:
    """(B, N, 2) confidence and log-probability of the best address, both about in [-1, 1]."""
    return torch.stack([proposals.confidence * 2 - 1, proposals.log_prob[..., 0].clamp(min=-10) / 10], dim=-1)
