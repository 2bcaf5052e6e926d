"""Exported folders: they say all of themselves, and a wrong byte is named."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import leworld
from leworld.api.folder import FILES, MODEL
from leworld.errors import CheckpointError, DataError
from tests.api.conftest import train
from tests.models.tiny import single_thread

BARE = """
import sys
for name in ("ray", "yaml", "pydantic", "typer", "rich", "actors", "cluster", "leworld.training"):
    sys.modules[name] = None
import numpy as np, torch
torch.set_num_threads(1)
import leworld
given = dict(np.load(sys.argv[2]))
model = leworld.load(sys.argv[1])
session = model.session(given["key"])
before = session.predict(given["states"][0, 0], given["actions"][0, 0]).next_state
keys = np.stack([given["key"]] * len(given["states"]))
receipt = model.memory.write({"states": given["states"], "actions": given["actions"], "characteristics": keys})
after = session.predict(given["states"][0, 1], given["actions"][0, 1])
path = session.rollout(given["states"][0, 2], given["actions"][:, 2:6]).states
np.savez(sys.argv[3], before=before, after=after.next_state, path=path, start=receipt.start, crc=receipt.crc32)
"""


def told(model: leworld.Model, key: np.ndarray, states: np.ndarray, actions: np.ndarray) -> dict[str, np.ndarray]:
    """What ``BARE`` does, in this process."""
    session = model.session(key)
    before = session.predict(states[0, 0], actions[0, 0]).next_state
    episodes = {"states": states, "actions": actions, "characteristics": np.stack([key] * len(states))}
    receipt = model.memory.write(episodes)
    after = session.predict(states[0, 1], actions[0, 1]).next_state
    path = session.rollout(states[0, 2], actions[:, 2:6]).states
    return {"before": before, "after": after, "path": path, "start": receipt.start, "crc": np.array(receipt.crc32)}


def bare(folder: Path, tmp_path: Path, **given: np.ndarray) -> dict[str, np.ndarray]:
    """What a process without the rest of the program finds."""
    np.savez(tmp_path / "given.npz", **given)
    command = [sys.executable, "-c", BARE, str(folder), str(tmp_path / "given.npz"), str(tmp_path / "found.npz")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return dict(np.load(tmp_path / "found.npz"))


def assert_same(first: dict[str, np.ndarray], second: dict[str, np.ndarray]) -> None:
    for name, value in first.items():
        assert value.tobytes() == second[name].tobytes(), name


def test_a_bare_process_predicts_and_writes_the_same_bits(run, folder, characteristics, episodes, tmp_path):
    with single_thread():
        here = told(leworld.load(run.path), characteristics, episodes["states"], episodes["actions"])
    assert (here["before"] != here["after"]).any()
    found = bare(folder, tmp_path, key=characteristics, states=episodes["states"], actions=episodes["actions"])
    assert_same(here, found)


def test_a_folder_holds_three_files_and_no_pickle(folder):
    assert sorted(file.name for file in folder.iterdir()) == sorted([*FILES, MODEL])
    given = json.loads((folder / MODEL).read_text())
    assert given["format"] == 1
    assert given["world"]["name"] == "physics"
    assert given["trained_to"] == {"phase": "refine", "step": 2}


def test_saving_keeps_what_was_written(model, characteristics, episodes, tmp_path):
    model.memory.write(episodes)
    state, action = episodes["states"][0, 0], episodes["actions"][0, 0]
    expected = model.session(characteristics).predict(state, action).next_state
    again = leworld.load(model.save(tmp_path / "deep" / "folder"))
    assert (again.session(characteristics).predict(state, action).next_state == expected).all()
    assert again.describe() == model.describe()


def test_what_is_there_is_not_overwritten(model, tmp_path):
    full, file = tmp_path / "full", tmp_path / "file"
    full.mkdir()
    (full / "mine").write_text("x")
    file.write_text("x")
    for path in (full, file):
        with pytest.raises(DataError, match=r"something is there already; give a new folder or an empty one"):
            model.save(path)
    assert (full / "mine").read_text() == file.read_text() == "x"
    (tmp_path / "empty").mkdir()
    leworld.load(model.save(tmp_path / "empty"))
    assert not list(tmp_path.glob(".*"))


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(folder, tmp_path / "copy"))


@pytest.mark.parametrize("name", FILES)
def test_a_changed_short_or_missing_file_is_named(copy, name):
    content = bytearray((copy / name).read_bytes())
    content[len(content) // 2] ^= 1
    (copy / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=rf"copy/{name} was changed \(its checksum differs\)"):
        leworld.load(copy)
    (copy / name).write_bytes(content[:-1])
    with pytest.raises(CheckpointError, match=rf"copy/{name} has {len(content) - 1} bytes, not {len(content)}"):
        leworld.load(copy)
    (copy / name).unlink()
    with pytest.raises(CheckpointError, match=rf"copy/{name} is missing"):
        leworld.load(copy)


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (
            lambda given: given.update(format=2),
            "model.json has format 2, this program reads 1; use the LeWorld that wrote it",
        ),
        (lambda given: given.update(kind="other"), "model.json does not describe a LeWorld model"),
        (lambda given: given.pop("files"), "model.json does not list weights.safetensors and memory.lw"),
        (lambda given: given.pop("model"), "model.json cannot be used (KeyError: 'model')"),
        (lambda given: given["world"].update(colour=1), "model.json cannot be used (TypeError"),
        (lambda given: given["model"]["blm"].update(d_model=64), "of the BLM has shape"),
        (lambda given: given["slm_ids"].append(7), "shape"),
    ],
)
def test_a_description_that_is_not_right_is_refused(copy, change, line):
    given = json.loads((copy / MODEL).read_text())
    change(given)
    (copy / MODEL).write_text(json.dumps(given))
    with pytest.raises(CheckpointError) as error:
        leworld.load(copy)
    assert line in str(error.value)


def test_a_description_that_is_no_json_is_refused(copy):
    (copy / MODEL).write_text("{")
    with pytest.raises(CheckpointError, match=r"model.json cannot be read"):
        leworld.load(copy)


def test_trajectories_of_odd_units_are_written_without_their_file(tmp_path):
    random = np.random.default_rng(0)
    gain = random.uniform(0.1, 0.9, size=(8, 1, 1))
    unit, offset = np.array([1e-6, 3e5]), np.array([0.0, 1.7e9])
    actions = random.uniform(-1, 1, size=(8, 40, 1)) * 1e-7
    plain = np.cumsum(
        np.concatenate([random.normal(size=(8, 1, 2)), gain * actions * 1e7 + [0.0, 0.1]], axis=1), axis=1
    )
    keys = 300 + 40 * random.normal(size=(8, 3))
    file = tmp_path / "odd.npz"
    np.savez(file, states=plain * unit + offset, actions=actions, characteristics=keys)
    world = f"world={{name: arrays, settings: {{path: {file}, records: 9, horizon: 4, address_bits: 16}}}}"
    done = train(tmp_path / "runs", world, "phases.pretrain.steps=8", "phases.pretrain.slm_steps=8")
    new = {"key": keys.mean(0), "states": plain[:2, :21] * unit + offset, "actions": actions[:2, :20]}
    with single_thread():
        model = leworld.load(done.path)
        folder = model.save(tmp_path / "folder")
        here = told(model, new["key"], new["states"], new["actions"])
    file.unlink()
    assert_same(here, bare(folder, tmp_path, **new))
    moved = np.abs(here["before"] - new["states"][0, 1]) / unit
    assert moved.max() < 20
    first = model.memory.transitions(model.memory.read([int(here["start"][0])], [model.units.spec.read_words])[0])
    np.testing.assert_allclose((first["states"] - new["states"][0, :3]) / unit, 0, atol=0.3)
