"""The report says first what beats us."""

from html.parser import HTMLParser
from pathlib import Path

import pytest

from cluster.config.presets import change_config, load_config
from cluster.json_files import write_json
from cluster.run.report import write_report
from cluster.run.run_dir import RunDir


def gate(ours: float) -> dict:
    return {
        "world": "rules",
        "leworld": ours,
        "floor": 0.01,
        "oracle": None,
        "oracle_addresses": 0.02,
        "baselines": {"copy_last": 0.5, "linear": 0.1},
        "controls": {"zeroed": 0.6},
        "hit_top1": 0.75,
        "hit_top4": None,
        "exact_mask": None,
        "reads_per_prediction": 1.5,
        "beaten_by": ["linear"] if ours > 0.1 else [],
        "rewritten": 0.0625,
        "rewritten_ratio": {"mean": 1.25, "low": 1.125, "high": 1.375},
        "best_no_memory": "linear",
        "ratios": {"floor": {"mean": 5.5, "low": 4.5, "high": 6.5}, "oracle": None},
        "wrong_memory": {"shuffled": {"mean": 1.03, "low": 1.01, "high": 1.05}},
        "rollout": {
            "leworld": {"teacher_forced": [0.05] * 7, "free_running": [0.05, 0.2, 0.3, 0.4, 0.517, 0.6, 0.731]},
            "linear": {"teacher_forced": [0.1] * 7, "free_running": [0.1, 1, 2, 3, float("inf"), 5, 6]},
        },
    }


class Page(HTMLParser):
    """Texts and images, in order; every tag must be closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.texts: list[str] = []
        self.images: list[str] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        if tag == "img":
            self.images.append(dict(attrs)["src"] or "")
        elif tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if data.strip():
            self.texts.append(data.strip())


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    return RunDir.create(change_config(load_config("tiny"), [f"output.dir={tmp_path}"]))


def write(run: RunDir, ours: float) -> Page:
    process = {"name": "BLM <learner>", "pid": 1, "peak_rss_bytes": 3 << 20}
    write_json(run.timing, {"phases": {"joint": {"steps": 2, "seconds": 1.25, "processes": [process]}}, "start_s": 3})
    run.metrics.write_text('{"phase": "joint", "step": 1, "loss": 0.5}\n{"phase": "joint", "step": 2, "loss": 0.25}\n')
    write_report(run, run.config(), gate(ours))
    return Page(run.report.read_text())


def test_a_baseline_that_wins_comes_first(run: RunDir):
    page = write(run, 0.2)
    first = next(text for text in page.texts if "linear" in text)
    assert first.startswith("Beaten by linear")
    assert page.texts.index(first) < page.texts.index("Errors on held-out worlds")


def test_a_page_is_whole(run: RunDir):
    page = write(run, 0.05)
    assert page.open == []
    assert page.images == ["pictures/gate.png", "pictures/rollouts.png", "pictures/training.png"]
    assert all((run.path / image).stat().st_size > 1000 for image in page.images)
    for text in ("copy last", "0.05", "10", "75", "BLM <learner> 3 MiB", "1.2"):
        assert any(text in found for found in page.texts), text


def test_a_run_without_steps_has_no_curves(run: RunDir):
    write_report(run, run.config(), gate(0.05))
    assert Page(run.report.read_text()).images == ["pictures/gate.png", "pictures/rollouts.png"]


def test_ratios_say_what_is_over_what_and_leave_out_what_is_not_known(run: RunDir):
    texts = write(run, 0.05).texts
    for label, value in (
        ("LeWorld / floor", "5.5 [4.5, 6.5]"),
        ("shuffled memory / best without memory", "1.03 [1.01, 1.05]"),
        ("memory rewritten / before", "1.25 [1.12, 1.38]"),
    ):
        assert texts[texts.index(label) + 1] == value
    assert "LeWorld / oracle" not in texts
    assert any(text.startswith("Without memory, linear is best.") for text in texts)


def test_rollouts_show_a_few_steps_of_everyone(run: RunDir):
    texts = write(run, 0.05).texts
    start = texts.index("Error by step")
    shown = texts[start + 1 : start + 5 + 4 * 5 + 1]
    assert shown[:5] == ["name", "states", "step 1", "step 5", "step 7"]
    assert shown[5:10] == ["leworld", "free running", "0.05", "0.517", "0.731"]
    assert shown[10:15] == ["linear", "free running", "0.1", "inf", "6"]
    assert shown[15:20] == ["leworld", "teacher forced", "0.05", "0.05", "0.05"]
