"""The command line: results, JSON, and errors of one line with exit code 2."""

import json
import shutil
import socket
import time
from pathlib import Path

import pytest

from cluster.cli.app import main
from cluster.run.checkpoint import load_checkpoint
from cluster.run.run_dir import RunDir
from leworld.worlds.registry import WORLDS
from tests.actors.training.systems import CHANGES

SHORT = [part for change in (*CHANGES, "cluster.mode=inline") for part in ("--set", change)]


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("out")
    assert main(["train", "--config", "tiny", *SHORT, "--out", str(out), "--json"]) == 0
    return (out / "latest").resolve()


@pytest.fixture
def copy(run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(run, tmp_path / "run"))


def complaint(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one line on standard error of a command that is refused."""
    assert main(list(arguments)) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("leworld: ")
    assert shown.err.count("\n") == 1
    return shown.err


def tree(path: Path) -> dict[str, bytes]:
    """Every file's content."""
    return {str(each.relative_to(path)): each.read_bytes() for each in path.rglob("*") if each.is_file()}


def test_train_leaves_everything(run: Path):
    for name in ("config.yaml", "metrics.jsonl", "timing.json", "gate.json", "report.html", "pictures/gate.png"):
        assert (run / name).stat().st_size > 0, name
    assert "pictures/training.png" in (run / "report.html").read_text()
    timing = json.loads((run / "timing.json").read_text())
    assert {"start_s", "evaluate_s", "phases", "driver"} <= timing.keys()


def test_json_is_all_there_is_on_standard_output(copy: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["resume", str(copy), "--checkpoint", "refine-000003", "--json"]) == 0
    outcome = json.loads(capsys.readouterr().out)
    assert outcome["run"] == str(copy)
    assert outcome["gate"] == json.loads((copy / "gate.json").read_text())


def test_resume_makes_the_same_run(run: Path, copy: Path):
    assert main(["resume", str(copy), "--checkpoint", "pretrain-000025"]) == 0
    for name in ("blm.safetensors", "slms.safetensors", "memory.lw"):
        file = Path("checkpoints") / "refine-000003" / name
        assert (copy / file).read_bytes() == (run / file).read_bytes(), name
    assert json.loads((copy / "gate.json").read_text()) == json.loads((run / "gate.json").read_text())


def test_eval_finds_what_train_found(run: Path, copy: Path, capsys: pytest.CaptureFixture[str]):
    (copy / "gate.json").unlink()
    assert main(["eval", str(copy)]) == 0
    assert json.loads((copy / "gate.json").read_text()) == json.loads((run / "gate.json").read_text())
    assert str(copy / "report.html") in capsys.readouterr().out


def test_describe_counts_the_codec_apart(capsys: pytest.CaptureFixture[str]):
    assert main(["describe", "--config", "tiny", "--json"]) == 0
    outcome = json.loads(capsys.readouterr().out)
    numbers = outcome["parameters"]
    assert numbers["codec"] == 21_024
    assert numbers["total"] == numbers["codec"] + numbers["blm"] + numbers["num_slms"] * numbers["each_slm"]
    assert outcome["world"]["num_tables"] == 3
    assert main(["describe", "--config", "tiny"]) == 0
    assert f"{numbers['total']:,}" in capsys.readouterr().out


def test_seed_preset_has_the_seeds_size(capsys: pytest.CaptureFixture[str]):
    assert main(["describe", "--config", "seed", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["parameters"]["total"] == pytest.approx(13.5e6, rel=0.03)


def test_worlds_are_listed(capsys: pytest.CaptureFixture[str]):
    assert main(["worlds", "--json"]) == 0
    assert [world["name"] for world in json.loads(capsys.readouterr().out)] == list(WORLDS)
    assert main(["worlds"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == len(WORLDS)


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["--config", "tinny"], "nearest preset: tiny"),
        (["--set", "phases.joint.read_prise=1"], "nearest known: phases.joint.read_price"),
        (["--set", "cluster.slm_actors=9"], "slm_actors 9 is above"),
        (["--set", "cluster.threads=4096"], "needs 4096 CPUs"),
        (["--set", "model.num_slms=4"], "3 tables for 4 SLMs"),
        (["--set", "world.settings.difficulty=hrad"], "difficulty"),
        (["--set", "world={name: arrays, settings: {path: nowhere.npz}}", "--config", "small"], "nowhere.npz"),
        (["--address", "here"], "is not host:port"),
        (["--bogus"], "--bogus"),
        (["--seed", "x"], "--seed"),
    ],
)
def test_bad_input_leaves_nothing(tmp_path: Path, capsys, monkeypatch, arguments: list[str], part: str):
    monkeypatch.chdir(tmp_path)
    arguments = arguments if "--config" in arguments else ["--config", "tiny", *arguments]
    assert part in complaint(capsys, "train", "--out", str(tmp_path / "out"), *arguments)
    assert list(tmp_path.iterdir()) == []


def test_an_unreachable_cluster_is_found_out_in_seconds(tmp_path: Path, capsys):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        start = time.monotonic()
        line = complaint(capsys, "train", "--config", "tiny", "--address", address, "--out", str(tmp_path / "out"))
    assert f"Ray cluster {address} cannot be reached" in line
    assert time.monotonic() - start < 5
    assert list(tmp_path.iterdir()) == []


def test_something_else_at_the_address_is_found_out(tmp_path: Path, capsys, monkeypatch):
    monkeypatch.setattr("cluster.raylink.preflight.ANSWER_S", 0.5)
    with socket.socket() as foreign:
        foreign.bind(("127.0.0.1", 0))
        foreign.listen()
        address = f"127.0.0.1:{foreign.getsockname()[1]}"
        line = complaint(capsys, "train", "--config", "tiny", "--address", address, "--out", str(tmp_path / "out"))
    assert "is no Ray cluster, though something answers" in line


@pytest.mark.parametrize("command", ["resume", "eval"])
def test_a_damaged_checkpoint_changes_nothing(copy: Path, capsys, command: str):
    file = copy / "checkpoints" / "joint-000004" / "blm.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    before = tree(copy)
    line = complaint(capsys, command, str(copy), "--checkpoint", "joint-000004", "--set", "phases.joint.steps=9")
    assert str(file) in line
    assert "--checkpoint" in line
    assert tree(copy) == before


def test_what_is_no_run_is_refused(tmp_path: Path, capsys):
    assert "give a directory that 'leworld train' made" in complaint(capsys, "resume", str(tmp_path))
    assert "no config.yaml there" in complaint(capsys, "eval", str(tmp_path / "gone"))


def test_a_run_without_checkpoints_is_refused(copy: Path, capsys):
    shutil.rmtree(copy / "checkpoints")
    assert "has no complete checkpoint" in complaint(capsys, "resume", str(copy))


def test_a_run_keeps_its_world_and_model(copy: Path, capsys):
    before = tree(copy)
    assert "are fixed" in complaint(capsys, "resume", str(copy), "--set", "world.settings.drive=0.9")
    assert tree(copy) == before


def test_more_steps_can_be_asked_of_a_run(copy: Path):
    assert main(["resume", str(copy), "--set", "phases.refine.steps=4"]) == 0
    run = RunDir.open(copy)
    assert run.records()[-1]["step"] == run.config().phases.refine.steps == 4
    newest = run.newest_checkpoint()
    assert newest is not None
    assert load_checkpoint(newest, run.config()).position.step == 4


def test_interrupt_says_how_to_go_on(tmp_path: Path, capsys, monkeypatch):
    def interrupt(*arguments, **settings):
        raise KeyboardInterrupt

    monkeypatch.setattr("cluster.run.runtimes.learn", interrupt)
    assert main(["train", "--config", "tiny", *SHORT, "--out", str(tmp_path)]) == 130
    line = capsys.readouterr().err.splitlines()[-1]
    assert line == f"leworld: interrupted; go on with: leworld resume {(tmp_path / 'latest').resolve()}"
