"""A model as a self-contained folder; nothing in it is unpickled.

Files::

    model.json           format number, world, sizes, and size and SHA-256 of the files below
    weights.safetensors  weights as ``blm.NAME`` and ``slm.ID.NAME``; units and the record decoder as ``world.NAME``
    memory.lw            every written page of the memory, with checksums
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from leworld.api.parts import ModelParts
from leworld.errors import CheckpointError, DataError
from leworld.files import sync
from leworld.memory import load_snapshot, save_snapshot
from leworld.models.blm import BLMConfig
from leworld.models.slm import SLMConfig
from leworld.models.system import ModelConfig
from leworld.worlds.base import WorldSpec
from leworld.worlds.transition_format import TransitionFormat

FORMAT = 1
MODEL, WEIGHTS, MEMORY = "model.json", "weights.safetensors", "memory.lw"
FILES = (WEIGHTS, MEMORY)
WAY_OUT = "export it again with 'leworld export'"
WORLD_TENSORS = ("scale", "decode")


def save_folder(parts: ModelParts, folder: Path) -> Path:
    """Write a folder; it gets its name once all of it is on disk.

    Raises:
        DataError: the folder is not empty, or is a file.
    """
    check_free(folder)
    temporary = folder.absolute().with_name(f".{folder.absolute().name}.{os.getpid()}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        _write_files(parts, temporary)
        os.rename(temporary, folder.absolute())
        sync(temporary.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder


def check_free(folder: Path) -> None:
    """Raise DataError unless the folder is absent or empty."""
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
        raise DataError(f"{folder}: something is there already; give a new folder or an empty one")


def load_folder(folder: Path) -> ModelParts:
    """Read a folder and check every byte before using any.

    Raises:
        CheckpointError: a file is missing, foreign, changed, or of another format; its name is in the message.
    """
    given = _described(folder / MODEL)
    for name in FILES:
        _verify(folder / name, given["files"][name])
    tensors = _tensors(folder / WEIGHTS)
    try:
        return _parts(given, tensors, folder)
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, CheckpointError):
            raise
        what = f"{type(error).__name__}: {error}"
        raise CheckpointError(f"{folder / MODEL} cannot be used ({what}); {WAY_OUT}") from None


def _write_files(parts: ModelParts, folder: Path) -> None:
    # ``save_file`` would make a file that other users cannot read.
    (folder / WEIGHTS).write_bytes(save(_named_tensors(parts)))
    save_snapshot(parts.memory, folder / MEMORY)
    listed = {name: {"size": (folder / name).stat().st_size, "sha256": _sha256(folder / name)} for name in FILES}
    text = json.dumps({**_plain(parts), "files": listed}, indent=1, allow_nan=False)
    (folder / MODEL).write_text(f"{text}\n", encoding="utf-8")
    for name in (*FILES, MODEL):
        sync(folder / name)


def _named_tensors(parts: ModelParts) -> dict[str, Tensor]:
    world = {name: getattr(parts.spec, name) for name in WORLD_TENSORS}
    named = {f"world.{name}": tensor for name, tensor in world.items() if tensor is not None}
    named |= {f"blm.{name}": tensor for name, tensor in parts.blm.items()}
    named |= {f"slm.{name}": tensor for name, tensor in parts.slms.items()}
    return {name: tensor.detach().cpu().contiguous().clone() for name, tensor in named.items()}


def _plain(parts: ModelParts) -> dict[str, Any]:
    spec = {
        field.name: getattr(parts.spec, field.name) for field in fields(WorldSpec) if field.name not in WORLD_TENSORS
    }
    return {
        "format": FORMAT,
        "kind": "leworld model",
        "trained_to": dict(parts.trained_to),
        "world": spec,
        "transitions": None if parts.format is None else parts.format.to_json(),
        "model": asdict(parts.config),
        "slm_ids": list(parts.slm_ids),
        "asking": parts.asking.tolist(),
    }


def _parts(given: Mapping[str, Any], tensors: Mapping[str, Tensor], folder: Path) -> ModelParts:
    def under(prefix: str) -> dict[str, Tensor]:
        return {name.removeprefix(prefix): x for name, x in tensors.items() if name.startswith(prefix)}

    world = {"decode": None, **given["world"], **under("world.")}
    model = given["model"]
    sizes = {**model, "slm": SLMConfig(**model["slm"]), "blm": BLMConfig(**model["blm"])}
    transitions = given["transitions"]
    return ModelParts(
        config=ModelConfig(**sizes),
        spec=WorldSpec(**{**world, "tag": tuple(world["tag"])}),
        format=None if transitions is None else TransitionFormat.from_json(transitions),
        slm_ids=[int(slm_id) for slm_id in given["slm_ids"]],
        asking=torch.tensor(given["asking"]),
        blm=under("blm."),
        slms=under("slm."),
        memory=load_snapshot(folder / MEMORY),
        trained_to=given["trained_to"],
    )


def _described(path: Path) -> dict[str, Any]:
    try:
        given = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read ({error}); {WAY_OUT}") from None
    if not isinstance(given, dict) or given.get("kind") != "leworld model":
        raise CheckpointError(f"{path} does not describe a LeWorld model; give a folder that 'leworld export' wrote")
    if given.get("format") != FORMAT:
        raise CheckpointError(
            f"{path} has format {given.get('format')}, this program reads {FORMAT}; use the LeWorld that wrote it"
        )
    listed = given.get("files")
    if not isinstance(listed, dict) or not all(isinstance(listed.get(name), dict) for name in FILES):
        raise CheckpointError(f"{path} does not list {' and '.join(FILES)}; {WAY_OUT}")
    return given


def _verify(path: Path, listed: Mapping[str, Any]) -> None:
    if not path.is_file():
        raise CheckpointError(f"{path} is missing; {WAY_OUT}")
    if path.stat().st_size != listed.get("size"):
        raise CheckpointError(f"{path} has {path.stat().st_size} bytes, not {listed.get('size')}; {WAY_OUT}")
    if _sha256(path) != listed.get("sha256"):
        raise CheckpointError(f"{path} was changed (its checksum differs); {WAY_OUT}")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _tensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} holds no tensors ({error}); {WAY_OUT}") from None
