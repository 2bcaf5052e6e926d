"""Checkpointer: whole or refused."""

import json
import shutil
from pathlib import Path

import pytest

from actors.training.learner_process import LearnerState
from cluster.config.presets import change_config
from cluster.json_files import sha256, write_json
from cluster.run.checkpoint import FILES, MANIFEST, is_complete, load_checkpoint, save_checkpoint
from leworld.errors import CheckpointError
from tests.actors.training.systems import Small, same_bits, small


@pytest.fixture(scope="module")
def system() -> Small:
    return small("phases.pretrain.steps=2", "phases.pretrain.slm_steps=2")


@pytest.fixture(scope="module")
def state(system: Small) -> LearnerState:
    learner = system.learner()
    for progress in learner.steps():
        if progress.position.phase == "joint":
            break
    return learner.state()


@pytest.fixture(scope="module")
def saved(system: Small, state: LearnerState, tmp_path_factory) -> Path:
    return save_checkpoint(state, system.config, tmp_path_factory.mktemp("checkpoints"))


@pytest.fixture
def copy(saved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / saved.name))


def refused(path: Path, system: Small, *parts: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(path, system.config)
    assert "\n" not in str(caught.value)
    for part in parts:
        assert part in str(caught.value)


def forge(path: Path, name: str, content: bytes) -> None:
    """Replace a file and make the manifest agree."""
    (path / name).write_bytes(content)
    manifest = json.loads((path / MANIFEST).read_text())
    manifest["files"][name] = {"size": len(content), "sha256": sha256(path / name)}
    write_json(path / MANIFEST, manifest)


def test_load_inverts_save(system: Small, state: LearnerState, saved: Path):
    assert saved.name == "joint-000001"
    assert is_complete(saved)
    assert same_bits(load_checkpoint(saved, system.config), state)


def test_nothing_else_is_left_behind(saved: Path):
    assert [path.name for path in saved.parent.iterdir()] == [saved.name]
    assert sorted(path.name for path in saved.iterdir()) == sorted([*FILES, MANIFEST])


def test_saving_again_replaces(system: Small, state: LearnerState, tmp_path: Path):
    first = save_checkpoint(state, system.config, tmp_path)
    (first / "blm.safetensors").write_bytes(b"x")
    assert save_checkpoint(state, system.config, tmp_path) == first
    assert same_bits(load_checkpoint(first, system.config), state)
    assert [path.name for path in tmp_path.iterdir()] == [first.name]


@pytest.mark.parametrize("name", [*FILES, MANIFEST])
def test_truncated_files_are_named(system: Small, copy: Path, name: str):
    content = (copy / name).read_bytes()
    (copy / name).write_bytes(content[: len(content) // 2])
    refused(copy, system, name, "--checkpoint")


@pytest.mark.parametrize("name", FILES)
def test_one_flipped_bit_is_found(system: Small, copy: Path, name: str):
    content = bytearray((copy / name).read_bytes())
    content[len(content) // 2] ^= 1
    (copy / name).write_bytes(content)
    refused(copy, system, name, "was changed")


@pytest.mark.parametrize("name", [*FILES, MANIFEST])
def test_missing_files_are_named(system: Small, copy: Path, name: str):
    (copy / name).unlink()
    refused(copy, system, name, "is missing")
    assert is_complete(copy) == (name != MANIFEST)


@pytest.mark.parametrize("content", [b"", b"\x80\x04cos\nsystem\n(S'true'\ntR.", b"PK\x03\x04 torch", b"{}"])
@pytest.mark.parametrize("name", ["blm.safetensors", "slms.safetensors", "memory.lw", "state.json", "config.yaml"])
def test_foreign_files_are_refused_even_if_the_manifest_lists_them(
    system: Small, copy: Path, name: str, content: bytes
):
    forge(copy, name, content)
    refused(copy, system, str(copy / name) if name != "memory.lw" else "memory.lw")


@pytest.mark.parametrize(
    ("manifest", "part"),
    [
        ("[]", "is foreign"),
        ("{}", "format None"),
        ('{"format": 99}', "format 99, this program reads 1"),
        ('{"format": 1}', "does not list"),
        ('{"format": 1, "files": {"../../etc/passwd": {}}}', "does not list"),
    ],
)
def test_foreign_manifests_are_refused(system: Small, copy: Path, manifest: str, part: str):
    (copy / MANIFEST).write_text(manifest)
    refused(copy, system, part)


def test_manifest_entries_need_size_and_checksum(system: Small, copy: Path):
    (copy / MANIFEST).write_text(json.dumps({"format": 1, "files": {name: 3 for name in FILES}}))
    refused(copy, system, "without size or checksum")


@pytest.mark.parametrize(
    "position", [{"phase": "joint"}, {"phase": "jont", "step": 1}, {"phase": "joint", "step": -1}, 3]
)
def test_impossible_positions_are_refused(system: Small, copy: Path, position):
    state = json.loads((copy / "state.json").read_text())
    forge(copy, "state.json", json.dumps({**state, "position": position}).encode())
    refused(copy, system)


def test_another_seed_world_or_model_is_refused(system: Small, saved: Path):
    changes = {
        "seed 0": "seed=1",
        "another world": "world.settings.drive=0.5",
        "another model": "model.slm.candidates=1",
    }
    for part, change in changes.items():
        with pytest.raises(CheckpointError, match=part.replace("seed 0", "of seed 0, this run of 1")):
            load_checkpoint(saved, change_config(system.config, [change]))


def test_training_may_change_on_the_way(system: Small, state: LearnerState, saved: Path):
    changed = change_config(system.config, ["phases.joint.steps=99", "cluster.shards=4"])
    assert same_bits(load_checkpoint(saved, changed), state)


def test_a_path_that_is_no_checkpoint_is_refused(system: Small, tmp_path: Path):
    refused(tmp_path / "nothing", system, "no such directory")
    refused(tmp_path, system, MANIFEST, "is missing")
