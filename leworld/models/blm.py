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
from leworld.models.addressing import REQUEST_GAIN, SignRule, bits_of
from leworld.models.codec import CODE_DIM, Codec
from leworld.models.layers import Block, check_heads, mlp, zeroed
from leworld.models.reads import Reads
from leworld.models.router import Router, Routing
from leworld.types import Proposals, Query, _Record

FIRST_DOUBT = 3.0
"""At first a record whose tag fits is believed as firmly as one with half of the bits wrong is doubted."""
TAG_GAIN = 30.0
"""It lets weights of usual size make firm tags of a request."""
HEED = 2.0
"""How much a key counts before anything was asked, as a logit."""
SURE = 3.0
"""The score of a bit of a tag at most, where only the key says it."""
MIX_LAYERS = 2
"""What a record says is seldom linear in its fields."""


@dataclass(frozen=True)
class BLMConfig:
    """Sizes of the BLM; the defaults give the seeds' 11.2 M parameters.

    ``read_dim`` is the width of an encoded record, ``read_heads`` the heads that pool records, ``query_dim`` the
    width of the info query; ``request_price`` the part of the error that a request must be expected to save.
    """

    d_model: int = 384
    num_heads: int = 6
    num_layers: int = 6
    read_dim: int = 96
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
class Senses(_Record):
    """What the BLM sees before it reads.

    ``state`` (B, D) past, current, characteristics and request together; ``drift`` (B, Y) the part of the change that
    is linear in them; ``tags`` (B, N, G) scores of the tag bits to expect in records of each table.
    """

    state: Tensor
    drift: Tensor
    tags: Tensor


@dataclass(frozen=True)
class Records:
    """Encoded records: ``features`` (U, M, 4 E): keys, values, marks and notes; ``tags`` (U, M, G), -1 or 1; ``valid``
    (U, M).
    """

    features: Tensor
    tags: Tensor
    valid: Tensor


@dataclass(frozen=True)
class Pooled:
    """What reads tell.

    ``content`` (B, N[, K], D) for the prediction; ``notes`` (B, N[, K], E) from the words; ``belief`` (B, N[, K], M)
    logit that a record is what the sample needs; ``valid`` (B, N[, K], M).
    """

    content: Tensor
    notes: Tensor
    belief: Tensor
    valid: Tensor


@dataclass(frozen=True)
class Slots(_Record):
    """What a selected SLM would add: ``content`` (B, N[, K], D) and ``notes`` (B, N[, K], E)."""

    content: Tensor
    notes: Tensor


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
    """Words to features of records, with the record's position in the range.

    What the bits mean is learnt as codes; where the records' schema is known, the values of their fields are seen too.
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
        if self.decode is not None and self.fields is not None:
            x = x + self.fields(bits @ self.decode[:-1] + self.decode[-1])
        x = x + self.position * torch.sin(reads.valid.nonzero()[:, 1:] * self.frequency)
        for mix in self.mix:
            x = x + mix(x)
        features = x.new_zeros(*reads.valid.shape, 4 * x.shape[-1])
        # Notes come straight from the codes: what the prediction has no use for is lost on the way to x.
        features[reads.valid] = torch.cat([self.features(x), self.notes(codes)], dim=-1)
        tags = x.new_zeros(*reads.valid.shape, self.tag.stop - self.tag.start)
        tags[reads.valid] = 2 * bits[:, self.tag] - 1
        return Records(features, tags, reads.valid)

    def _by_record(self, words: Tensor, reads: Reads) -> Tensor:
        """(W, F) of every word to (records, record_words * F): only records that exist, the rest of the padding not."""
        num_ranges, num_records = reads.valid.shape
        padded = words.new_zeros(num_ranges, num_records * self.record_words, words.shape[-1])
        padded[reads.row, reads.column] = words
        return padded.unflatten(1, (num_records, self.record_words)).flatten(2)[reads.valid]


class TagHead(nn.Module):
    """Which tag a record should have: a rule of the key, or what the request names, as addresses are found."""

    def __init__(self, key_dim: int, query_dim: int, num_tables: int, tag_bits: int) -> None:
        super().__init__()
        self.shape = (num_tables, tag_bits)
        self.rule = SignRule(key_dim, num_tables * tag_bits)
        self.request = zeroed(nn.Linear(query_dim, num_tables * tag_bits, bias=False))
        # Where something was asked, each table learns whether it still goes by the key; at first it does not.
        self.heed = nn.Parameter(torch.full((num_tables, 1), 2 * HEED / REQUEST_GAIN))

    def forward(self, key: Tensor, request: Tensor) -> Tensor:
        """The (B, C) key and the (B, Q) request to (B, N, G) scores of the bits."""
        asked = request.any(-1)[:, None, None].float()
        heed = torch.sigmoid(HEED - asked * REQUEST_GAIN * self.heed)
        named = TAG_GAIN * self.request(request)
        return heed * SURE * self.rule(key).unflatten(1, self.shape) + named.unflatten(1, self.shape)

    def rule_loss(self, key: Tensor, tags: Tensor) -> Tensor:
        """The rule's loss: (B, C) keys and the (B, N) int64 tags of their records to a scalar."""
        return self.rule.loss(key, bits_of(tags, self.shape[1]).flatten(1))


class Pooling(nn.Module):
    """Attention over the records of a range, each weighed by the belief that it is what this sample needs.

    A record that is not believed gives its weight to a null value, so that a wrong read does no harm. Attention asks
    what a record says, belief asks whose it is: the store's tag and whatever else marks a record, against what the
    sample expects.
    """

    def __init__(self, d_model: int, read_dim: int, num_heads: int, num_slots: int, tag_bits: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.tag_bits = tag_bits
        self.query = nn.Linear(d_model, 2 * read_dim)
        self.slot = nn.Parameter(torch.randn(num_slots, 2 * read_dim) * 0.02)
        # A sum of state and slot could not make a slot look at its own part of the state; a product can.
        self.slot_scale = nn.Parameter(1 + torch.randn(num_slots, 2 * read_dim) * 0.5)
        # How much a fitting tag counts.
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
        query = self.query(senses.state).unsqueeze(1) * self.slot_scale + self.slot
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
        decode: Tensor | None = None,
        tag: tuple[int, int] = (0, 0),
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
        self.records = RecordEncoder(record_words, config.read_dim, decode, tag)
        self.pooling = Pooling(d, config.read_dim, config.read_heads, num_slms, tag[1])
        self.tags = TagHead(char_dim, config.query_dim, num_slms, tag[1]) if tag[1] else None
        self.num_slms = num_slms
        self.slm_hidden = zeroed(nn.Linear(slm_dim, d))
        self.trust = zeroed(nn.Linear(2, d, bias=False))
        self.slot = nn.Parameter(torch.randn(1, num_slms, d) * 0.02)
        self.unread = nn.Parameter(torch.randn(d) * 0.02)
        self.readout = nn.Parameter(torch.randn(1, 1, d) * 0.02)
        self.blocks = nn.ModuleList([Block(d, config.num_heads) for _ in range(config.num_layers)])
        self.norm = nn.LayerNorm(d)
        self.change = nn.Sequential(nn.Linear(d, d), nn.GELU(), zeroed(nn.Linear(d, target_dim)))
        # What is linear in the inputs or in the words read need not pass the layers, which would blur it.
        self.drift = zeroed(nn.Linear(2 * state_dim + char_dim, target_dim))
        self.told = zeroed(nn.Linear(num_slms * config.read_dim, target_dim, bias=False))
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
        drift = self.drift(torch.cat([query.past, query.current, query.characteristics], dim=-1))
        state = self.norm_state((torch.stack(parts, dim=1) + self.kind).sum(1))
        if self.tags is None:
            return Senses(state, drift, state.new_zeros(len(state), self.num_slms, 0))
        return Senses(state, drift, self.tags(query.characteristics, query.info_query))

    def route(
        self, senses: Senses, proposals: Proposals, temperature: float = 1.0, noise: Tensor | None = None
    ) -> Routing:
        """Decide which SLMs to trust, before anything is read."""
        return self.router(senses.state, proposals.hidden, trust_features(proposals), temperature, noise)

    def route_alone(self, senses: Senses, temperature: float, noise: Tensor) -> Routing:
        """Decide as if no SLM had said anything: which tables matter often follows from what is sensed."""
        return self.router.alone(senses.state, temperature, noise)

    def encode(self, reads: Reads) -> Records:
        """Encode the words of every distinct range once."""
        return self.records(self.codec.encode(reads.bits), reads)

    def pool(self, senses: Senses, records: Records, index: Tensor) -> Pooled:
        """What each of (B, N[, K]) ranges tells this sample."""
        return self.pooling(senses, records, index)

    def slots(self, pooled: Pooled, hidden: Tensor, trust: Tensor) -> Slots:
        """What each slot holds if it is selected."""
        return Slots(pooled.content + self.slm_hidden(hidden) + self.trust(trust), pooled.notes)

    def predict(self, senses: Senses, slots: Slots, mask: Tensor) -> Prediction:
        """Predict, and ask, from what is sensed and the slots (B, N, ...) that the mask (B, N) lets through."""
        gate = mask.unsqueeze(-1)
        content = gate * slots.content + (1 - gate) * self.unread + self.slot
        # The read-out starts from the sum of its inputs: what is linear in them need not pass the attention.
        first = self.readout + senses.state.unsqueeze(1) + content.sum(1, keepdim=True)
        x = torch.cat([first, content], dim=1)
        for block in self.blocks:
            x = block(x)
        x = self.norm(x[:, 0])
        change = self.change(x) + senses.drift + self.told((gate * slots.notes).flatten(1))
        request = self.ask(x) + self.ask_notes((gate * self.norm_notes(slots.notes)).flatten(1))
        # What asking is worth is learnt from the state as it is: it must not bend the prediction.
        return Prediction(change, self.norm_ask(request), self.worth(x.detach()).squeeze(-1))


def trust_features(proposals: Proposals) -> Tensor:
    """(B, N, 2) confidence and log-probability of the best address, both about in [-1, 1]."""
    return torch.stack([proposals.confidence * 2 - 1, proposals.log_prob[..., 0].clamp(min=-10) / 10], dim=-1)
