"""The Python of docs/python.md runs as it stands, on the tiny model, and what it says of itself is true."""

import re
from pathlib import Path

import numpy as np

from cluster.cli.app import main
from tests.models.tiny import single_thread

PAGE = Path(__file__).parents[2] / "docs" / "python.md"


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


def test_the_page_runs(run, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "latest").symlink_to(run.path)
    export = next(line for line in blocks("console")[0].splitlines() if "export" in line)
    assert main(export.split()[2:]) == 0
    names: dict = {}
    with single_thread():
        for block in blocks("python"):
            exec(block, names)
    assert names["path"].states.shape == (64, 12, 3)
    assert names["step"].next_state.shape == (2, 3)
    assert not np.array_equal(names["before"].next_state, names["after"].next_state)
    assert names["receipt"].written == 33
    assert "SLM 0 read 22 words at" in capsys.readouterr().out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["pendulum", "pendulum-that-knows", "runs"]
