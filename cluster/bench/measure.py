"""``leworld bench measure``: what else is measured of a run, beside its gate."""

from __future__ import annotations

import json
from collections.abc import Callable
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from rich.console import Console

from cluster.run.checkpoint import load_checkpoint
from cluster.run.commands import checkpoint_of, started
from cluster.run.run_dir import RunDir
from cluster.run.runtimes import make_learner
from leworld.errors import ConfigError
from leworld.evaluation.baselines import train_baselines
from leworld.evaluation.corruption import CorruptionConfig, measure_corruption
from leworld.evaluation.record_curves import measure_curve
from leworld.evaluation.retention import RetentionConfig, measure_retention
from leworld.models.system import System
from leworld.rng import generator
from leworld.worlds.base import World
from leworld.worlds.trajectories import TrajectoryWorld

Measurement = Callable[[World, System, RunDir], dict[str, Any]]


def corruption(world: World, system: System, run: RunDir) -> dict[str, Any]:
    """See ``measure_corruption``."""
    return measure_corruption(world, system, CorruptionConfig(), run.config().seed)


def curve(world: World, system: System, run: RunDir) -> dict[str, Any]:
    """See ``measure_curve``: beside exact kNN, the oracle, and what the gate found best without memory."""
    config = run.config()
    budget = config.evaluation.budget(config.seed)
    best = json.loads(run.gate.read_text(encoding="utf-8"))["best_no_memory"]
    return measure_curve(
        with_bodies(world, "curve"),
        system,
        world.batch("test", config.evaluation.sequences, generator(config.seed, "gate")),
        rivals={"knn": lambda cut: train_baselines(cut, budget, ["knn"])["knn"]},
        lines=train_baselines(world, budget, ["oracle", best] if world.spec.context_dim else [best]),
    )


def retention(world: World, system: System, run: RunDir) -> dict[str, Any]:
    """See ``measure_retention``."""
    return measure_retention(with_bodies(world, "retention"), system, RetentionConfig(), run.config().seed)


def with_bodies(world: World, name: str) -> TrajectoryWorld:
    """The world, if it has bodies whose transitions the memory holds."""
    if not isinstance(world, TrajectoryWorld):
        raise ConfigError(
            f"{name} needs a world that stores transitions, not {world.spec.name}: measure one of physics"
        )
    return world


MEASUREMENTS: dict[str, Measurement] = {"corruption": corruption, "curve": curve, "retention": retention}
"""By name: (world, system whose memory holds the test worlds, run) to plain values."""


def measure_run(name: str, path: Path, console: Console) -> dict[str, Any]:
    """Load a run's newest checkpoint and measure it.

    Raises:
        ConfigError: there is no such measurement, or the world does not allow it.
        CheckpointError: the run cannot be used.
    """
    if name not in MEASUREMENTS:
        near = get_close_matches(name, MEASUREMENTS, n=1, cutoff=0.0)[0]
        raise ConfigError(f"measurement {name!r} is not known; nearest: {near} (of {', '.join(MEASUREMENTS)})")
    run = RunDir.open(path)
    config, checkpoint = run.config(), checkpoint_of(run, None)
    with started(config, console) as runtime:
        learner = make_learner(runtime)
        learner.load_state(load_checkpoint(checkpoint, config))
        runtime.world.populate(learner.runner.train_state.memory, "test")
        with console.status(f"measuring {name} of {run.path.name}"):
            return MEASUREMENTS[name](runtime.world, learner.system, run)
