"""Retention policies: which records of a stream a memory with little room keeps.

first        write all until the room is full
recent       the most recent, as in an LRU without repeated reads
random       a reservoir: every record is equally likely
surprise     those whose transition the system predicts worst without memory
fitness      those that are missed most: what helps least in predicting the stream's other transitions goes first
information  streaming: the record leaves without which predictions are hardly less certain, in features learnt

The last is I-optimal design (Fedorov 1972) in the features of the BLM's regression: a keep-or-evict score that was
learnt with the predictions, in the spirit of NAMM, https://arxiv.org/abs/2410.13166 , and of LM2's gates,
https://arxiv.org/abs/2502.06049

Shapes: see ``leworld.evaluation.record_sets``; F: features of a record.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from leworld.errors import ConfigError
from leworld.evaluation.record_sets import SetReader
from leworld.rng import generator

Keep = Callable[[int], Tensor]
"""(W, M) int64 records of each stream, for a room of M."""


@dataclass(frozen=True)
class KeepingConfig:
    """Limits for the costly policies.

    Attributes:
        probes: transitions by which the worth of a record is measured.
        dropped: part of the records that fitness drops at a time.
        train_bodies: bodies whose states are taken as typical.
    """

    probes: int = 8
    dropped: float = 0.25
    train_bodies: int = 192

    def __post_init__(self) -> None:
        if min(self.probes, self.train_bodies) < 1:
            raise ConfigError("keeping: probes and train_bodies must be above 0")
        if not 0 < self.dropped < 1:
            raise ConfigError(f"keeping: dropped {self.dropped} is outside (0, 1): give a part such as 0.25")


def by_order(order: Tensor) -> Keep:
    """The first M of an (W, L) order of the records."""
    return lambda room: order[:, :room]


def random_order(num_bodies: int, length: int, random: torch.Generator) -> Tensor:
    """(W, L) one permutation a body."""
    return torch.rand(num_bodies, length, generator=random).argsort(1)


def fitness_order(reader: SetReader, config: KeepingConfig, seed: int) -> Tensor:
    """(W, L) records, most missed first, by recursive elimination.

    A stream is cut at random into two halves, and each is tried on transitions of the other, so that no record counts
    because the same transition is predicted.
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


def typical_moments(reader: SetReader) -> Tensor | None:
    """(F, F) second moments of the regression's features of the states seen; None if the BLM has no regression."""
    points = _features(reader)
    return None if points is None else (points.mT @ points).sum(0) / points[..., 0].numel()


def keep_by_information(reader: SetReader, typical: Tensor) -> Keep:
    """Add every record; if the room is full, drop the one that predictions need least to be certain.

    The certainty is that of the BLM's regression on learnt features. It depends on where records lie, not on their
    changes.

    Args:
        reader: whose streams.
        typical: (F, F) of the states that will have to be predicted.
    """
    points, regression = _features(reader), reader.system.blm.regression
    assert points is not None
    assert regression is not None
    num_bodies, length, width = points.shape
    noise = regression.variance().detach() * torch.eye(width, dtype=points.dtype)

    def keep(room: int) -> Tensor:
        kept = torch.arange(min(room, length)).expand(num_bodies, -1)
        for arriving in range(kept.shape[1], length if room else 0):
            kept = torch.cat([kept, torch.full((num_bodies, 1), arriving)], dim=1)
            rows = points.gather(1, kept.unsqueeze(-1).expand(-1, -1, width))
            least = information_lost(rows, typical, noise).argmin(1, keepdim=True)
            stays = torch.ones_like(kept, dtype=torch.bool).scatter_(1, least, False)
            kept = kept[stays].view(num_bodies, room)
        return kept

    return keep


def information_lost(rows: Tensor, typical: Tensor, noise: Tensor) -> Tensor:
    """The rise of the mean variance of predictions without each record.

    Args:
        rows: (W, M, F) records that are kept.
        typical: (F, F) second moments of the points to be predicted.
        noise: (F, F) what a fit of no records has.

    Returns:
        (W, M), by the rank-one downdate of each.
    """
    solved = torch.linalg.solve(rows.mT @ rows + noise, rows.mT).mT
    leverage = (solved * rows).sum(-1)
    return torch.einsum("wmf,fg,wmg->wm", solved, typical, solved) / (1 - leverage).clamp(min=1e-9)


@torch.no_grad()
def _features(reader: SetReader) -> Tensor | None:
    """(W, L, F) float64 features of what was seen, by the BLM's regression."""
    regression = reader.system.blm.regression
    return None if regression is None else regression.features(reader.streams.seen.inputs)[0].double()


def policies(reader: SetReader, typical: Tensor | None, config: KeepingConfig, seed: int) -> dict[str, Keep]:
    """All policies on the streams of a reader; "information" needs ``typical``."""
    num_bodies, length = reader.streams.seen.inputs.shape[:2]
    arrival = torch.arange(length).expand(num_bodies, -1)
    keeps = {
        "first": by_order(arrival),
        "recent": by_order(arrival.flip(1)),
        "random": by_order(random_order(num_bodies, length, generator(seed, "keeping", "random"))),
        "surprise": by_order(reader.surprise().argsort(1, descending=True)),
        "fitness": by_order(fitness_order(reader, config, seed)),
    }
    return keeps if typical is None else {**keeps, "information": keep_by_information(reader, typical)}
