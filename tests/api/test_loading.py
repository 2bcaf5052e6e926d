"""What ``leworld.load`` takes, and how it says that something else is there."""

import subprocess
import sys

import numpy as np
import pytest

import leworld
from leworld.errors import CheckpointError

STATE, ACTION = np.array([0.6, 0.8, -1.0]), np.array([0.5])


def test_a_run_a_checkpoint_and_a_folder_are_one_model(run, folder, characteristics):
    newest = run.newest_checkpoint()
    found = [leworld.load(path).session(characteristics).predict(STATE, ACTION) for path in (run.path, newest, folder)]
    for step in found[1:]:
        assert step.next_state.tobytes() == found[0].next_state.tobytes()


def test_an_older_checkpoint_can_be_taken(run):
    older = run.checkpoints / "pretrain-000060"
    assert leworld.load(str(older)).describe()["trained_to"] == {"phase": "pretrain", "step": 60}


def test_elsewhere_it_says_what_to_give(tmp_path):
    for path in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(CheckpointError, match=r"neither an exported model \(model.json\) nor a run or checkpoint"):
            leworld.load(path)


def test_a_run_where_the_program_is_not_installed_says_how_to_export_it(run):
    code = f"import sys; sys.modules['cluster'] = None\nimport leworld\nleworld.load({str(run.path)!r})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    last = done.stderr.splitlines()[-1]
    assert "what reads its settings is not installed here" in last
    assert f"leworld export {run.path} FOLDER" in last


def test_the_import_itself_loads_nothing():
    code = "import sys, leworld; print(*sys.modules); dir(leworld); leworld.DataError; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    first, second = (set(line.split()) for line in done.stdout.splitlines())
    assert not {"torch", "numpy", "leworld.errors"} & first
    assert "leworld.errors" in second
    assert "torch" not in second


def test_names_are_those_of_their_homes():
    from leworld.api.model import Model

    assert leworld.Model is Model
    for name in (
        "load",
        "Session",
        "ModelMemory",
        "Read",
        "PredictedStep",
        "PredictedPath",
        "WriteReceipt",
        "RangeError",
    ):
        assert getattr(leworld, name).__name__ == name
        assert name in dir(leworld)
    with pytest.raises(AttributeError, match="module 'leworld' has no attribute 'Path'"):
        _ = leworld.Path
