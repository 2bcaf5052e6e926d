"""SLMs that join and leave a run while it trains: asked for on the command line, done between two steps."""

import json
import shutil
from pathlib import Path

import pytest

from actors.errors import ActorError
from actors.processes import own_stat
from cluster.cli.app import main
from cluster.run.checkpoint import load_checkpoint
from cluster.run.membership_changes import Change, MembershipChanges
from cluster.run.run_dir import RunDir
from cluster.run.runtimes import open_runtime
from cluster.run.training_loop import learn
from leworld.training.phase_runner import PhaseRunner, Position
from tests.actors.training.systems import CHANGES, Small, same_bits, small

INLINE = (*CHANGES, "cluster.mode=inline", "output.checkpoint_every=2")
ASKED = {("joint", 1): ["add"], ("joint", 3): ["add", "--count", "2"], ("refine", 1): ["remove", "0"]}
"""After which step a user asks for what."""


def told(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[int, dict]:
    assert main(["slm", *arguments, "--json"]) == 0
    return {row["slm"]: row for row in json.loads(capsys.readouterr().out)["slms"]}


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["slm", *arguments]) == 2
    return capsys.readouterr().err


@pytest.fixture(scope="module")
def system(tmp_path_factory) -> Small:
    return small(*INLINE, f"output.dir={tmp_path_factory.mktemp('changed')}")


def train(system: Small, run: RunDir, asked: dict[tuple[str, int], list[str]]) -> list[dict]:
    """Train what is left of a run, whose user asks meanwhile; its steps."""
    learner = system.learner()

    def ask(record: dict) -> None:
        if (words := asked.get((record["phase"], record["step"]))) is not None:
            assert main(["slm", words[0], str(run.path), *words[1:]]) == 0

    learn(learner, run, system.config, lambda: [own_stat("driver")], export=ask)
    kept = [
        {name: value for name, value in record.items() if name not in ("seconds", "meter")} for record in run.records()
    ]
    assert len(kept) == 26 + 4 + 3
    return kept


@pytest.fixture(scope="module")
def whole(system: Small) -> tuple[RunDir, list[dict]]:
    run = RunDir.create(system.config)
    return run, train(system, run, ASKED)


def final(run: RunDir):
    newest = run.newest_checkpoint()
    assert newest is not None
    assert newest.name == "refine-000003"
    return load_checkpoint(newest, run.config())


def slms_of(state) -> set[str]:
    return {name.split(".")[1] for name in state.slms if name.startswith("slm.")}


def test_they_join_and_leave_after_the_step_in_which_they_were_asked_to(whole, capsys):
    run, records = whole
    found = told(capsys, "list", str(run.path))
    assert [row["state"] for row in found.values()] == [
        "left after step 1 of refine", "from the beginning", "from the beginning", "joined after step 1 of joint",
        "joined after step 3 of joint", "joined after step 3 of joint",
    ]  # fmt: skip
    assert [slm for slm, row in found.items() if row["is_there"]] == [1, 2, 3, 4, 5]
    assert slms_of(final(run)) == {"1", "2", "3", "4", "5"}
    joint = [record for record in records if record["phase"] == "joint"]
    assert [sum(name.startswith("use_") for name in record) for record in joint] == [3, 4, 4, 6]
    events = [json.loads(line)["what"] for line in run.events.read_text().splitlines()]
    assert events == [
        "SLM 3 joins after step 1 of joint", "SLM 4 joins after step 3 of joint", "SLM 5 joins after step 3 of joint",
        "SLM 0 leaves after step 1 of refine",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "name", ["pretrain-000000", "pretrain-000026", "joint-000002", "joint-000004", "refine-000002"]
)
def test_a_run_that_goes_on_does_the_same_after_the_same_step(system: Small, whole, tmp_path: Path, name: str):
    run = RunDir(tmp_path / "run")
    shutil.copytree(whole[0].path, run.path)
    run.point_to(run.checkpoints / name)
    assert train(system, run, {}) == whole[1]
    assert same_bits(final(run), final(whole[0]))
    assert (run.path / "slms-done.jsonl").read_text() == (whole[0].path / "slms-done.jsonl").read_text()


def test_the_gate_takes_a_system_whose_slms_changed(whole, capsys):
    run, _ = whole
    changes = ["evaluation.sequences=4", "evaluation.baseline_steps=2", "evaluation.baseline_sequences=2"]
    assert main(["eval", str(run.path), *(part for change in changes for part in ("--set", change)), "--json"]) == 0
    gate = json.loads(capsys.readouterr().out)["gate"]
    assert 0 <= gate["exact_mask"] <= 1


def test_what_cannot_be_is_refused(system: Small, whole, tmp_path: Path, capsys):
    assert "has ended, and SLMs join or leave while it trains" in refused(capsys, "add", str(whole[0].path))
    assert "no config.yaml there" in refused(capsys, "list", str(tmp_path))
    run = RunDir.create(system.config)
    path = str(run.path)
    assert "SLM 3 cannot leave, there are 0, 1, 2: name one of several" in refused(capsys, "remove", path, "3")
    assert told(capsys, "add", path)[3]["state"] == "joins after its next step, or when it goes on"
    assert told(capsys, "remove", path, "3")[3]["state"] == "leaves after its next step, or when it goes on"
    assert "SLM 3 cannot leave" in refused(capsys, "remove", path, "3")
    # A number is never given twice.
    assert 4 in told(capsys, "add", path)
    for slm in ("0", "1", "2"):
        told(capsys, "remove", path, slm)
    assert "SLM 4 cannot leave, there are 4" in refused(capsys, "remove", path, "4")
    assert "1 SLMs and 1024 more are above 1024: add fewer" in refused(capsys, "add", path, "--count", "1024")


def test_a_newcomer_that_does_not_come_is_done_without(system: Small, capsys, monkeypatch):
    run, real = RunDir.create(system.config), PhaseRunner.join

    def join(trainer: PhaseRunner, slm_id: int) -> None:
        if slm_id == 3:
            raise ActorError("SLM actor of SLM 3", "did not come up in 60 s", "see that a node has room")
        real(trainer, slm_id)

    monkeypatch.setattr(PhaseRunner, "join", join)
    train(system, run, {("joint", 1): ["add", "--count", "2"]})
    capsys.readouterr()
    found = told(capsys, "list", str(run.path))
    assert found[3]["state"] == "did not join: SLM actor of SLM 3 did not come up in 60 s: see that a node has room"
    assert found[4]["state"] == "joined after step 1 of joint"
    assert slms_of(final(run)) == {"0", "1", "2", "4"}
    event = json.loads(run.events.read_text().splitlines()[0])
    assert event["done"] == "goes on without"


def test_what_is_new_waits_until_a_run_that_went_back_is_where_it_was(tmp_path: Path):
    run = RunDir(tmp_path)
    changes = MembershipChanges(run)
    assert changes.due(Position("joint", 1)) == []
    changes.ask(Change(True, 3))
    assert changes.due(Position("joint", 7)) == [(True, 3, True)]
    changes.note(Change(True, 3), Position("joint", 7), None)
    changes.ask(Change(False, 3))
    assert changes.due(Position("pretrain", 9)) == []
    assert changes.due(Position("joint", 7)) == [(True, 3, False), (False, 3, True)]
    assert changes.due(Position("refine", 1)) == [(False, 3, True)]


def test_a_line_that_is_still_being_written_is_not_read(tmp_path: Path):
    changes = MembershipChanges(RunDir(tmp_path))
    changes.ask(Change(True, 3))
    with (tmp_path / "slms-asked.jsonl").open("a") as file:
        file.write('{"joins": tr')
    assert changes.asked() == [Change(True, 3)]


def test_a_run_in_one_process_takes_them_from_the_command_line(system: Small):
    run = RunDir.create(system.config)
    MembershipChanges(run).ask(Change(True, 3))
    with open_runtime(system.config) as runtime:
        runtime.train(run)
    assert slms_of(final(run)) == {"0", "1", "2", "3"}
