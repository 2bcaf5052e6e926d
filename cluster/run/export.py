"""``leworld export``: a checkpoint's system as a folder that ``leworld.load`` reads by itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from actors.training.learner_process import LearnerState, members_of
from cluster.config.presets import parse_yaml
from cluster.config.run_config import RunConfig, parse_config
from cluster.run.checkpoint import is_complete, load_checkpoint
from cluster.run.commands import checkpoint_of
from cluster.run.run_dir import RunDir
from leworld.api.folder import check_free, save_folder
from leworld.api.parts import ModelParts
from leworld.training.train_state import ASKING
from leworld.worlds.registry import build_world
from leworld.worlds.trajectories import TrajectoryWorld

Outcome = dict[str, Any]


def export_run(path: Path, folder: Path, checkpoint: Path | None) -> Outcome:
    """Export a checkpoint of a run, the newest by default.

    Raises:
        CheckpointError: the run or the checkpoint cannot be used.
        DataError: the folder is not empty.
    """
    check_free(folder)
    run = RunDir.open(path)
    chosen = checkpoint_of(run, checkpoint)
    save_folder(parts_of(chosen, run.config()), folder)
    size = sum(file.stat().st_size for file in folder.iterdir())
    return {"run": str(run.path), "checkpoint": str(chosen), "folder": str(folder.absolute()), "bytes": size}


def load_run(path: Path) -> ModelParts:
    """Load the model of a run's newest checkpoint, or of a checkpoint.

    Raises:
        CheckpointError: the checkpoint cannot be used.
        DataError: the data of its world cannot be read again.
    """
    if is_complete(path):
        settings = path / "config.yaml"
        return parts_of(path, parse_config(parse_yaml(settings.read_text(encoding="utf-8"), str(settings))))
    run = RunDir.open(path)
    return parts_of(checkpoint_of(run, None), run.config())


def parts_of(checkpoint: Path, config: RunConfig) -> ModelParts:
    """The model of a checkpoint; its world is built again, for the units in which it sees states."""
    state = load_checkpoint(checkpoint, config)
    world = build_world(config.world.name, config.world.settings, config.seed)
    return ModelParts(
        config=config.model,
        spec=world.spec,
        format=world.format if isinstance(world, TrajectoryWorld) else None,
        slm_ids=members_of(state),
        asking=_asking(state, config),
        blm={name.removeprefix("model."): x for name, x in state.blm.items() if name.startswith("model.")},
        slms=_slm_weights(state),
        memory=state.memory,
        trained_to={"phase": state.position.phase, "step": state.position.step},
    )


def _asking(state: LearnerState, config: RunConfig) -> Tensor:
    """Checkpoints of before SLMs could join have none."""
    number = -1 if config.model.shortlist_size is None else config.model.shortlist_size
    return state.blm.get(ASKING, torch.tensor([number, *[0] * config.model.num_slms]))


def _slm_weights(state: LearnerState) -> dict[str, Tensor]:
    """``slm.ID.model.NAME`` as ``ID.NAME``."""
    parts = ((name.split(".", 3), tensor) for name, tensor in state.slms.items())
    return {f"{slm_id}.{name}": tensor for (_, slm_id, kind, name), tensor in parts if kind == "model"}
