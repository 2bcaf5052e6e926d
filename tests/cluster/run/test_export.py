"""``leworld export``."""

import json

import pytest

import leworld
from cluster.cli.app import main
from cluster.config.presets import load_config
from cluster.run.run_dir import RunDir
from cluster.run.runtimes import make_learner, open_runtime
from cluster.run.training_loop import keep


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    """A run of the world ``rules`` with one checkpoint, that was never trained; an SLM joined and one left."""
    config = load_config("tiny", [f"output.dir={tmp_path_factory.mktemp('runs')}", "cluster.mode=inline"])
    found = RunDir.create(config)
    with open_runtime(config) as runtime:
        learner = make_learner(runtime)
        runtime.world.populate(runtime.memory(), "train")
        learner.runner.join(3)
        learner.runner.leave(1)
        keep(learner, found, config)
    return found


def test_a_run_is_exported_by_its_newest_checkpoint_or_another(run, tmp_path, capsys):
    assert main(["export", str(run.path), str(tmp_path / "a"), "--json"]) == 0
    outcome = json.loads(capsys.readouterr().out)
    assert outcome["checkpoint"].endswith("pretrain-000000")
    assert outcome["bytes"] == sum(file.stat().st_size for file in (tmp_path / "a").iterdir())
    assert main(["export", str(run.path), str(tmp_path / "b"), "--checkpoint", "pretrain-000000"]) == 0
    assert f'in Python: leworld.load("{tmp_path / "b"}")' in capsys.readouterr().out
    assert (tmp_path / "a" / "model.json").read_text() == (tmp_path / "b" / "model.json").read_text()


def test_a_world_without_actions_and_slms_that_joined_or_left(run, tmp_path):
    assert main(["export", str(run.path), str(tmp_path / "model")]) == 0
    model = leworld.load(tmp_path / "model")
    assert model.slms == [0, 2, 3]
    session = model.session([0.1] * 8)
    for _ in range(2):
        step = session.predict([0.5] * 8)
        assert step.next_state.shape == (8,)
        assert step.mask.shape == (3,)
    with pytest.raises(leworld.DataError, match="the memory of world rules does not hold transitions"):
        model.memory.write({})
    with pytest.raises(leworld.DataError, match=r"action has shape \(1,\): world rules needs \(0,\) here"):
        session.predict([0.5] * 8, [1.0])


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (["nowhere", "x"], "run nowhere: no config.yaml there"),
        (["RUN", "x", "--checkpoint", "joint-000009"], "no such directory"),
        (["RUN", "."], "something is there already; give a new folder or an empty one"),
    ],
)
def test_what_cannot_be_exported_is_refused(run, options, line, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").write_text("x")
    assert main(["export", *(str(run.path) if option == "RUN" else option for option in options)]) == 2
    assert line in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
