"""The gate: compares the system with baselines and controls on worlds it never trained on.

The result, ``gate.json``, has for every name the mean squared error in the world's units:

    world, leworld          the name, and the unchanged system
    floor, oracle           the least possible error; a model that is told the truth about the world
    baselines {name: mse}   trained on the same data with the budget in ``budget``
    controls {name: mse}    the system with its memory zeroed, shuffled, stale, or read at random addresses
    oracle_addresses        the system reading what the write log names
    hit_top1, hit_top4      how often the right address is the SLM's best, or among its best four
    hit_asked               hit_top1 where only a request can tell the address
    exact_mask              how often the mask is the true one
    reads_per_prediction    ranges read, with second looks; ``requests_per_prediction``: requests sent
    info_gain               error without less with requests: {mean, low, high}, paired, 95 %
    info_controls           the same against shuffled and random requests
    rewritten               the error after memory and dynamics were rewritten, without training
    rewritten_ratio         that to ``leworld``; all ratios are {mean, low, high}, 95 %
    rollout {name: ...}     of the system and of ``ROLLED``: {teacher_forced, free_running}, error by step
    versus {name: ...}      error of a baseline less ours, paired, 95 %: above 0 if we win
    beaten_by               the baselines whose error is lower than ours
    best_no_memory          the best baseline without memory
    ratios {name: ratio}    our error to floor, oracle, knn, least_squares, gru_context, and no_memory: the best without
    wrong_memory {name: ...} ratios of the controls shuffled, random and zeroed to ``best_no_memory``

and null if a world has no such truth.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from leworld.errors import ConfigError
from leworld.evaluation.baselines import applicable, evaluate, train_baselines
from leworld.evaluation.controls import ZeroedMemory, random_addresses, shuffled
from leworld.evaluation.metrics import exact_mask, hit_rate, mean, paired_interval
from leworld.evaluation.predictor import Budget, Predictor
from leworld.evaluation.ratios import best_no_memory, our_ratios, ratio
from leworld.evaluation.rewriting import rewritten_trial
from leworld.evaluation.rollouts import roll_predictor
from leworld.evaluation.trials import Request, Trial, free_running, no_request, reading, teacher_forced
from leworld.memory import WordStore
from leworld.models.system import System
from leworld.rng import derangement, generator
from leworld.types import Batch
from leworld.worlds.base import World

Gate = dict[str, Any]

ROLLED = ("copy_last", "linear", "mlp", "gru", "gru_context", "oracle")
"""Baselines that also make rollouts."""
WRONG = ("shuffled", "random", "zeroed")
"""Controls with another sample's memory, or none."""


@dataclass(frozen=True)
class EvaluationConfig:
    """The costs of the gate.

    Attributes:
        sequences: test sequences.
        baseline_steps: optimiser steps of each trained baseline; ``baseline_sequences`` sequences per step.
        baseline_lr: their peak learning rate.
    """

    sequences: int = 128
    baseline_steps: int = 1500
    baseline_sequences: int = 16
    baseline_lr: float = 3e-3

    def __post_init__(self) -> None:
        if self.sequences < 2:
            raise ConfigError(f"evaluation.sequences {self.sequences} is below 2: an interval needs two groups")
        # Check now, not after the training that comes first.
        self.budget(0)

    def budget(self, seed: int) -> Budget:
        """The budget of each baseline."""
        return Budget(self.baseline_steps, self.baseline_sequences, self.baseline_lr, seed)


@dataclass(frozen=True)
class Stage:
    """A finished stage of the gate: ``done`` of ``total``."""

    name: str
    done: int
    total: int


class GateRun:
    """One run of the gate. The test worlds must be in the system's memory; only baselines are trained.

    Attributes:
        result: so far; complete after ``stages`` has ended.
    """

    def __init__(self, world: World, system: System, config: EvaluationConfig, seed: int) -> None:
        self.world = world
        self.system = system
        self.config = config
        self.seed = seed
        self.batch = world.batch("test", config.sequences, generator(seed, "gate"))
        self.errors: dict[str, Tensor] = {}
        self.controls: dict[str, Tensor] = {}
        self.result: Gate = {}

    def stages(self) -> Iterator[Stage]:
        """Do the work, one stage per item."""
        parts = [("system", self._measure_system), ("controls", self._measure_controls)]
        parts += [("requests", self._measure_requests), ("rollouts", self._measure_rollouts)]
        parts += [("rewritten", self._measure_rewritten)]
        names = applicable(self.world)
        total = len(parts) + len(names)
        for done, (name, measure) in enumerate(parts, start=1):
            measure()
            yield Stage(name, done, total)
        for done, name in enumerate(names, start=len(parts) + 1):
            self._measure_baseline(name)
            yield Stage(name, done, total)
        self._conclude()

    def _draw(self, purpose: str) -> torch.Generator:
        return generator(self.seed, "gate", purpose)

    def _measure_system(self) -> None:
        trial = teacher_forced(self.system, self.batch)
        right = teacher_forced(self.system, self.batch, oracle=True)
        self.trial = trial
        spec = self.world.spec
        self.result = {
            "world": spec.name,
            "leworld": mean(trial.error),
            "floor": spec.floor,
            "oracle": None,
            "oracle_addresses": mean(right.error),
            "baselines": {},
            "controls": {},
            "samples": trial.error.numel(),
            "budget": asdict(self.config.budget(self.seed)),
            **address_figures(trial, self.batch, self.system.tables),
        }

    def _measure_controls(self) -> None:
        spec = self.world.spec
        trials = {
            "zeroed": teacher_forced(reading(self.system, ZeroedMemory(self.system.memory)), self.batch),
            "shuffled": teacher_forced(self.system, self.batch, redirect=shuffled(self._draw("shuffled"))),
            "stale": teacher_forced(reading(self.system, stale_memory(self.world)), self.batch),
            "random": teacher_forced(
                self.system, self.batch, redirect=random_addresses(spec.address_bits, self._draw("random"))
            ),
        }
        self.controls = {name: trial.error for name, trial in trials.items()}
        self.result["controls"] = {name: mean(error) for name, error in self.controls.items()}

    def _measure_requests(self) -> None:
        """Compare requests on the same samples with the same metric."""
        others = {"none": no_request, **other_requests(self._draw("requests"))}
        trials = {name: teacher_forced(self.system, self.batch, request=request) for name, request in others.items()}
        gains = {name: self._paired(trial.error) for name, trial in trials.items()}
        self.result["info_gain"] = gains.pop("none")
        self.result["info_controls"] = gains

    def _measure_rollouts(self) -> None:
        self.result["rollout"] = {"leworld": by_step(self.trial.error, free_running(self.system, self.batch))}

    def _measure_rewritten(self) -> None:
        found = rewritten_trial(self.world, self.system, self.config.sequences, generator(self.seed, "gate"))
        self.result["rewritten"] = self.result["rewritten_ratio"] = None
        if found is not None:
            # The same draw gives the same samples, under other dynamics.
            error = found[0].error
            self.result["rewritten"] = mean(error)
            self.result["rewritten_ratio"] = ratio(error, self.trial.error, self.batch.world)

    def _measure_baseline(self, name: str) -> None:
        predictor = train_baselines(self.world, self.config.budget(self.seed), [name])[name]
        error = evaluate(predictor, [self.batch], self.world.spec.scale)
        if name == "oracle":
            self.result["oracle"] = mean(error)
        else:
            self.result["baselines"][name] = mean(error)
        self.errors[name] = error
        if name in ROLLED:
            self._roll(name, predictor)

    def _roll(self, name: str, predictor: Predictor) -> None:
        free = roll_predictor(predictor, self.batch, self.world.spec.scale)
        self.result["rollout"][name] = by_step(self.errors[name], free)

    def _conclude(self) -> None:
        self.result["versus"] = {name: self._paired(error) for name, error in self.errors.items()}
        ours = self.result["leworld"]
        self.result["beaten_by"] = [name for name, error in self.result["baselines"].items() if error < ours]
        best, groups = best_no_memory(self.errors), self.batch.world
        self.result["best_no_memory"] = best
        self.result["ratios"] = our_ratios(self.trial.error, self.errors, self.world.spec.floor, groups)
        wrong = {name: ratio(self.controls[name], self.errors[best], groups) for name in WRONG}
        self.result["wrong_memory"] = wrong

    def _paired(self, error: Tensor) -> dict[str, float]:
        """Interval of an error less ours on the same samples, grouped by world, or else by sequence."""
        return paired_interval(error, self.trial.error, self.batch.world).to_dict()


def by_step(teacher_forced: Tensor, free_running: Tensor) -> dict[str, list[float]]:
    """Mean over sequences of (B, T) errors, from true states and from predicted ones."""
    return {"teacher_forced": teacher_forced.mean(0).tolist(), "free_running": free_running.mean(0).tolist()}


def stale_memory(world: World) -> WordStore:
    """A memory that holds the test worlds as they were before they changed."""
    memory = WordStore(world.spec.address_bits)
    world.outdate(memory, "test")
    return memory


def other_requests(draw: torch.Generator) -> dict[str, Request]:
    """Requests that are unrelated to the sample: another sample's, and noise of the same size."""

    def shuffled_request(query: Tensor) -> Tensor:
        return query[derangement(len(query), draw)]

    def random_request(query: Tensor) -> Tensor:
        return torch.randn(query.shape, generator=draw) * query.std()

    return {"shuffled": shuffled_request, "random": random_request}


def address_figures(trial: Trial, batch: Batch, tables: Tensor | None) -> Gate:
    """Hit rates, mask and reads of a trial, by the (N,) tables of its SLMs."""
    start = trial.start.flatten(0, 1)
    own = batch.columns(tables)
    labels = own.labels.map(lambda tensor: tensor.flatten(0, 1))
    keyed = own.keyed.flatten(0, 1)
    top = min(4, start.shape[-1])
    relevant = batch.relevant
    return {
        "hit_top1": hit_rate(start, labels, 1, keyed),
        "hit_top4": hit_rate(start, labels, top, keyed),
        "hit_asked": hit_rate(start, labels, 1, ~keyed),
        "exact_mask": None if relevant is None else exact_mask(by_table(trial.mask, tables, relevant), relevant),
        "requests_per_prediction": float(trial.requested.double().mean()),
        "reads_per_prediction": float(trial.reads.double().sum(-1).mean()),
    }


def by_table(mask: Tensor, tables: Tensor | None, relevant: Tensor) -> Tensor:
    """(..., N) bool of SLMs to (..., T) of tables: whether any that has the table is trusted."""
    if tables is None:
        return mask
    return torch.zeros_like(relevant, dtype=torch.int64).index_add_(-1, tables, mask.long()) > 0


def rows(gate: Gate) -> list[tuple[str, str, float]]:
    """The table: (kind, name, mse), best first within ours, references, baselines and controls."""
    table = [("ours", "leworld", gate["leworld"]), ("ours", "leworld, right addresses", gate["oracle_addresses"])]
    if gate["rewritten"] is not None:
        table.append(("ours", "leworld, memory rewritten", gate["rewritten"]))
    table += [("limit", name, gate[name]) for name in ("floor", "oracle") if gate[name] is not None]
    for kind in ("baselines", "controls"):
        found = sorted(gate[kind].items(), key=lambda item: item[1])
        table += [(kind[:-1], name, value) for name, value in found]
    return table


def verdict(gate: Gate) -> str:
    """One sentence that first names what beats us."""
    beaten = gate["beaten_by"]
    best = min(gate["baselines"], key=gate["baselines"].get)
    ratio = gate["leworld"] / gate["baselines"][best]
    if beaten:
        return f"Beaten by {', '.join(beaten)}: LeWorld's error is {ratio:.2f} x that of {best}."
    return f"No baseline wins: LeWorld's error is {ratio:.2f} x that of the best, {best}."
