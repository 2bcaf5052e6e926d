"""What killed writers began and nobody ends is deleted when a memory is opened for writing."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from leworld.store.durable_store import DurableStore

REPOSITORY = Path(__file__).parents[2]
KILLED = """
import os, signal, sys
from leworld.store.durable_store import DurableStore

store = DurableStore(sys.argv[1])
os.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
store.create_version("a")
"""


@pytest.fixture
def root(tmp_path):
    DurableStore.create(tmp_path / "m", 8).close()
    return tmp_path / "m"


def names(directory):
    return {path.name for path in directory.iterdir()}


def test_a_writer_killed_while_it_replaced_a_file_leaves_nothing_for_good(root):
    before = names(root)
    subprocess.run([sys.executable, "-c", KILLED, root], env={**os.environ, "PYTHONPATH": str(REPOSITORY)})
    assert any(name.startswith(".versions.") for name in names(root))
    with DurableStore(root) as store:
        assert list(store.versions) == []
    assert names(root) == before


def test_what_living_processes_and_other_programs_write_stays(root):
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    stopped, thread = threading.Event(), threading.Thread(target=lambda: stopped.wait(30))
    thread.start()
    try:
        kept = {f".x.{os.getppid()}.7.tmp", f".x.{os.getpid()}.{thread.ident}.tmp", ".notes.tmp", f".x.{gone.pid}.tmp"}
        stale = [
            f".versions.{gone.pid}.7.tmp",
            f".a.b.{os.getpid()}.{threading.get_ident()}.tmp",
            f".x.{os.getpid()}.1.tmp",
        ]
        for name in (*kept, *stale):
            (root / name).touch()
        journal = root / "journal" / f".{1:020d}.log.{gone.pid}.7.tmp"
        journal.touch()
        before = names(root)
        DurableStore(root).close()
        assert before - names(root) == set(stale)
        assert not journal.exists()
    finally:
        stopped.set()
        thread.join()
