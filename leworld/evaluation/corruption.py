"""Corruption: one SLM is corrupted in the middle of a run; does the health check exclude it?

Test sequences are chained to streams of true states. Health carries over from one sequence to the next, requests do
not. After ``lead`` steps one SLM is corrupted:

    random   it proposes uniformly drawn addresses with unchanged confidence
    stuck    it always proposes one address, that of another key, with unchanged confidence
    noise    its weights get noise with the deviation of their tensor

The result of ``measure_corruption``, MSEs in the world's units, shares of the streams, None if unknown::

    streams, lead, steps, within  what was run: ``lead`` healthy steps, then ``steps`` corrupted ones
    healthy                       without any corruption:
        mse                           without health check
        alone, shared                 with one health state for each stream, and with one for all streams:
            mse
            exclusions                    exclusions of an SLM in 1,000 of its reads
            exclusions_right              those of them after a read that the write log names
            out_right                     steps in 1,000 at which a right proposal was wanted but excluded
    cases {corruption: [case]}    a case for each SLM:
        slm, wanted                   the SLM, and the share of corrupted steps at which the router wanted it
        mse                           before, after, ``ignored`` (after, without health check), ``without`` (after, if
                                      it is never trusted)
        alone, shared                 as above:
            out                           share of streams that do not read it after ``within`` corrupted steps, except
                                          for probes; an SLM that the router does not want is out
            excluded                      share of streams, of those that wanted it at ``within`` steps, that excluded
                                          it by then for good, except for probes
            median_steps                  corrupted steps until it was excluded; None if it was not
    alone, shared                 {corruption: {out, excluded}}, the mean over the SLMs that the router wants at all

Shapes:
    B: streams.  T: steps.  N: SLMs.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, cast

import torch
from torch import Tensor

from leworld.errors import ConfigError
from leworld.evaluation.controls import random_addresses
from leworld.evaluation.metrics import errors, mean
from leworld.models.slm_health import SLMHealth, SLMHealthConfig
from leworld.models.system import Redirect, System
from leworld.rng import generator
from leworld.training.slm_training import TrainableFleet
from leworld.types import Batch, Query, Ranges
from leworld.worlds.base import World

CORRUPTIONS = ("random", "stuck", "noise")
_FOR_EVER = 1 << 40


@dataclass(frozen=True)
class CorruptionConfig:
    """``streams`` of ``lead`` healthy and ``steps`` corrupted steps; an SLM should be out ``within`` so many."""

    streams: int = 64
    lead: int = 10
    steps: int = 24
    within: int = 10
    health: SLMHealthConfig = field(default_factory=SLMHealthConfig)

    def __post_init__(self) -> None:
        if min(self.streams, self.lead, self.within) < 1 or self.steps <= self.within:
            raise ConfigError(
                f"corruption: streams {self.streams}, lead {self.lead}, within {self.within}, steps {self.steps}: "
                "give 1 or more of each, and more steps than within"
            )


@dataclass(frozen=True)
class Course:
    """The record of a walk, on the CPU.

    ``error`` (B, T); ``wanted``, ``read`` and ``right`` (B, T, N) bool: the router's own choice, the ranges read, and
    the proposals that the write log names; ``excluded`` (B or 1, T + 1, N) bool, before every step and after the last.
    """

    error: Tensor
    wanted: Tensor
    read: Tensor
    right: Tensor
    excluded: Tensor


@dataclass(frozen=True)
class Corruption:
    """One SLM and its corruption; ``address`` is where it is stuck."""

    kind: str
    slm: int
    address: int
    seed: int

    def redirect(self, address_bits: int) -> Redirect | None:
        """Change the proposed ranges."""
        if self.kind == "noise":
            return None
        scatter = random_addresses(address_bits, generator(self.seed, "corruption", "random", self.slm))

        def noisy(ranges: Ranges) -> Ranges:
            start = ranges.start.clone()
            wrong = scatter(ranges).start if self.kind == "random" else torch.full_like(start, self.address)
            start[:, self.slm] = wrong[:, self.slm]
            return replace(ranges, start=start)

        return noisy

    @contextmanager
    def damage(self, fleet: TrainableFleet) -> Iterator[None]:
        """Add noise to the SLM's weights; restore them at the end."""
        if self.kind != "noise":
            yield
            return
        before = fleet.state()
        draw, prefix = generator(self.seed, "corruption", "noise", self.slm), f"slm.{self.slm}.model."
        weights = {name: weight for name, weight in before.items() if name.startswith(prefix)}
        noise = {name: torch.randn(w.shape, generator=draw) * w.std(correction=0) for name, w in weights.items()}
        fleet.load_state({**before, **{name: weight + noise[name] for name, weight in weights.items()}})
        try:
            yield
        finally:
            fleet.load_state(before)


class Walk:
    """A system that walks through streams of true states."""

    def __init__(self, system: System, health: SLMHealth | None) -> None:
        self.system = system
        self.health = health
        self.rows: list[tuple[Tensor, ...]] = []

    def go(self, steps: list[tuple[Batch, bool]], redirect: Redirect | None = None) -> None:
        """Predict steps (B, ...); the flag marks the first step of a sequence, which has no request."""
        for now, first in steps:
            if first:
                self.seen = None
                self.requested = now.current.new_zeros(len(now.current), self.system.blm.config.query_dim)
            query = Query(now.past, now.current, now.characteristics, self.requested)
            self.seen = self.system.observe(query, self.seen)
            step = self.system.predict(query, seen=self.seen, redirect=redirect, health=self.health)
            step = step.over(self.system.blm.num_slms)
            error = errors(step.next_state.cpu(), now.target, self.system.spec.scale)
            right = (step.proposals.start[..., 0].cpu() == now.labels.start) & (now.labels.length > 0)
            wanted = self.system.wanted(query, step.proposals).cpu()
            self.rows.append((error, wanted, step.reads.length.cpu() > 0, right, self._excluded()))
            self.requested = step.info_query.cpu()
            if self.health is not None:
                self.health = self.health.observe(step)

    def course(self) -> Course:
        """The record so far."""
        error, wanted, read, right, excluded = (torch.stack(part, dim=1) for part in zip(*self.rows, strict=True))
        return Course(error, wanted, read, right, torch.cat([excluded, self._excluded().unsqueeze(1)], dim=1))

    def _excluded(self) -> Tensor:
        if self.health is None:
            return torch.zeros(1, self.system.fleet.num_slms, dtype=torch.bool)
        return self.health.excluded.cpu()


class CorruptionStreams:
    """Streams that can be walked again and again."""

    def __init__(self, world: World, system: System, config: CorruptionConfig, seed: int) -> None:
        self.system = system
        self.config = config
        self.seed = seed
        self.ways = {"alone": config.streams, "shared": 1}
        draw = generator(seed, "corruption", "streams")
        horizon, length = world.spec.horizon, config.lead + config.steps
        batches = [world.batch("test", config.streams, draw) for _ in range(-(-length // horizon))]
        self.steps = [(batches[t // horizon].at(t % horizon), t % horizon == 0) for t in range(length)]

    def fresh(self, num_streams: int) -> SLMHealth:
        """A health state without doubt."""
        return SLMHealth.fresh(num_streams, self.system.fleet.num_slms, self.config.health, self.system.device)

    def barred(self, slm: int) -> SLMHealth:
        """A health state in which one SLM is never trusted."""
        fresh = self.fresh(1)
        never = torch.zeros_like(fresh.excluded)
        never[:, slm] = True
        return replace(fresh, doubt=fresh.doubt + never, excluded=never, wait=never * _FOR_EVER)

    def corruption(self, kind: str, slm: int) -> Corruption:
        """Make a corruption; a stuck SLM proposes the range that the last stream needs first."""
        return Corruption(kind, slm, int(self.steps[0][0].labels.start[-1, slm]), self.seed)

    def walk(self, health: SLMHealth | None, corruption: Corruption | None = None) -> Course:
        """Walk all steps; the corruption begins after the lead."""
        walk, lead = Walk(self.system, health), self.config.lead
        walk.go(self.steps[:lead])
        if corruption is None:
            walk.go(self.steps[lead:])
        else:
            with corruption.damage(cast(TrainableFleet, self.system.fleet)):
                walk.go(self.steps[lead:], corruption.redirect(self.system.spec.address_bits))
        return walk.course()


def measure_corruption(world: World, system: System, config: CorruptionConfig, seed: int) -> dict[str, Any]:
    """Corrupt each SLM in each way; the test worlds must be in the system's memory. The result is above."""
    streams = CorruptionStreams(world, system, config, seed)
    without = [streams.walk(streams.barred(slm)).error for slm in range(system.fleet.num_slms)]
    cases = {
        kind: [_case(streams, streams.corruption(kind, slm), error) for slm, error in enumerate(without)]
        for kind in CORRUPTIONS
    }
    healthy = {way: healthy_figures(streams.walk(streams.fresh(count))) for way, count in streams.ways.items()}
    return {
        "streams": config.streams,
        "lead": config.lead,
        "steps": config.steps,
        "within": config.within,
        "healthy": {"mse": mean(streams.walk(None).error), **healthy},
        "cases": cases,
        **{way: {kind: _over_wanted(found, way) for kind, found in cases.items()} for way in streams.ways},
    }


def _case(streams: CorruptionStreams, corruption: Corruption, without: Tensor) -> dict[str, Any]:
    lead, slm, within = streams.config.lead, corruption.slm, streams.config.within
    courses = {way: streams.walk(streams.fresh(count), corruption) for way, count in streams.ways.items()}
    alone = courses["alone"]
    mse = {
        "before": mean(alone.error[:, :lead]),
        "after": mean(alone.error[:, lead:]),
        "ignored": mean(streams.walk(None, corruption).error[:, lead:]),
        "without": mean(without[:, lead:]),
    }
    figures = {way: exclusion_figures(course, slm, lead, within) for way, course in courses.items()}
    return {"slm": slm, "wanted": mean(alone.wanted[:, lead:, slm]), "mse": mse, **figures}


def healthy_figures(course: Course) -> dict[str, float]:
    """How often the health check excludes a healthy SLM."""
    before, after = course.excluded[:, :-1], course.excluded[:, 1:]
    excluded = (after & ~before).expand_as(course.right)
    reads, wanted = int(course.read.sum()), int(course.wanted.sum())
    return {
        "mse": mean(course.error),
        "exclusions": 1000 * int(excluded.sum()) / max(reads, 1),
        "exclusions_right": 1000 * int((excluded & course.right).sum()) / max(reads, 1),
        "out_right": 1000 * int((before & course.wanted & course.right).sum()) / max(wanted, 1),
    }


def exclusion_figures(course: Course, slm: int, lead: int, within: int) -> dict[str, float | None]:
    """Whether and when the SLM corrupted after ``lead`` steps was excluded; see the module."""
    wanted, read = course.wanted[:, lead:, slm], course.read[:, lead:, slm]
    before, after = course.excluded[:, lead:-1, slm], course.excluded[:, lead + 1 :, slm]
    trusted = (read & ~before)[:, within:].any(1)
    # For good from a step on: excluded at this step and all later ones.
    for_good = after.flip(1).cumprod(1).flip(1).bool()
    in_time = (for_good & (wanted.cumsum(1) <= within)).any(1)
    told = in_time | (wanted.sum(1) >= within)
    return {
        "out": mean(~trusted),
        "excluded": mean(in_time[told]) if told.any() else None,
        "median_steps": _median_steps(course, slm, lead),
    }


def _median_steps(course: Course, slm: int, lead: int) -> float | None:
    """Corrupted steps until the first exclusion, at the median stream."""
    after = course.excluded[:, lead + 1 :, slm]
    steps = torch.where(after.any(1), after.float().argmax(1) + 1, _FOR_EVER)
    median = int(steps.median())
    return None if median == _FOR_EVER else float(median)


def _over_wanted(cases: list[dict[str, Any]], way: str) -> dict[str, float | None]:
    found = [case[way] for case in cases if case["wanted"] > 0]
    return {name: _known_mean([figures[name] for figures in found]) for name in ("out", "excluded")}


def _known_mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
