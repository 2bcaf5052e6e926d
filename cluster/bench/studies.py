"""The studies of ``leworld bench learning`` with their claims, as data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from difflib import get_close_matches

from cluster.bench.claims import Claim, Study, at_least, at_most, within
from cluster.bench.measures import at, gained, gate, least, or_zero, over, training_minutes
from leworld.errors import ConfigError

WRONG = (gate("wrong_memory.shuffled.mean"), gate("wrong_memory.zeroed.mean"))
REWRITTEN = at_most("memory rewritten / before", gate("rewritten_ratio.mean"), 1.05)


CORRUPTED = tuple(
    at_least(f"one SLM out in 10 steps, {what}, {whose}", at(f"corruption.{standing}.{kind}.out"), 0.99)
    for kind, what in {"random": "random addresses", "stuck": "one address", "noise": "spoilt weights"}.items()
    for standing, whose in {"alone": "by stream", "shared": "by all streams"}.items()
)


def rules(name: str, preset: str, true_reads: float) -> Study:
    """Rules whose samples need so many reads on average."""
    claims = (
        at_most("MSE / floor", gate("ratios.floor.mean"), 1.10),
        at_least("hit, top 1", gate("hit_top1"), 0.99),
        at_least("hit, top 4", gate("hit_top4"), 0.999),
        at_least("exact mask", gate("exact_mask"), 0.95),
        within("reads / true subset", over(gate("reads_per_prediction"), true_reads), 0.95, 1.05),
        at_least("memory shuffled / no memory", gate("wrong_memory.shuffled.mean"), 1.0),
        at_least("memory zeroed / no memory", gate("wrong_memory.zeroed.mean"), 1.0),
        REWRITTEN,
    )
    return Study(name, preset, (*claims, *CORRUPTED), steps=("train", "corruption"))


def without_labels() -> Study:
    """Rules whose training worlds name no address: what the system places itself, and hindsight, must do."""
    hit = at_least("hit, top 1, less with labels", gate("hit_top1"), -0.01)
    claims = (replace(hit, less="rules-medium"), at_most("MSE / floor", gate("ratios.floor.mean"), 1.10))
    return Study("rules-no-labels", "rules", claims, ("phases.labels=false", "phases.refine.steps=0"))


def pointers() -> Study:
    """Requests: they are worth something, and what they are worth is in what they say."""
    claims = (
        at_most("MSE / floor", gate("ratios.floor.mean"), 1.15),
        at_least("gain over no request, low end", gate("info_gain.low"), 0.0, signed=True),
        at_least("gain over a shuffled request, low end", gate("info_controls.shuffled.low"), 0.0, signed=True),
        at_least("gain over a random request, low end", gate("info_controls.random.low"), 0.0, signed=True),
        at_least("gain / that of right addresses", gained, 0.9),
        REWRITTEN,
    )
    return Study("pointers", "pointers", claims)


FALLS = at_least("error never rises with more records", at("curve.falls"), 1.0)
KEEPS = at_least("words of write-all / of the learnt policy, 0 never", or_zero("retention.ratio.information"), 2.0)


def body(name: str, oracle: float, no_memory: float = 0.2, *more: Claim, steps: tuple[str, ...] = ()) -> Study:
    """A simulated body, against a model that is told its physics and those that are not."""
    claims = (
        at_most("error / oracle", gate("ratios.oracle.mean"), oracle),
        at_most("error / no memory", gate("ratios.no_memory.mean"), no_memory),
        at_most("error / exact kNN", gate("ratios.knn.mean"), 1.0),
        at_most("error / least squares", gate("ratios.least_squares.mean"), 1.0),
        at_most("error / GRU with context", gate("ratios.gru_context.mean"), 1.0),
        at_most("another's memory / no memory", gate("wrong_memory.shuffled.mean"), 1.05),
        REWRITTEN,
        FALLS,
        *more,
    )
    return Study(name, name, claims, steps=("train", "curve", *steps))


def capacity() -> Study:
    """The same rules in memories of 2 ** 16, 2 ** 24 and 2 ** 32 words."""
    claims = tuple(
        claim
        for i, bits in enumerate((16, 24, 32))
        for claim in (
            at_least(f"hit at 2^{bits} / at 2^16", at(f"capacity.widths.{i}.hit_ratio"), 0.9),
            at_most(f"cost at 2^{bits} / at 2^16", at(f"capacity.widths.{i}.cost_ratio"), 1.1),
        )
        if i
    )
    return Study("capacity", "rules", claims, steps=("capacity",))


def full_size() -> Study:
    """The whole system, at the size that it was described in."""
    claims = (
        at_most("MSE / floor", gate("ratios.floor.mean"), 1.10),
        at_most("minutes of training", training_minutes, 90),
    )
    return Study("full-size", "rules-full", claims, by_name=True)


STUDIES: tuple[Study, ...] = (
    rules("rules-medium", "rules", 4 / 3),
    rules("rules-hard", "rules-hard", 12 / 7),
    without_labels(),
    pointers(),
    body("cartpole", 1.0),
    body("pendulum", 1.5, 0.2, KEEPS, steps=("retention",)),
    body("acrobot", 1.25),
    body("hopper", 1.25),
    body("swimmer", 1.25),
    body("halfcheetah", 1.6, 0.4),
    capacity(),
    full_size(),
)

_SHORT = ("phases.joint.steps=30", "phases.refine.steps=5", "evaluation.sequences=64", "evaluation.baseline_steps=300")

QUICK: tuple[Study, ...] = (
    Study(
        "quick-rules",
        "rules",
        (
            at_most("MSE / floor", gate("ratios.floor.mean"), 1.5),
            at_least("hit, top 1", gate("hit_top1"), 0.9),
            at_least("hit, top 4", gate("hit_top4"), 0.95),
            at_least("exact mask", gate("exact_mask"), 0.9),
            at_least(
                "wrong memory / no memory",
                least(gate("wrong_memory.shuffled.mean"), gate("wrong_memory.zeroed.mean")),
                0.9,
            ),
            REWRITTEN,
        ),
        ("world.settings.hash_bits=8", "phases.pretrain.steps=400", "phases.pretrain.slm_steps=150", *_SHORT),
    ),
    Study(
        "quick-pendulum",
        "pendulum",
        (
            at_most("error / oracle", gate("ratios.oracle.mean"), 3.0),
            at_most("error / no memory", gate("ratios.no_memory.mean"), 0.5),
            at_least("hit, top 4", gate("hit_top4"), 0.9),
            at_most("another's memory / no memory", gate("wrong_memory.shuffled.mean"), 1.5),
        ),
        (
            "world.settings.num_train=300",
            "world.settings.num_test=32",
            "phases.pretrain.steps=200",
            "phases.pretrain.slm_steps=150",
            *_SHORT,
            "phases.joint.steps=10",
            "evaluation.baseline_steps=200",
        ),
    ),
)
"""Small ones that show in two minutes whether something was broken; their goals are what was recorded."""


def chosen(studies: Sequence[Study], names: Sequence[str]) -> tuple[Study, ...]:
    """The studies of these names, or all of them for none.

    Raises:
        ConfigError: there is no study of a name.
    """
    known = [study.name for study in studies]
    for name in names:
        if name not in known:
            near = get_close_matches(name, known, n=1, cutoff=0.0)[0]
            raise ConfigError(f"--only {name}: no such study; nearest: {near} (of {', '.join(known)})")
    return tuple(study for study in studies if not names or study.name in names)
