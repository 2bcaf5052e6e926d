"""Capacity: how hit rate and cost depend on the number of words.

Shapes: see ``leworld.types``.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from leworld.evaluation.metrics import hit_rate
from leworld.memory import WordStore
from leworld.rng import generator
from leworld.training.slm_training import TrainableFleet
from leworld.types import Query
from leworld.worlds.base import World

Study = dict[str, Any]


@dataclass(frozen=True)
class Width:
    """A memory of one width that holds the test split's records, with SLMs that know its placement."""

    world: World
    fleet: TrainableFleet
    memory: WordStore
    query_dim: int


@dataclass(frozen=True)
class Costs:
    """Seconds of one lookup: the SLMs' ``propose``, and the ``read`` of their best ranges."""

    propose: float
    read: float


def measure_capacity(widths: Sequence[Width], seed: int, *, samples: int, batch: int, repeats: int) -> Study:
    """Measure hit rates and costs of a lookup for each width, and their ratios to the first width.

    Args:
        widths: narrowest first.
        seed: of the samples.
        samples: least number of test samples for hit rates.
        batch: samples of a lookup.
        repeats: lookups timed for each width. Widths take turns, so that load on the machine affects all alike.

    Returns:
        widths: a list of {address_bits, pages, hit_top1, hit_top4, propose_s, read_s, lookup_s, hit_ratio, cost_ratio}.
            Seconds are medians; ``hit_ratio`` is of ``hit_top1``; ``cost_ratio`` is the median over turns.
    """
    costs = timed_turns(widths, seed, batch, repeats)
    hits = [hit_figures(width, seed, samples) for width in widths]
    figures = []
    for i, width in enumerate(widths):
        own, first = [turn[i] for turn in costs], [turn[0] for turn in costs]
        ratios = [(a.propose + a.read) / (b.propose + b.read) for a, b in zip(own, first, strict=True)]
        figures.append(
            {
                "address_bits": width.world.spec.address_bits,
                "pages": width.memory.allocated_pages,
                **hits[i],
                "propose_s": statistics.median(cost.propose for cost in own),
                "read_s": statistics.median(cost.read for cost in own),
                "lookup_s": statistics.median(cost.propose + cost.read for cost in own),
                "hit_ratio": hits[i]["hit_top1"] / max(hits[0]["hit_top1"], 1e-9),
                "cost_ratio": statistics.median(ratios),
            }
        )
    return {"widths": figures, "samples": samples, "batch": batch, "repeats": repeats}


def hit_figures(width: Width, seed: int, samples: int) -> dict[str, float]:
    """Hit rates of at least this many test samples; ``hit_top4`` uses all candidates if there are fewer."""
    spec = width.world.spec
    sequences = -(-samples // spec.horizon)
    query, flat = _test_query(width, sequences, seed, "hits")
    start = width.fleet.propose(query).start
    found = {f"hit_top{k}": hit_rate(start, flat.labels, min(k, start.shape[-1]), flat.keyed) for k in (1, 4)}
    assert all(rate is not None for rate in found.values()), "the world knows no address of its test samples"
    return {name: rate for name, rate in found.items() if rate is not None}


def timed_turns(widths: Sequence[Width], seed: int, batch: int, repeats: int) -> list[list[Costs]]:
    """Costs by turn and width; each width first warms up once."""
    queries = [_test_query(width, -(-batch // width.world.spec.horizon), seed, "costs")[0] for width in widths]
    queries = [query.map(lambda tensor: tensor[:batch]) for query in queries]
    for width, query in zip(widths, queries, strict=True):
        timed_lookup(width, query)
    return [[timed_lookup(w, query) for w, query in zip(widths, queries, strict=True)] for _ in range(repeats)]


def timed_lookup(width: Width, query: Query) -> Costs:
    """Time one lookup: ask all SLMs and read each one's best range."""
    begin = time.perf_counter()
    ranges = width.fleet.propose(query).ranges()
    proposed = time.perf_counter()
    width.memory.read(ranges.start.flatten().numpy(), ranges.length.flatten().numpy())
    return Costs(proposed - begin, time.perf_counter() - proposed)


def _test_query(width: Width, sequences: int, seed: int, purpose: str) -> tuple[Query, Any]:
    batch = width.world.batch("test", sequences, generator(seed, "capacity", purpose)).fold_time().at(0)
    nothing = torch.zeros(len(batch.current), width.query_dim)
    return Query(batch.past, batch.current, batch.characteristics, nothing), batch
