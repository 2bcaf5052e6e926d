"""Progress follows a file that others write."""

import io
from pathlib import Path

from rich.console import Console

from cluster.json_files import to_json
from cluster.run.progress import Follower, make_bars, training_bars


def line(phase: str, step: int, **figures: float) -> str:
    return to_json({"phase": phase, "step": step, "num_steps": 5, **figures}) + "\n"


def test_bars_follow_whole_lines_only(tmp_path: Path):
    path = tmp_path / "metrics.jsonl"
    bars = make_bars(Console(file=io.StringIO()))
    tasks = {name: bars.add_task(name, total=5, figures="") for name in ("pretrain", "joint")}
    follower = Follower(path, path.with_name("events.jsonl"), bars, tasks)
    follower.read()
    path.write_text(line("pretrain", 1, loss=0.5) + line("pretrain", 2)[:-5])
    follower.read()
    assert bars.tasks[0].completed == 1
    path.write_text(line("pretrain", 1, loss=0.5) + line("pretrain", 2) + line("joint", 1, loss=0.25, hit_top1=1.0))
    follower.read()
    assert [task.completed for task in bars.tasks] == [2, 1]
    assert bars.tasks[0].fields["figures"] == "loss 0.5"
    assert bars.tasks[1].fields["figures"] == "loss 0.25  hit 1"


def test_bars_go_back_with_a_file_that_was_cut(tmp_path: Path):
    path = tmp_path / "metrics.jsonl"
    bars = make_bars(Console(file=io.StringIO()))
    follower = Follower(
        path, path.with_name("events.jsonl"), bars, {"joint": bars.add_task("joint", total=5, figures="")}
    )
    path.write_text(line("joint", 1) + line("joint", 2) + line("joint", 3))
    follower.read()
    path.write_text(line("joint", 1))
    follower.read()
    assert bars.tasks[0].completed == 1


def test_the_last_lines_are_shown_before_the_bars_close(tmp_path: Path):
    output = io.StringIO()
    path = tmp_path / "metrics.jsonl"
    with training_bars(
        path, path.with_name("events.jsonl"), {"pretrain": 0, "joint": 5, "refine": 0}, Console(file=output, width=100)
    ):
        path.write_text(line("joint", 5, loss=0.125))
    assert "5/5" in output.getvalue()
    assert "loss 0.125" in output.getvalue()
    assert "pretrain" not in output.getvalue()


def test_what_happened_is_a_line_above_the_bars_and_what_happened_before_is_not(tmp_path: Path):
    events, output = tmp_path / "events.jsonl", io.StringIO()
    events.write_text('{"what": "long ago", "done": "nothing"}\n')
    steps = {"pretrain": 0, "joint": 5, "refine": 0}
    with training_bars(tmp_path / "metrics", events, steps, Console(file=output)), events.open("a") as file:
        file.write('{"what": "SLM actor 0 [SLM 0] died", "done": "goes on"}\n')
    assert "SLM actor 0 [SLM 0] died; goes on" in output.getvalue()
    assert "long ago" not in output.getvalue()
