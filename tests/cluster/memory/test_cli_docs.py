"""``docs/memory.md`` says what happens: its sessions and programs are run, and give what stands there."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from actors.memory.server import MemoryServer, ServerConfig
from cluster.cli.app import main
from leworld.store.durable_store import DurableStore

REPOSITORY = Path(__file__).parents[3]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
VARYING = {
    r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d": "TIME",
    r"\bid [0-9a-f]{16}": "id ID",
    r"\b[\d.]+ ([KMG]i)?B\b": "SIZE",
}


@pytest.fixture
def blocks() -> dict[str, list[str]]:
    """The blocks of each language, in order."""
    found: dict[str, list[str]] = {}
    for language, text in BLOCK.findall((REPOSITORY / "docs" / "memory.md").read_text()):
        found.setdefault(language, []).append(text)
    return found


@pytest.fixture
def session(blocks, tmp_path, monkeypatch, capsys) -> list[tuple[str, str, str]]:
    """Every command of the sessions, what stands below it, and what it printed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LOGNAME", "ada")
    found = []
    for command, expected in re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", "".join(blocks["console"]), re.MULTILINE):
        main(shlex.split(command.removeprefix("leworld")))
        shown = capsys.readouterr()
        found.append((command, alike(expected), alike(shown.out + shown.err)))
    return found


def alike(text: str) -> str:
    """A text without what differs from run to run."""
    for pattern, name in VARYING.items():
        text = re.sub(pattern, name, text)
    return text


def run(program: str, *arguments: str) -> str:
    environment = {"PYTHONPATH": str(REPOSITORY), "PATH": "/usr/bin:/bin"}
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments], capture_output=True, text=True, env=environment, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_sessions_are_real(session):
    assert len(session) > 20
    for command, expected, shown in session:
        assert shown == expected, command


def test_what_is_sparse_is(tmp_path):
    text = (REPOSITORY / "docs" / "memory.md").read_text()
    rows = dict(re.findall(r"^\| `(words|sums|state)` \| (.*) \|$", text, re.MULTILINE))
    DurableStore.create(tmp_path / "m", 24).close()
    assert len(rows) == 3
    for name, row in rows.items():
        stat = (tmp_path / "m" / name).stat()
        assert (stat.st_blocks * 512 < stat.st_size) == ("sparse" in row), name


def test_the_reader_needs_nothing_of_leworld(blocks, session):
    reader = blocks["python"][2]
    assert "leworld" not in reader
    assert run(reader, "notes") == blocks["text"][2]


def test_the_python_example_runs(blocks, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run(blocks["python"][0]) == blocks["text"][0]


def test_the_client_needs_nothing_of_leworld(blocks, tmp_path):
    client = blocks["python"][1]
    assert "leworld" not in client
    with DurableStore.create(tmp_path / "memory", 16) as store:
        server = MemoryServer(store, ServerConfig("tcp://127.0.0.1:0")).start()
        try:
            assert run(client, server.address) == blocks["text"][1]
        finally:
            server.stop()
