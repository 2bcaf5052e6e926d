"""Training in one process: the files it leaves, the same bits again, and the same bits after a resume."""

import json
from pathlib import Path

import pytest

from cluster.config.presets import change_config, load_config
from cluster.config.run_config import RunConfig
from cluster.run.checkpoint import load_checkpoint
from cluster.run.run_dir import RunDir
from cluster.run.runtimes import open_runtime
from leworld.training.phase_runner import Position
from tests.actors.training.systems import CHANGES, same_bits

INLINE = (*CHANGES, "cluster.mode=inline", "output.checkpoint_every=2")
NAMES = ["pretrain-000000", "pretrain-000025", "pretrain-000026", "joint-000002", "joint-000004"]
NAMES += ["refine-000002", "refine-000003"]


def train(config: RunConfig, run: RunDir) -> RunDir:
    with open_runtime(config) as runtime:
        runtime.train(run)
    return run


def config_in(directory: Path) -> RunConfig:
    return load_config("tiny", [*INLINE, f"output.dir={directory}"])


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> RunDir:
    config = config_in(tmp_path_factory.mktemp("whole"))
    return train(config, RunDir.create(config))


def final_state(run: RunDir):
    newest = run.newest_checkpoint()
    assert newest is not None
    assert newest.name == NAMES[-1]
    return load_checkpoint(newest, run.config())


def steps(run: RunDir) -> list[dict]:
    return [
        {name: value for name, value in record.items() if name not in ("seconds", "meter")} for record in run.records()
    ]


def test_a_run_leaves_metrics_timing_and_checkpoints(whole: RunDir):
    assert sorted(path.name for path in whole.checkpoints.iterdir() if path.is_dir()) == sorted(NAMES)
    places = [(record["phase"], record["step"]) for record in whole.records()]
    expected = {"pretrain": 26, "joint": 4, "refine": 3}
    assert places == [(phase, step) for phase, count in expected.items() for step in range(1, count + 1)]
    timing = json.loads(whole.timing.read_text())["phases"]
    assert {phase: entry["steps"] for phase, entry in timing.items()} == expected
    assert all(entry["seconds"] > 0 for entry in timing.values())
    assert all(entry["processes"][0]["peak_rss_bytes"] > 1 << 20 for entry in timing.values())


def test_same_seed_same_bits(whole: RunDir, tmp_path: Path):
    config = config_in(tmp_path)
    again = train(config, RunDir.create(config))
    assert steps(again) == steps(whole)
    assert same_bits(final_state(again), final_state(whole))


def test_another_seed_other_bits(whole: RunDir, tmp_path: Path):
    config = change_config(config_in(tmp_path), ["seed=1", "phases.joint.steps=0", "phases.refine.steps=0"])
    assert steps(train(config, RunDir.create(config)))[0] != steps(whole)[0]


@pytest.mark.parametrize("name", NAMES)
def test_resume_from_any_checkpoint_gives_the_same_bits(whole: RunDir, tmp_path: Path, name: str):
    config = config_in(tmp_path)
    run = RunDir.create(config)
    # Another run's steps in the way: a resumed run must drop those that it does again.
    run.metrics.write_text(whole.metrics.read_text())
    run.point_to(whole.checkpoints / name)
    train(config, run)
    assert steps(run) == steps(whole)
    if name != NAMES[-1]:
        assert same_bits(final_state(run), final_state(whole))


def test_resume_goes_on_where_it_stood(whole: RunDir, tmp_path: Path):
    state = load_checkpoint(whole.checkpoints / "joint-000002", whole.config())
    assert state.position == Position("joint", 2)


def test_phases_without_steps_are_passed_over(tmp_path: Path):
    zero = [f"phases.{name}=0" for name in ("pretrain.steps", "pretrain.slm_steps", "joint.steps", "refine.steps")]
    config = change_config(config_in(tmp_path), zero)
    run = train(config, RunDir.create(config))
    assert run.records() == []
    assert [path.name for path in run.checkpoints.iterdir() if path.is_dir()] == [NAMES[0]]
