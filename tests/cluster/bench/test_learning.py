"""``leworld bench``: claims, table and pictures; jobs that are kept, resumed and begun anew; expectations."""

import json
import math
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console

from cluster.bench import jobs as jobs_module
from cluster.bench.claims import Claim, Goal, Study, at_least, at_most, within
from cluster.bench.cli import parse_seeds
from cluster.bench.details import details
from cluster.bench.expected import EXPECTED, read_expected, record_expected, regressions, with_expected
from cluster.bench.jobs import Job
from cluster.bench.learning import run_learning
from cluster.bench.measure import MEASUREMENTS
from cluster.bench.measures import at, gained, least, or_zero, over, training_minutes
from cluster.bench.pictures import draw_pictures, to_dot
from cluster.bench.studies import QUICK, STUDIES, chosen
from cluster.bench.table import cells, markdown, table
from cluster.cli.app import main
from cluster.messages import Interrupted
from leworld.errors import ConfigError
from tests.actors.training.systems import CHANGES

QUIET = Console(quiet=True)
ERROR = at_most("error", at("train.gate.error"), 1.0)


def study(*claims: Claim, name: str = "one", **settings) -> Study:
    return Study(name, "tiny", claims or (ERROR,), **settings)


def results(*values: float) -> dict:
    return {"one": {seed: {"train": {"gate": {"error": value}}} for seed, value in enumerate(values)}}


def row(claim: Claim, *values: float):
    return table([study(claim)], results(*values))[0]


def test_measures_find_numbers_and_what_is_not_there_is_none():
    outcome = {"a": {"b": [1, {"c": 4}], "none": None}}
    assert at("a.b.1.c")(outcome) == 4.0
    for path in ("a.x", "a.b.7", "a.b.c", "a.none", "a.none.x", "a.b"):
        assert at(path)(outcome) is None
    assert over(at("a.b.1.c"), 2.0)(outcome) == 2.0
    assert over(at("a.b.1.c"), at("a.b.0"))(outcome) == 4.0
    assert over(at("a.x"), at("a.b.0"))(outcome) is None
    assert least(at("a.b.0"), at("a.b.1.c"))(outcome) == 1.0
    assert least(at("a.b.0"), at("a.x"))(outcome) is None
    assert [or_zero(path)(outcome) for path in ("a.b.0", "a.none", "b.none")] == [1.0, 0.0, None]


def test_details_are_means_over_seeds_a_column_a_study():
    def outcome(error: float) -> dict:
        curve = {"leworld": [{"mean": 10 * error}, {"mean": 5 * error}]}
        return {"train": {"gate": {"leworld": error, "hit_top1": 0.5}}, "curve": curve}

    assert details({"quick-rules": {0: outcome(1.0)}}) == ""
    found = details({"pendulum": {0: outcome(0.001), 1: outcome(0.003)}, "hopper": {0: outcome(0.25)}})
    rows = {line.split(" | ")[0]: line for line in found.splitlines()}
    assert rows["| seeds"] == "| seeds | 0 | 2 | 0 | 1 | 0 | 0 |"
    assert rows["| error, 1,000 x"] == "| error, 1,000 x | - | 2 [0.00348, 1.15e+03] | - | 250 | - | - |"
    assert "| 1250 |" in rows["| error with 1 records, 1,000 x"]
    assert "| error / oracle, an MLP told the true physics" not in rows


def test_minutes_of_training_are_those_of_the_phases():
    phases = {"pretrain": {"seconds": 90.0}, "joint": {"seconds": 30.0}}
    assert training_minutes({"train": {"timing": {"phases": phases, "evaluate_s": 600.0}}}) == 2
    assert training_minutes({"train": {"gate": {}}}) is None
    assert training_minutes({}) is None


def test_gain_is_a_share_of_what_right_addresses_would_save():
    gate = {"info_gain": {"mean": 0.09}, "leworld": 0.02, "oracle_addresses": 0.01}
    assert gained({"train": {"gate": gate}}) == pytest.approx(0.9)
    assert gained({"train": {"gate": {**gate, "info_gain": {"mean": -0.01}}}}) is None


@pytest.mark.parametrize(
    ("claim", "values", "status", "worst"),
    [
        (ERROR, (0.9, 1.0, 0.8), "met", 1),
        (ERROR, (0.9, 1.3, 0.95), "within interval", 1),
        (ERROR, (1.2, 1.21, 1.22), "missed", 2),
        (ERROR, (1.01,), "missed", 0),
        (at_least("error", ERROR.measure, 1.0), (0.9, 1.3, 0.95), "met", 0),
        (within("error", ERROR.measure, 0.9, 1.1), (0.95, 1.15), "met", 1),
        (within("error", ERROR.measure, 0.9, 1.1), (0.7, 0.71, 0.7), "missed", 0),
    ],
)
def test_status_and_worst_seed(claim, values, status, worst):
    found = row(claim, *values)
    assert (found.status, found.worst) == (status, worst)
    assert found.mean == pytest.approx(sum(values) / len(values))
    assert (found.low is None) == (len(values) == 1)


def test_what_was_not_measured_is_a_dash():
    found = table([study()], {})[0]
    assert cells(found) == ["one", "error", "<= 1", "-", "-", "-"]
    assert "| one | error | <= 1 | - | - | - |" in markdown([found], [0])
    assert to_dot(found) is None


def test_a_claim_may_be_less_another_study_seed_by_seed():
    claim = replace(at_least("hit", ERROR.measure, -0.01), less="two")
    outcomes = {**results(0.98, 0.99, 0.5), "two": {s: r for s, r in results(0.985, 0.99)["one"].items()}}
    found = table([study(claim)], outcomes)[0]
    assert found.values == pytest.approx({0: -0.005, 1: 0.0})
    assert found.status == "met"


def test_only_signed_figures_have_intervals_below_0():
    error, gain = row(ERROR, 0.1, 0.2, 2.0), row(at_least("gain", ERROR.measure, 0.0, signed=True), 0.1, 0.2, 2.0)
    assert error.mean == gain.mean == pytest.approx(2.3 / 3)
    assert gain.low is not None
    assert error.low is not None
    assert gain.low < 0 < error.low
    less = replace(ERROR, less="two")
    found = table([study(less)], {**results(0.1, 0.2, 2.0), "two": results(0.0, 0.0, 0.0)["one"]})[0]
    assert found.low == pytest.approx(gain.low)


def test_goals_read_as_they_are_meant():
    assert [str(goal) for goal in (Goal(high=1.1), Goal(low=0.999), Goal(0.95, 1.05))] == [
        "<= 1.1",
        ">= 0.999",
        "0.95 to 1.05",
    ]
    assert Goal(0.95, 1.05).middle == pytest.approx(1.0)


def test_pictures_are_drawn_of_what_is_there(tmp_path):
    claims = (ERROR, at_least("gain, low end", ERROR.measure, 0.0), within("reads", ERROR.measure, 0.5, 1.5))
    rows = table([study(*claims)], results(0.0, 0.9, 40.0))
    widths = [{"address_bits": b, "hit_top1": 0.9, "hit_top4": 1.0, "cost_ratio": 1 + b / 100} for b in (16, 24)]
    draw_pictures(rows, {"capacity": {0: {"capacity": {"widths": widths}}}}, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"claims.png", "capacity.png"}
    draw_pictures(table([study()], {}), {}, tmp_path / "none")


@pytest.mark.parametrize("text", ["", "x", "0", "-1", "1;2", "1,x", "²"])
def test_seeds_that_are_none_are_refused(text, capsys):
    assert main(["bench", "learning", f"--seeds={text}"]) == 2
    assert "--seeds" in capsys.readouterr().err


def test_seeds_are_a_number_or_a_list():
    assert parse_seeds("3") == (0, 1, 2)
    assert parse_seeds("4, 7,4") == (4, 7)
    assert parse_seeds("0,") == (0,)


def test_every_study_has_a_config_and_known_steps():
    for each in (*STUDIES, *QUICK):
        assert Job(each, 3, Path("unused")).config.seed == 3, each.name
        assert set(each.steps) <= {"train", "capacity", *MEASUREMENTS}, each.name
        assert len({claim.figure for claim in each.claims}) == len(each.claims), each.name
        for claim in each.claims:
            assert claim.goal.low < claim.goal.high
            assert claim.less is None or claim.less in {other.name for other in STUDIES}
    assert len({each.name for each in (*STUDIES, *QUICK)}) == len(STUDIES) + len(QUICK)


def test_only_names_studies_and_the_nearest_is_told():
    assert [each.name for each in chosen(STUDIES, ["pointers", "rules-hard"])] == ["rules-hard", "pointers"]
    with pytest.raises(ConfigError, match="nearest: pointers"):
        chosen(STUDIES, ["pointer"])


def test_list_shows_goals_and_runs_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["bench", "learning", "--list", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert [each["study"] for each in listed] == [each.name for each in STUDIES]
    assert {"figure": "MSE / floor", "goal": "<= 1.15"} in listed[3]["claims"]
    assert main(["bench", "learning", "--list", "--quick"]) == 0
    assert "quick-rules" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []


def test_recording_is_for_the_quick_ones_and_needs_seeds(capsys):
    assert main(["bench", "learning", "--record"]) == 2
    assert "add --quick" in capsys.readouterr().err
    assert main(["bench", "learning", "--record", "--quick", "--seeds", "1"]) == 2
    assert "2 or more to record" in capsys.readouterr().err


class Commands:
    """Stands in for the processes: notes their arguments, answers from a script."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.seen: list[list[str]] = []
        self.code = 0
        self.raised: BaseException | None = None
        monkeypatch.setattr(jobs_module.Runner, "_process", self._process)

    def _process(self, arguments, errors) -> tuple[int, str]:
        assert arguments[:3] == [sys.executable, "-m", "cluster"]
        assert arguments[-1] == "--json"
        self.seen.append(arguments[3:-1])
        if self.raised is not None:
            raise self.raised
        errors.write("leworld: no luck\n")
        return self.code, json.dumps({"gate": {"error": 0.5}})


@pytest.fixture
def commands(monkeypatch) -> Commands:
    return Commands(monkeypatch)


def learn(out: Path, *studies: Study, seeds=(0, 1), num_jobs: int = 1):
    return run_learning(studies or (study(),), seeds, out, num_jobs, QUIET)


def test_each_study_and_seed_is_run_once_and_the_table_is_made(tmp_path, commands):
    findings = learn(tmp_path, study(changes=("phases.joint.steps=2",)), study(name="two"), num_jobs=2)
    assert len(commands.seen) == 4
    first = next(seen for seen in commands.seen if "phases.joint.steps=2" in seen and "seed=1" in seen)
    assert first[:3] == ["train", "--config", "tiny"]
    assert first[-2:] == ["--out", str(tmp_path / "one" / "seed-1" / "runs")]
    assert "cluster.mode=inline" in first
    assert [each.values for each in findings.rows] == [{0: 0.5, 1: 0.5}] * 2
    assert not findings.failed
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["claims"][0]["status"] == "met"
    assert (tmp_path / "table.md").read_text().count("| met |") == 2
    assert (tmp_path / "claims.png").stat().st_size > 0


def test_what_is_done_is_not_run_again_but_for_another_config(tmp_path, commands):
    learn(tmp_path)
    assert learn(tmp_path).rows[0].values == {0: 0.5, 1: 0.5}
    assert len(commands.seen) == 2
    learn(tmp_path, seeds=(1, 2))
    assert len(commands.seen) == 3
    learn(tmp_path, study(changes=("phases.joint.steps=5",)))
    assert len(commands.seen) == 5
    run_learning((study(changes=("phases.joint.steps=5",)),), (0,), tmp_path, 1, QUIET, fresh=True)
    assert len(commands.seen) == 6


def test_only_some_are_run_and_the_table_keeps_the_others(tmp_path, commands):
    both = study(), study(name="two"), study(name="three")
    learn(tmp_path, *both[:2], seeds=(0,))
    findings = run_learning(both, (0,), tmp_path, 1, QUIET, only=("two",), fresh=True)
    assert len(commands.seen) == 3
    assert [(each.study, each.values) for each in findings.rows] == [("one", {0: 0.5}), ("two", {0: 0.5})]
    other = study(changes=("phases.joint.steps=5",)), both[1]
    assert [each.study for each in run_learning(other, (0,), tmp_path, 1, QUIET, only=("two",)).rows] == ["two"]
    assert len(commands.seen) == 3


def test_a_study_that_takes_long_is_run_where_it_is_named_and_then_shown(tmp_path, commands):
    both = study(), study(name="long", by_name=True)
    assert [each.study for each in learn(tmp_path, *both, seeds=(0,)).rows] == ["one"]
    assert len(commands.seen) == 1
    named = run_learning(both, (0,), tmp_path, 1, QUIET, only=("long",))
    assert [each.study for each in named.rows] == ["one", "long"]
    assert [each.study for each in learn(tmp_path, *both, seeds=(0,)).rows] == ["one", "long"]
    assert len(commands.seen) == 2


def test_another_step_is_all_that_is_run_when_it_is_added(tmp_path, commands, monkeypatch):
    learn(tmp_path, seeds=(0,))
    run = SimpleNamespace(path=Path("that/run"), newest_checkpoint=lambda: None)
    monkeypatch.setattr(Job, "run", lambda self: run)
    learn(tmp_path, study(steps=("train", "corruption")), seeds=(0,))
    assert commands.seen[1:] == [["bench", "measure", "corruption", "that/run"]]


def test_a_job_that_fails_is_named_and_the_others_go_on(tmp_path, commands):
    commands.code = 2
    findings = learn(tmp_path)
    assert len(commands.seen) == 2
    assert findings.failed[0].startswith("one, seed 0: train ended with exit code 2: leworld: no luck (more in ")
    assert findings.rows[0].status == "-"
    commands.code = 0
    assert not learn(tmp_path).failed


def test_a_study_whose_config_is_wrong_is_refused_before_anything_runs(tmp_path, commands):
    with pytest.raises(ConfigError, match=r"unknown key phases\.joint\.stepz"):
        learn(tmp_path / "out", study(), study(name="two", changes=("phases.joint.stepz=2",)))
    assert not commands.seen
    assert not (tmp_path / "out").exists()


def test_interrupt_keeps_what_is_done(tmp_path, commands):
    learn(tmp_path, seeds=(0,))
    commands.raised = KeyboardInterrupt()
    with pytest.raises(Interrupted, match="give the same command again"):
        learn(tmp_path)
    commands.raised = None
    learn(tmp_path)
    assert len(commands.seen) == 3


def test_a_real_run_is_gone_on_with_and_keeps_one_checkpoint(tmp_path):
    real = study(at_most("error", at("train.gate.leworld"), 100), changes=tuple(CHANGES))
    findings = learn(tmp_path, real, seeds=(0,))
    assert not findings.failed
    job = Job(real, 0, tmp_path / "one" / "seed-0")
    run = job.run()
    assert run is not None
    assert [path for path in run.checkpoints.iterdir() if path.is_dir()] == [run.newest_checkpoint()]
    (job.path / "train.json").unlink()
    assert job.command("train") == ["resume", str(run.path)]


@pytest.fixture
def recorded(tmp_path) -> Path:
    rows = table([study(ERROR, at_least("hit", ERROR.measure, 0.9))], results(0.5, 0.6, 0.7))
    record_expected(rows, tmp_path / "expected.json")
    return tmp_path / "expected.json"


def test_expectations_allow_one_seed_more_and_no_worse(recorded):
    record = read_expected(recorded)
    half = 4.303 * 0.1 * math.sqrt(4 / 3)
    assert record["one"]["error"] == pytest.approx({"mean": 0.6, "low": 0.6 - half, "high": 0.6 + half, "seeds": 3})
    compared = with_expected([study(ERROR, at_least("hit", ERROR.measure, 0.9))], record)
    assert compared[0].claims[0].goal == Goal(high=record["one"]["error"]["high"])
    assert compared[0].claims[1].goal == Goal(low=record["one"]["hit"]["low"])
    assert regressions(table(compared, results(0.6)), record) == []
    worse = regressions(table(compared, results(1.2)), record)
    assert worse == ["one: error is 1.2, expected <= 1.09687 (mean 0.6 of 3 seeds)"]
    assert "hit is 0.01, expected >= 0.1031" in regressions(table(compared, results(0.01)), record)[0]
    assert len(regressions(table(compared, {}), record)) == 2


def test_seeds_that_agree_still_leave_a_little_room(tmp_path):
    record_expected(table([study()], results(1.0, 1.0)), tmp_path / "expected.json")
    entry = read_expected(tmp_path / "expected.json")["one"]["error"]
    assert (entry["low"], entry["high"]) == pytest.approx((0.99, 1.01))


def test_expectations_that_are_missing_say_how_to_record(recorded, tmp_path):
    with pytest.raises(ConfigError, match="not recorded"):
        with_expected([study(name="other")], read_expected(recorded))
    with pytest.raises(ConfigError, match="--quick --record"):
        read_expected(tmp_path / "none.json")
    with pytest.raises(ConfigError, match="needs 2 seeds"):
        record_expected(table([study()], results(0.5)), recorded)


def test_a_regression_is_one_line_and_exit_code_1(tmp_path, commands, recorded, monkeypatch, capsys):
    monkeypatch.setattr("cluster.bench.studies.QUICK", (study(),))
    record = {"one": {"error": {"mean": 0.1, "low": 0.05, "high": 0.2, "seeds": 3}}}
    monkeypatch.setattr("cluster.bench.expected.read_expected", lambda: record)
    assert main(["bench", "learning", "--quick", "--out", str(tmp_path / "out"), "--json"]) == 1
    shown = capsys.readouterr()
    assert json.loads(shown.out)["claims"][0]["mean"] == 0.5
    assert shown.err.splitlines()[-1] == "leworld: one: error is 0.5, expected <= 0.2 (mean 0.1 of 3 seeds)"


def test_every_quick_figure_is_recorded():
    with_expected(QUICK, read_expected(EXPECTED))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_nothing_is_worse_than_recorded(tmp_path, capfd):
    code = main(["bench", "learning", "--quick", "--jobs", "2", "--out", str(tmp_path)])
    assert code == 0, capfd.readouterr().err
