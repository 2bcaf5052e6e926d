"""Run directories: files that survive crashes, and the checkpoint to go on from."""

import json
from pathlib import Path

import pytest

from cluster.config.presets import change_config, load_config
from cluster.json_files import to_json, write_json, write_text
from cluster.run.run_dir import RunDir
from leworld.errors import CheckpointError
from leworld.training.phase_runner import Position


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    return RunDir.create(change_config(load_config("tiny"), [f"output.dir={tmp_path}"]))


def checkpoint(run: RunDir, name: str, whole: bool = True) -> Path:
    path = run.checkpoints / name
    path.mkdir()
    if whole:
        (path / "manifest.json").write_text("{}")
    return path


def test_runs_of_one_second_have_names_of_their_own(run: RunDir):
    other = RunDir.create(run.config())
    assert other.path != run.path
    latest = run.path.parent / "latest"
    assert latest.is_symlink()
    assert latest.resolve() == other.path.resolve()


def test_config_reads_back(run: RunDir):
    assert RunDir.open(run.path).config() == run.config()
    assert RunDir.open(run.path.parent / "latest").path == run.path.resolve()


def test_a_directory_without_a_run_is_refused(tmp_path: Path):
    with pytest.raises(CheckpointError, match=r"no config\.yaml there"):
        RunDir.open(tmp_path)


def test_newest_is_the_furthest_whole_checkpoint(run: RunDir):
    assert run.newest_checkpoint() is None
    checkpoint(run, "pretrain-000100")
    furthest = checkpoint(run, "joint-000002")
    checkpoint(run, "joint-000010", whole=False)
    checkpoint(run, ".joint-000020.7.tmp")
    checkpoint(run, "notes")
    assert run.newest_checkpoint() == furthest


def test_newest_is_the_chosen_one_while_it_exists(run: RunDir):
    chosen, later = checkpoint(run, "pretrain-000100"), checkpoint(run, "joint-000002")
    run.point_to(chosen)
    found = run.newest_checkpoint()
    assert found is not None
    assert found.resolve() == chosen.resolve()
    (chosen / "manifest.json").unlink()
    assert run.newest_checkpoint() == later


def test_metrics_are_cut_at_a_position_and_at_a_broken_line(run: RunDir):
    records = [{"phase": phase, "step": step} for phase in ("pretrain", "joint") for step in (1, 2, 3)]
    run.metrics.write_text("".join(to_json(record) + "\n" for record in records) + '{"phase": "joi')
    assert run.records() == records
    run.cut_metrics(Position("joint", 1))
    assert run.records() == records[:4]
    run.cut_metrics(Position("pretrain", 0))
    assert run.records() == []


def test_a_failed_write_leaves_the_old_file(tmp_path: Path):
    path = tmp_path / "file"
    write_text(path, "old")
    with pytest.raises(UnicodeEncodeError):
        write_text(path, "new \ud800")
    assert path.read_text() == "old"
    assert [each.name for each in tmp_path.iterdir()] == ["file"]


def test_json_has_no_numbers_that_json_lacks(tmp_path: Path):
    write_json(tmp_path / "a.json", {"x": [float("nan"), 1.5, float("inf")], "y": (None, "é")})
    assert json.loads((tmp_path / "a.json").read_text()) == {"x": [None, 1.5, None], "y": [None, "é"]}
