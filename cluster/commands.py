"""What the commands do; each returns a value that can be printed or given out as JSON."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from actors.processes import own_stat
from cluster.checkpoint import is_complete, load_checkpoint, verify
from cluster.config import RunConfig, check_world
from cluster.evaluate import evaluate
from cluster.files import write_json
from cluster.presets import change_config
from cluster.progress import training_bars
from cluster.run_dir import RunDir
from cluster.runtime import Runtime, open_runtime
from leworld.errors import CheckpointError
from leworld.models.fleet import build_slm, num_parameters
from leworld.models.system import build_blm
from leworld.phases.trainer import PHASES, fleet_config
from leworld.worlds.base import WorldSpec
from leworld.worlds.registry import WORLDS, build_world

Outcome = dict[str, Any]


class Interrupted(Exception):
    """Ctrl-C in the middle of a run; its text says how to go on."""


def train_run(config: RunConfig, console: Console) -> Outcome:
    """Train a new run, evaluate it, and report."""
    start = time.perf_counter()
    with console.status("starting"), _closing(open_runtime(config)) as opened:
        runtime = opened()
        run = RunDir.create(config)
    return {}


def resume_run(path: Path, checkpoint: Path | None, changes: Sequence[str], console: Console) -> Outcome:
    """Go on with a run from a checkpoint of it, the newest by default."""
    return {}
