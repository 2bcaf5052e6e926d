"""The work of the commands; each returns a value to print or to give out as JSON."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from actors.processes import own_stat
from cluster.config.presets import change_config
from cluster.config.run_config import RunConfig, check_world
from cluster.json_files import write_json
from cluster.messages import interrupted
from cluster.placement.topology import plan
from cluster.run.checkpoint import load_checkpoint
from cluster.run.evaluate import evaluate
from cluster.run.progress import training_bars
from cluster.run.run_dir import RunDir
from cluster.run.runtimes import Runtime, open_runtime
from leworld.errors import CheckpointError, ConfigError
from leworld.models.fleet import build_slm, num_parameters
from leworld.models.system import build_blm
from leworld.training.phase_runner import PHASES, fleet_config
from leworld.worlds.base import WorldSpec
from leworld.worlds.registry import WORLDS, build_world

Outcome = dict[str, Any]


def train_run(config: RunConfig, console: Console) -> Outcome:
    """Train a new run, evaluate it and report on it.

    Args:
        config: of the run.
        console: for progress.

    Returns:
        run: its directory; checkpoint: the last; gate: what the evaluation found; timing: seconds and peak memory.
    """
    start = time.perf_counter()
    with started(config, console) as runtime:
        run = RunDir.create(config)
        write_json(run.timing, {"start_s": round(time.perf_counter() - start, 3)})
        return train_and_evaluate(runtime, run, console)


def resume_run(path: Path, checkpoint: Path | None, changes: Sequence[str], console: Console) -> Outcome:
    """Resume a run from any of its checkpoints, the newest by default; then as ``train_run``.

    Raises:
        CheckpointError: the run or the checkpoint cannot be used; nothing was changed.
        ConfigError: a change is wrong or not possible for a run that has begun.
    """
    run = RunDir.open(path)
    config = change_on_the_way(run.config(), changes)
    chosen = checkpoint_of(run, checkpoint)
    load_checkpoint(chosen, config)
    with started(config, console) as runtime:
        run.write_config(config)
        run.point_to(chosen)
        return train_and_evaluate(runtime, run, console)


def evaluate_run(path: Path, checkpoint: Path | None, changes: Sequence[str], console: Console) -> Outcome:
    """Evaluate a checkpoint of a run, the newest by default, and report on it."""
    run = RunDir.open(path)
    config = change_on_the_way(run.config(), changes)
    chosen = checkpoint_of(run, checkpoint)
    load_checkpoint(chosen, config)
    with started(config, console) as runtime:
        gate = evaluate(runtime, run, chosen, console)
    return {"run": str(run.path), "checkpoint": str(chosen), "gate": gate, "timing": run.read_timing()}


def describe(config: RunConfig) -> Outcome:
    """Describe a system's sizes, its world, and which process hosts which part."""
    world = build_world(config.world.name, config.world.settings, config.seed)
    check_world(config, world.spec)
    topology = plan(config)
    blm = build_blm(config.model, world.spec, config.seed)
    slm = build_slm(fleet_config(config.model, config.phases, config.seed), world.spec, 0)
    codec, each, whole = num_parameters(blm.codec), num_parameters(slm), num_parameters(blm)
    num_slms = config.model.num_slms
    parameters = {"codec": codec, "each_slm": each, "num_slms": num_slms, "blm": whole - codec}
    return {
        "name": config.name,
        "parameters": {**parameters, "total": whole + num_slms * each},
        "world": describe_world(world.spec),
        "topology": {"mode": config.cluster.mode, **asdict(topology)},
        "config": asdict(config),
    }


def describe_world(spec: WorldSpec) -> Outcome:
    """A world's sizes as plain values."""
    return {
        **{name: value for name, value in vars(spec).items() if name not in ("scale", "decode")},
        "scale": spec.scale.tolist(),
    }


def list_worlds() -> list[Outcome]:
    """Every world with the line that describes it."""
    return [{"name": name, "about": about} for name, (_, _, about) in WORLDS.items()]


@contextmanager
def started(config: RunConfig, console: Console) -> Iterator[Runtime]:
    """Start a runtime and show progress until it is up."""
    with ExitStack() as stack:
        with console.status(f"starting {config.name} ({config.cluster.mode})"):
            runtime = stack.enter_context(open_runtime(config))
        yield runtime


def train_and_evaluate(runtime: Runtime, run: RunDir, console: Console) -> Outcome:
    """Finish a run: train and evaluate."""
    with interrupted(f"go on with: leworld resume {run.path}"):
        with training_bars(run.metrics, run.events, phase_steps(runtime.config), console):
            runtime.train(run)
        newest = run.newest_checkpoint()
        assert newest is not None, run.path
        gate = evaluate(runtime, run, newest, console)
        timing = {**run.read_timing(), "driver": asdict(own_stat("driver"))}
        write_json(run.timing, timing)
    return {"run": str(run.path), "checkpoint": str(newest), "gate": gate, "timing": timing}


def phase_steps(config: RunConfig) -> dict[str, int]:
    """Steps of each phase."""
    phases = config.phases
    steps = {name: getattr(phases, name).steps for name in PHASES}
    return {**steps, "pretrain": max(phases.pretrain.steps, phases.pretrain.slm_steps)}


def checkpoint_of(run: RunDir, checkpoint: Path | None) -> Path:
    """Return a checkpoint by path or by its name in the run, or the newest."""
    if checkpoint is not None:
        by_name = run.checkpoints / checkpoint
        return (by_name if by_name.is_dir() else checkpoint).absolute()
    newest = run.newest_checkpoint()
    if newest is None:
        raise CheckpointError(f"run {run.path} has no complete checkpoint; train anew with 'leworld train'")
    return newest


def change_on_the_way(config: RunConfig, changes: Sequence[str]) -> RunConfig:
    """Return a run's config with changes that its state allows."""
    changed = change_config(config, changes)
    fixed = {"name": config.name, "seed": config.seed, "world": config.world, "model": config.model}
    if replace(changed, **fixed) != changed:
        raise ConfigError("name, seed, world and model of a run are fixed: train a new run with 'leworld train --set'")
    return changed
