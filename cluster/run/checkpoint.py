"""Training state checkpoints: a directory each, checked in every byte, complete or absent. Nothing in one is unpickled.

Files::

    blm.safetensors   weights and optimiser state of the BLM, by name
    slms.safetensors  the same of every SLM
    memory.lw         every page that was ever written, with checksums
    config.yaml       the run's config
    state.json        format version, position, and how random numbers follow
    manifest.json     size and SHA-256 of each of the files above

No generator has a state to keep: each follows from the seed, the phase and the step (see ``leworld.rng``).
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from actors.training.learner_process import LearnerState
from cluster.config.presets import dump_config, parse_yaml
from cluster.config.run_config import RunConfig, parse_config
from cluster.json_files import sha256, write_json
from leworld.errors import CheckpointError, ConfigError, LeWorldError
from leworld.files import sync
from leworld.memory import load_snapshot, save_snapshot
from leworld.training.phase_runner import PHASES, Position

FORMAT_VERSION = 1
MANIFEST = "manifest.json"
FILES = ("blm.safetensors", "slms.safetensors", "memory.lw", "config.yaml", "state.json")
WAY_OUT = "take another with --checkpoint"


def save_checkpoint(state: LearnerState, config: RunConfig, directory: Path) -> Path:
    """Write a checkpoint; it has its name only once all of it is on the disk.

    Args:
        state: of the learner.
        config: of the run.
        directory: of the run's checkpoints.

    Returns:
        its path, ``directory / PHASE-STEP``.
    """
    path = directory / checkpoint_name(state.position)
    directory.mkdir(parents=True, exist_ok=True)
    temporary = directory / f".{path.name}.{os.getpid()}.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        _write_files(state, config, temporary)
        _put_in_place(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return path


def load_checkpoint(path: Path, config: RunConfig) -> LearnerState:
    """Read a checkpoint, checking every byte before any of it is used.

    Args:
        path: of the checkpoint.
        config: of the run that goes on from it.

    Raises:
        CheckpointError: it is missing, foreign, truncated, changed, or of another seed, world or model.
    """
    verify(path)
    _check_config(path / "config.yaml", config)
    return LearnerState(
        position=_position(path / "state.json", config.seed),
        blm=_tensors(path / "blm.safetensors"),
        slms=_tensors(path / "slms.safetensors"),
        memory=load_snapshot(path / "memory.lw"),
    )


def verify(path: Path) -> None:
    """Raise CheckpointError unless the files are those that the manifest lists, byte for byte."""
    if not path.is_dir():
        raise CheckpointError(f"checkpoint {path}: no such directory; give one of those in the run's checkpoints/")
    listed = _manifest(path / MANIFEST)
    for name in FILES:
        file, expected = path / name, listed[name]
        if not file.is_file():
            raise CheckpointError(f"checkpoint file {file} is missing; {WAY_OUT}")
        if file.stat().st_size != expected["size"]:
            size = file.stat().st_size
            raise CheckpointError(f"checkpoint file {file} has {size} bytes, not {expected['size']}; {WAY_OUT}")
        if sha256(file) != expected["sha256"]:
            raise CheckpointError(f"checkpoint file {file} was changed (its checksum differs); {WAY_OUT}")


def is_complete(path: Path) -> bool:
    """Whether a checkpoint was written to its end; its bytes are not read."""
    return path.is_dir() and (path / MANIFEST).is_file() and checkpoint_order(path) is not None


def checkpoint_name(position: Position) -> str:
    """``joint-000200``."""
    return f"{position.phase}-{position.step:06d}"


def checkpoint_order(path: Path) -> tuple[int, int] | None:
    """Where a checkpoint stands among others, by its name; None if it is not a checkpoint's."""
    phase, _, step = path.name.rpartition("-")
    return Position(phase, int(step)).order if phase in PHASES and step.isdecimal() else None


def _write_files(state: LearnerState, config: RunConfig, directory: Path) -> None:
    save_file(state.blm, directory / "blm.safetensors")
    save_file(state.slms, directory / "slms.safetensors")
    save_snapshot(state.memory, directory / "memory.lw")
    (directory / "config.yaml").write_text(dump_config(config), encoding="utf-8")
    rng = {"kind": "counter", "seed": config.seed}
    write_json(directory / "state.json", {"format": FORMAT_VERSION, "position": asdict(state.position), "rng": rng})
    for name in FILES:
        sync(directory / name)
    entries = {name: {"size": (directory / name).stat().st_size, "sha256": sha256(directory / name)} for name in FILES}
    write_json(directory / MANIFEST, {"format": FORMAT_VERSION, "files": entries})


def _put_in_place(temporary: Path, path: Path) -> None:
    """Put a checkpoint in place; a run resumed from an earlier one reaches later ones again."""
    replaced = path.with_name(f".{path.name}.{os.getpid()}.old")
    if path.exists():
        os.rename(path, replaced)
    os.rename(temporary, path)
    sync(path.parent)
    shutil.rmtree(replaced, ignore_errors=True)


def _manifest(path: Path) -> dict[str, dict[str, Any]]:
    manifest = _json(path)
    if manifest.get("format") != FORMAT_VERSION:
        raise CheckpointError(
            f"checkpoint file {path} has format {manifest.get('format')}, this program reads {FORMAT_VERSION}; "
            "use the LeWorld that wrote it"
        )
    files = manifest.get("files")
    if not isinstance(files, dict) or sorted(files) != sorted(FILES):
        raise CheckpointError(f"checkpoint file {path} does not list {', '.join(FILES)}; {WAY_OUT}")
    if not all(isinstance(entry, dict) and {"size", "sha256"} <= entry.keys() for entry in files.values()):
        raise CheckpointError(f"checkpoint file {path} lists a file without size or checksum; {WAY_OUT}")
    return files


def _check_config(path: Path, config: RunConfig) -> None:
    """Check that state and config have the same seed, world and model; training and place may differ."""
    try:
        own = parse_config(parse_yaml(path.read_text(encoding="utf-8"), str(path)))
    except (ConfigError, OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"checkpoint file {path} cannot be used ({error}); {WAY_OUT}") from None
    for name in ("world", "model"):
        if getattr(own, name) != getattr(config, name):
            raise CheckpointError(f"checkpoint file {path} is of another {name} than this run; {WAY_OUT} of this run")


def _position(path: Path, seed: int) -> Position:
    state = _json(path)
    rng, position = state.get("rng"), state.get("position")
    if not isinstance(rng, dict) or rng.get("kind") != "counter":
        raise CheckpointError(f"checkpoint file {path} does not say how random numbers follow; {WAY_OUT}")
    if rng.get("seed") != seed:
        raise CheckpointError(
            f"checkpoint file {path} is of seed {rng.get('seed')}, this run of {seed}; use a checkpoint of this run"
        )
    if not isinstance(position, dict) or not isinstance(position.get("step"), int):
        raise CheckpointError(f"checkpoint file {path} does not say where training stands; {WAY_OUT}")
    return Position(str(position.get("phase")), position["step"])


def _json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"checkpoint file {path} is missing; {WAY_OUT}") from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"checkpoint file {path} cannot be read ({error}); {WAY_OUT}") from None
    if not isinstance(value, dict):
        raise CheckpointError(f"checkpoint file {path} is foreign; {WAY_OUT}")
    return value


def _tensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (SafetensorError, OSError, LeWorldError) as error:
        raise CheckpointError(f"checkpoint file {path} holds no tensors ({error}); {WAY_OUT}") from None
