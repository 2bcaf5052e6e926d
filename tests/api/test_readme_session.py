"""The session of the README runs as it stands, on the tiny model, and ends as it says."""

import re
from pathlib import Path

from tests.models.tiny import single_thread

README = Path(__file__).parents[2] / "README.md"


def test_the_session_runs(run, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "latest").symlink_to(run.path)
    text = README.read_text(encoding="utf-8")
    (program,) = re.findall(r"^```python\n(.*?)^```\n\n```\n", text, re.DOTALL | re.MULTILINE)
    (promised,) = re.findall(r"^```python\n.*?^```\n\n```\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    with single_thread():
        exec(program, {})
    before, after, erased, same = capsys.readouterr().out.splitlines()
    assert before == erased != after
    assert same == promised.splitlines()[-1] == "True"
    assert all(line.startswith("error ") for line in (*promised.splitlines()[:3], before, after))
