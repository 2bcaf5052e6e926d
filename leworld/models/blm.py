"""BLM: the big model that chooses SLMs, reads, predicts, and makes requests.

Shapes:
    B: batch.  N: SLMs; with a shortlist, the A on it.  D: width.  E: read width.  U: distinct ranges.  M: records.
    S, Y, C, Q, H: see leworld.types.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import isnan

import torch
from torch import Tensor, nn

from leworld.errors import ConfigError
from leworld.models.batched_reads import Reads
from leworld.models.codec import Codec
from leworld.models.layers import Block, check_heads, mlp, zeroed
from leworld.models.pooling import Pooled, Pooling, Senses
from leworld.models.record_encoder import RecordEncoder, Records
from leworld.models.regression import Regression
from leworld.models.router import Router, Routing
from leworld.models.routing_pairs import apply_own, rows_of
from leworld.models.tag_head import TagHead
from leworld.types import Proposals, Query, _Record
from leworld.worlds.base import WorldSpec


@dataclass(frozen=True)
class BLMConfig:
    """Sizes of the BLM; the defaults give the seeds' 11.2 M parameters.

    ``read_dim`` is the width of an encoded record, ``read_heads`` the heads that pool records, ``query_dim`` the
    width of the info query; ``request_price`` the part of the error that a request must promise to save;
    ``fit_features`` and ``fit_dim`` the features of the regression on transitions and the width of their layers.
    """

    d_model: int = 384
    num_heads: int = 6
    num_layers: int = 6
    read_dim: int = 96
    read_heads: int = 8
    query_dim: int = 128
    request_price: float = 0.1
    fit_features: int = 32
    fit_dim: int = 128

    def __post_init__(self) -> None:
        for name, width, heads in (
            ("blm", self.d_model, self.num_heads),
            ("blm.read", self.read_dim, self.read_heads),
        ):
            if problem := check_heads(name, width, heads):
                raise ConfigError(problem)
        if isnan(self.request_price):
            raise ConfigError("blm.request_price nan is no number: give the part of the error to be saved, such as 0.1")
        for name in ("fit_features", "fit_dim"):
            if not 2 <= getattr(self, name) <= 4096:
                raise ConfigError(f"blm.{name} {getattr(self, name)} is outside [2, 4096]: set a number in that range")


@dataclass(frozen=True)
class Slots(_Record):
    """What each SLM adds if it is selected.

    ``content`` (B, N[, K], D); ``notes`` (B, N[, K], E); ``moments`` (B, N[, K], .) of the transitions that it read, if
    records are transitions.
    """

    content: Tensor
    notes: Tensor
    moments: Tensor | None = None


@dataclass(frozen=True)
class Prediction:
    """The BLM's output.

    ``change`` (B, Y) in units of the world's scale; ``request`` (B, Q) for the next step;
    ``worth`` (B,) the part of the error that the request is expected to save.
    """

    change: Tensor
    request: Tensor
    worth: Tensor

    def info_query(self, price: float) -> Tensor:
        """(B, Q) the request if it is worth its price, else zeros."""
        return self.request * (self.worth > price).unsqueeze(1)


class BLM(nn.Module):
    """Sees past, current, characteristics, the last request and a slot for each SLM; predicts and makes requests."""

    scale: Tensor

    def __init__(
        self, config: BLMConfig, spec: WorldSpec, slm_dim: int, num_slms: int, *, shortlist_size: int | None = None
    ) -> None:
        super().__init__()
        d, tag = config.d_model, spec.tag
        state_dim, target_dim, char_dim = spec.state_dim, spec.target_dim, spec.char_dim
        self.config = config
        self.codec = Codec()
        self.past = nn.Linear(state_dim, d)
        self.current = nn.Linear(state_dim, d)
        self.characteristics = nn.Linear(char_dim, d)
        # Requests have no effect before one was worth making, SLM confidences none before joint training.
        self.info_query = zeroed(nn.Linear(config.query_dim, d))
        self.kind = nn.Parameter(torch.randn(1, 4, d) * 0.02)
        self.norm_state = nn.LayerNorm(d)
        self.router = Router(d, slm_dim, num_slms)
        self.records = RecordEncoder(spec.record_words, config.read_dim, spec.decode, tag)
        self.pooling = Pooling(d, config.read_dim, config.read_heads, num_slms, tag[1])
        # If records are transitions, a regression gives a body's dynamics in closed form.
        self.regression = (
            None if spec.decode is None else Regression(state_dim, target_dim, config.fit_features, config.fit_dim)
        )
        self.target_dim = target_dim
        self.register_buffer("scale", spec.scale, persistent=False)
        self.tags = TagHead(char_dim, config.query_dim, num_slms, tag[1]) if tag[1] else None
        self.num_slms = num_slms
        self.shortlist_size = shortlist_size
        # Training steps until predictions ask an SLM that joined.
        self.probation = [0] * num_slms
        self.slm_hidden = zeroed(nn.Linear(slm_dim, d))
        self.trust = zeroed(nn.Linear(2, d, bias=False))
        self.slot = nn.Parameter(torch.randn(1, num_slms, d) * 0.02)
        self.unread = nn.Parameter(torch.randn(d) * 0.02)
        self.readout = nn.Parameter(torch.randn(1, 1, d) * 0.02)
        self.blocks = nn.ModuleList([Block(d, config.num_heads) for _ in range(config.num_layers)])
        self.norm = nn.LayerNorm(d)
        self.change = nn.Sequential(nn.Linear(d, d), nn.GELU(), zeroed(nn.Linear(d, target_dim)))
        # Parts that are linear in the inputs or words bypass the layers, which would blur them.
        self.drift = zeroed(nn.Linear(2 * state_dim + char_dim, target_dim))
        self.told = zeroed(nn.Linear(num_slms * config.read_dim, target_dim, bias=False))
        # The request gets reads by its own path: prediction needs little of what they say of the future.
        self.ask = mlp(d, config.query_dim, config.query_dim)
        self.norm_notes = nn.LayerNorm(config.read_dim)
        self.ask_notes = nn.Linear(num_slms * config.read_dim, config.query_dim)
        self.norm_ask = nn.LayerNorm(config.query_dim)
        self.worth = zeroed(nn.Linear(d, 1))

    @torch.no_grad()
    def shortlist(self, query: Query, noise: Tensor | None = None, prefer: Tensor | None = None) -> Tensor | None:
        """The ``shortlist_size`` SLMs that each sample asks: those whose keys fit its senses best.

        Args:
            query: (B, ...).
            noise: (B, N) added to the logits for exploration; without it, SLMs on probation come last.
            prefer: (B, N) in [-1, 1]: SLMs at 1 come before all others, those at -1 after.

        Returns:
            (B, A) int64, ascending; None if all are asked.
        """
        if self.shortlist_size is None or self.shortlist_size >= self.num_slms:
            return None
        score = self.router.alone(self._state(query)).logit
        if noise is not None:
            score = score + noise
        elif any(self.probation):
            score = score.masked_fill(torch.tensor(self.probation, device=score.device) > 0, -torch.inf)
        if prefer is not None:
            # A sigmoid is between 0 and 1, so that a preference decides first.
            score = torch.sigmoid(score) + 2 * prefer
        return score.topk(self.shortlist_size).indices.sort(-1).values

    def sense(self, query: Query, seen: Tensor | None = None, shortlist: Tensor | None = None) -> Senses:
        """Encode everything that is known before reading.

        Args:
            query: (B, ...).
            seen: the episode so far, from ``observe``; None if only the query is known.
            shortlist: from ``shortlist``.
        """
        state = self._state(query)
        drift = self.drift(torch.cat([query.past, query.current, query.characteristics], dim=-1))
        tags = self.expected_tags(query.characteristics, query.info_query, shortlist)
        if self.regression is None:
            return Senses(state, drift, tags, shortlist=shortlist)
        features, expected = self.regression.features(query.current)
        if seen is None:
            seen = self.regression.moments(*self._transition(query.past.unsqueeze(1), query.current.unsqueeze(1)))
        return Senses(state, drift + expected, tags, query.current, features, seen, shortlist)

    def _state(self, query: Query) -> Tensor:
        """(B, D)."""
        parts = [self.past(query.past), self.current(query.current)]
        parts += [self.characteristics(query.characteristics), self.info_query(query.info_query)]
        return self.norm_state((torch.stack(parts, dim=1) + self.kind).sum(1))

    def expected_tags(self, characteristics: Tensor, request: Tensor, shortlist: Tensor | None = None) -> Tensor:
        """(B, N, G) scores of the bits of the expected tags; G is 0 if records have no tags."""
        if self.tags is None:
            num_slms = self.num_slms if shortlist is None else shortlist.shape[1]
            return characteristics.new_zeros(len(characteristics), num_slms, 0)
        return self.tags(characteristics, request, shortlist)

    def observe(self, past: Tensor, current: Tensor) -> Tensor | None:
        """Moments of (B, T) episodes up to each of their steps.

        Args:
            past: (B, T, S); equal to ``current`` if there is no such step.
            current: (B, T, S).

        Returns:
            (B, T, .), or None if records are not transitions.
        """
        if self.regression is None:
            return None
        points, there = self._transition(past.flatten(0, 1).unsqueeze(1), current.flatten(0, 1).unsqueeze(1))
        return self.regression.moments(points, there).unflatten(0, past.shape[:2]).cumsum(1)

    def _transition(self, past: Tensor, current: Tensor) -> tuple[Tensor, Tensor]:
        """(B, M, S) twice to (B, M, F + Y) points and (B, M) weights: 0 without a past."""
        assert self.regression is not None
        change = (current - past)[..., : self.target_dim] / self.scale
        return self.regression.points(past, change), (past != current).any(-1).float()

    def route(
        self, senses: Senses, proposals: Proposals, temperature: float = 1.0, noise: Tensor | None = None
    ) -> Routing:
        """Decide which SLMs to trust, before reading."""
        trust = trust_features(proposals)
        return self.router(senses.state, proposals.hidden, trust, temperature, noise, senses.shortlist)

    def route_alone(self, senses: Senses, temperature: float, noise: Tensor | None) -> Routing:
        """Decide without the SLMs' proposals: the senses often show which tables matter."""
        return self.router.alone(senses.state, temperature, noise, senses.shortlist)

    def encode(self, reads: Reads) -> Records:
        """Encode the words of each distinct range once."""
        records = self.records(self.codec.encode(reads.bits), reads)
        if self.regression is None or records.values is None:
            return records
        inputs, change = records.values.tensor_split([-self.target_dim], dim=-1)
        return replace(records, points=self.regression.points(inputs, change))

    def pool(self, senses: Senses, records: Records, index: Tensor) -> Pooled:
        """Pool the records of each of (B, N[, K]) ranges for its sample."""
        pooled = self.pooling(senses, records, index)
        if self.regression is None or records.points is None:
            return pooled
        read_confidence = (torch.sigmoid(pooled.belief) * pooled.valid).flatten(0, -2)
        moments = self.regression.moments(records.points[index.flatten()], read_confidence)
        return replace(pooled, moments=moments.unflatten(0, index.shape))

    def slots(self, pooled: Pooled, proposals: Proposals) -> Slots:
        """What each of the (B, N[, K]) ranges puts into its SLM's slot if that is selected."""
        hidden, trust = proposals.hidden, trust_features(proposals)
        if pooled.content.dim() == 4:
            hidden, trust = hidden.unsqueeze(2), trust.unsqueeze(2)
        content = pooled.content + self.slm_hidden(hidden) + self.trust(trust)
        return Slots(content, pooled.notes, pooled.moments)

    def predict(self, senses: Senses, slots: Slots, mask: Tensor) -> Prediction:
        """Predict and make a request from the senses and the slots (B, N, ...) that the mask (B, N) selects."""
        gate = mask.unsqueeze(-1)
        content = gate * slots.content + (1 - gate) * self.unread + rows_of(self.slot[0], senses.shortlist)
        # The read-out starts from the sum of its inputs, so that linear parts bypass the attention.
        first = self.readout + senses.state.unsqueeze(1) + content.sum(1, keepdim=True)
        x = torch.cat([first, content], dim=1)
        for block in self.blocks:
            x = block(x)
        x = self.norm(x[:, 0])
        change = self.change(x) + senses.drift + own_maps(self.told, gate * slots.notes, senses.shortlist)
        change = change + self._fitted(senses, slots, gate)
        request = self.ask(x) + own_maps(self.ask_notes, gate * self.norm_notes(slots.notes), senses.shortlist)
        # The worth is learnt from a detached state, so that it does not bend the prediction.
        return Prediction(change, self.norm_ask(request), self.worth(x.detach()).squeeze(-1))

    def _fitted(self, senses: Senses, slots: Slots, gate: Tensor) -> Tensor | float:
        """(B, Y) the rest of the change, by the regression on the transitions read and those of the episode."""
        if self.regression is None:
            return 0.0
        assert senses.inputs is not None
        assert senses.features is not None
        assert senses.seen is not None
        assert slots.moments is not None
        moments = senses.seen + (gate * slots.moments).sum(1)
        return self.regression.posterior(senses.inputs, senses.features, moments)


def own_maps(linear: nn.Linear, notes: Tensor, shortlist: Tensor | None) -> Tensor:
    """The linear layer on the (B, N, E) notes of all SLMs side by side; those not asked count as 0."""
    if shortlist is None:
        return linear(notes.flatten(1))
    told = apply_own(linear.weight, notes, shortlist)
    return told if linear.bias is None else told + linear.bias


def trust_features(proposals: Proposals) -> Tensor:
    """(B, N, 2) confidence and log-probability of the best address, both about in [-1, 1]."""
    return torch.stack([proposals.confidence * 2 - 1, proposals.log_prob[..., 0].clamp(min=-10) / 10], dim=-1)
