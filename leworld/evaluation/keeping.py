"""Keeping: policies that say which records of a stream a memory with little room should hold.

first     write all until the room is full
recent    the most recent, as an LRU does where nothing is read twice
random    a reservoir: every record alike
surprise  those whose transition the system would have predicted worst without memory
fitness   those that are missed most: what helps least in predicting the stream's other transitions goes first
learned   a keep-or-evict score, learnt on other bodies by hindsight; streaming: what scores least leaves the room

In the spirit of NAMM, https://arxiv.org/abs/2410.13166 , and of LM2's gates, https://arxiv.org/abs/2502.06049

Shapes: see ``leworld.evaluation.record_sets``; F: features of a record.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from leworld.errors import ConfigError
from leworld.evaluation.record_sets import SetReader
from leworld.optim import warmup_cosine
from leworld.rng import generator

Keep = Callable[[int], Tensor]
"""(W, M) int64 records of each stream, for a room of M."""
_HIDDEN = 64
_FURTHEST = 1e3


@dataclass(frozen=True)
class KeepingConfig:
    """What the costly policies may cost.

    Attributes:
        probes: transitions by which the worth of a record is measured.
        dropped: part of the records that fitness lets go at a time.
        train_bodies: bodies on which the score is learnt.
        sets: sizes of the random sets, one of each a body, in which hindsight leaves out each record once.
        score_steps, score_batch, score_lr: of the score's training.
    """

    probes: int = 8
    dropped: float = 0.25
    train_bodies: int = 192
    sets: tuple[int, ...] = (3, 6, 12, 24)
    score_steps: int = 800
    score_batch: int = 256
    score_lr: float = 2e-3

    def __post_init__(self) -> None:
        if min(self.probes, self.train_bodies, self.score_steps, self.score_batch) < 1 or self.score_lr <= 0:
            raise ConfigError("keeping: probes, train_bodies, score_steps, score_batch and score_lr must be above 0")
        if not 0 < self.dropped < 1:
            raise ConfigError(f"keeping: dropped {self.dropped} is outside (0, 1): give a part such as 0.25")
        if not self.sets or min(self.sets) < 2:
            raise ConfigError(f"keeping: sets {self.sets} must be sizes of 2 or more, such as (3, 6, 12, 24)")


def by_order(order: Tensor) -> Keep:
    """The first M of an (W, L) order of the records."""
    return lambda room: order[:, :room]


def random_order(num_bodies: int, length: int, random: torch.Generator) -> Tensor:
    """(W, L) one permutation a body."""
    return torch.rand(num_bodies, length, generator=random).argsort(1)


def fitness_order(reader: SetReader, config: KeepingConfig, seed: int) -> Tensor:
    """(W, L) records, most missed first, by recursive elimination.

    A stream is cut at random into two halves, and each is tried on transitions of the other: a record must not be
    missed merely because the same transition is to be predicted.
    """
    num_bodies, length = reader.streams.seen.inputs.shape[:2]
    shuffled = random_order(num_bodies, length, generator(seed, "keeping", "halves"))
    halves = shuffled[:, : length // 2], shuffled[:, length // 2 :]
    draw = generator(seed, "keeping", "fitness")
    ranked = [_eliminated(reader, *pair, config, draw) for pair in (halves, (halves[1], halves[0]))]
    # The longer half has the last word.
    mixed = torch.stack([half[:, : length // 2] for half in ranked], dim=2).flatten(1)
    return torch.cat([mixed, ranked[1][:, length // 2 :]], dim=1)


def _eliminated(
    reader: SetReader, left: Tensor, others: Tensor, config: KeepingConfig, draw: torch.Generator
) -> Tensor:
    """(W, M) the records ``left``, by when they are eliminated: last first."""
    gone: list[Tensor] = []
    while left.shape[1] > 1:
        everyone = torch.arange(len(left))
        probes = others.gather(1, random_order(len(others), others.shape[1], draw)[:, : config.probes])
        order = left_out_errors(reader, everyone, left, probes).argsort(1)
        count = max(1, int(config.dropped * left.shape[1]))
        ranked = left.gather(1, order)
        gone.append(ranked[:, :count].flip(1))
        left = ranked[:, count:]
    return torch.cat([left, *gone[::-1]], dim=1)


def left_out_errors(reader: SetReader, body: Tensor, kept: Tensor, probes: Tensor) -> Tensor:
    """(V, M) mean error on the probes (V, P) when each record of ``kept`` (V, M) is left out."""
    num_variants, count = kept.shape
    others = torch.arange(count - 1).expand(count, -1)
    others = others + (others >= torch.arange(count).unsqueeze(1))
    sets = kept[:, others].flatten(0, 1)
    found = reader.seen_errors(body.repeat_interleave(count), sets, probes.repeat_interleave(count, dim=0))
    return found.mean(1).unflatten(0, (num_variants, count))


@dataclass(frozen=True)
class RecordFeatures:
    """What a score sees of every record: ``own`` (W, L, F - 2), and ``inputs`` (W, L, S) by which others are near."""

    own: Tensor
    inputs: Tensor

    @classmethod
    def of(cls, reader: SetReader) -> RecordFeatures:
        """Inputs, change, and how it surprised."""
        seen, scale = reader.streams.seen, reader.system.spec.scale
        residual, surprise = reader.surprise()
        change = (seen.following - seen.inputs[..., : seen.following.shape[-1]]) / scale
        own = torch.cat([seen.inputs, change, residual, surprise.add(1e-4).log().unsqueeze(-1)], dim=-1)
        return cls(own, seen.inputs)

    def of_sets(self, body: Tensor, kept: Tensor) -> Tensor:
        """(V, M, F) features of the records ``kept`` (V, M) of bodies (V,): also how near the next of the set is, and
        how large the set."""
        index = body.unsqueeze(1), kept
        inputs, count = self.inputs[index], kept.shape[1]
        distance = torch.cdist(inputs, inputs) + torch.eye(count) * _FURTHEST
        nearest = distance.amin(-1, keepdim=True).clamp(min=1e-3).log()
        size = torch.full_like(nearest, count).log()
        return torch.cat([self.own[index], nearest, size], dim=-1)


@dataclass(frozen=True)
class Score:
    """A keep-or-evict score: standardised features, and a small network."""

    mean: Tensor
    std: Tensor
    network: nn.Module

    @torch.no_grad()
    def __call__(self, features: Tensor) -> Tensor:
        """(..., F) to (...): higher is to be kept."""
        return self.network((features - self.mean) / self.std).squeeze(-1)


def hindsight(reader: SetReader, config: KeepingConfig, seed: int) -> tuple[Tensor, Tensor]:
    """(n, F) features of records in random sets, and (n,) how much each was missed there, standardised by set."""
    num_bodies, length = reader.streams.seen.inputs.shape[:2]
    features, everyone = RecordFeatures.of(reader), torch.arange(num_bodies)
    rows, worth = [], []
    for size in config.sets:
        order = random_order(num_bodies, length, generator(seed, "keeping", "sets", size))
        kept, probes = order[:, :size], order[:, size : size + config.probes]
        missed = left_out_errors(reader, everyone, kept, probes)
        std, mean = torch.std_mean(missed, dim=1, keepdim=True)
        rows.append(features.of_sets(everyone, kept).flatten(0, 1))
        worth.append(((missed - mean) / std.clamp(min=1e-8)).flatten())
    return torch.cat(rows), torch.cat(worth)


def learn_score(reader: SetReader, config: KeepingConfig, seed: int) -> Score:
    """Learn the score on the bodies of a reader: least squares on hindsight."""
    rows, worth = hindsight(reader, config, seed)
    std, mean = torch.std_mean(rows, dim=0, correction=0)
    score = Score(mean, std.clamp(min=1e-6), _network(rows.shape[1], seed))
    rows, draw = (rows - score.mean) / score.std, generator(seed, "keeping", "batches")
    optimiser = torch.optim.AdamW(score.network.parameters(), lr=config.score_lr, weight_decay=0.01)
    for step in range(config.score_steps):
        chosen = torch.randint(len(rows), (config.score_batch,), generator=draw)
        loss = (score.network(rows[chosen]).squeeze(-1) - worth[chosen]).square().mean()
        optimiser.zero_grad()
        loss.backward()
        for group in optimiser.param_groups:
            group["lr"] = warmup_cosine(step, config.score_steps, config.score_lr, 1 + config.score_steps // 20)
        optimiser.step()
    return score


def _network(num_features: int, seed: int) -> nn.Module:
    """Two hidden layers with weights of the seed."""
    layers = [nn.Linear(num_features, _HIDDEN), nn.GELU(), nn.Linear(_HIDDEN, _HIDDEN), nn.GELU()]
    network, draw = nn.Sequential(*layers, nn.Linear(_HIDDEN, 1)), generator(seed, "keeping", "weights")
    with torch.no_grad():
        for weight in network.parameters():
            bound = weight.shape[-1] ** -0.5
            weight.uniform_(-bound, bound, generator=draw)
    return network


def keep_by_score(score: Score, features: RecordFeatures) -> Keep:
    """Take every record in; when the room is full, the one of least score among those in it leaves."""
    num_bodies, length = features.inputs.shape[:2]
    everyone = torch.arange(num_bodies)

    def keep(room: int) -> Tensor:
        kept = torch.arange(min(room, length)).expand(num_bodies, -1)
        for arriving in range(kept.shape[1], length if room else 0):
            kept = torch.cat([kept, torch.full((num_bodies, 1), arriving)], dim=1)
            worst = score(features.of_sets(everyone, kept)).argmin(1, keepdim=True)
            stays = torch.ones_like(kept, dtype=torch.bool).scatter_(1, worst, False)
            kept = kept[stays].view(num_bodies, room)
        return kept

    return keep


def policies(reader: SetReader, score: Score, config: KeepingConfig, seed: int) -> dict[str, Keep]:
    """All of them, on the streams of a reader."""
    num_bodies, length = reader.streams.seen.inputs.shape[:2]
    features, arrival = RecordFeatures.of(reader), torch.arange(length).expand(num_bodies, -1)
    return {
        "first": by_order(arrival),
        "recent": by_order(arrival.flip(1)),
        "random": by_order(random_order(num_bodies, length, generator(seed, "keeping", "random"))),
        "surprise": by_order(reader.surprise()[1].argsort(1, descending=True)),
        "fitness": by_order(fitness_order(reader, config, seed)),
        "learned": keep_by_score(score, features),
    }
