"""Load a model from an exported folder, or with the help of ``cluster`` from a run or a training state checkpoint."""

from __future__ import annotations

import os
from importlib import import_module
from pathlib import Path

from leworld.api.folder import MODEL, load_folder
from leworld.api.model import Model
from leworld.api.parts import ModelParts
from leworld.errors import CheckpointError


def load(path: str | os.PathLike[str], device: str = "cpu") -> Model:
    """Load a model.

    Args:
        path: a folder that ``leworld export`` or ``Model.save`` wrote, the directory of a run such as ``runs/latest``
            (the newest training state checkpoint is used), or the directory of a training state checkpoint.
        device: the torch device of the networks.

    Raises:
        CheckpointError: the path is none of these, or a file in it cannot be used.
        DataError: the data of a run cannot be read. An exported folder does not need them.
    """
    folder = Path(path)
    if (folder / MODEL).is_file():
        return Model(load_folder(folder), device)
    if (folder / "config.yaml").is_file():
        return Model(_load_run(folder), device)
    raise CheckpointError(
        f"{folder}: neither an exported model ({MODEL}) nor a run or checkpoint (config.yaml) is there; "
        "give a folder of 'leworld export', a run such as runs/latest, or one of its checkpoints"
    )


def _load_run(path: Path) -> ModelParts:
    """Settings of runs are YAML, which only ``cluster`` reads. It is imported for nothing else."""
    try:
        export = import_module("cluster.run.export")
    except ImportError as error:
        raise CheckpointError(
            f"{path} is a run or a checkpoint, and what reads its settings is not installed here ({error}); "
            f"export it where it is: leworld export {path} FOLDER"
        ) from None
    return export.load_run(path)
