"""``leworld memory fork`` and ``fill``: what they print and refuse, beside a writer and through a server too."""

import json
import os
import shutil
from pathlib import Path

import pytest

from actors.memory.server import MemoryServer, ServerConfig
from leworld.store.durable_store import DurableStore
from leworld.store.forks import backfill as filling
from leworld.store.writer_lock import publish_address, withdraw_address
from tests.cluster.memory.test_cli import Serving, Shell


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    """Every test has a directory of its own, and is ada's."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LOGNAME", "ada")
    monkeypatch.delenv("LEWORLD_TOKEN", raising=False)


@pytest.fixture
def shell(capsys):
    return Shell(capsys)


@pytest.fixture
def mem(shell):
    """A memory of 2^16 words, of which three are written, and a version with one."""
    shell("create", "mem", "--bits", "16")
    shell("write", "mem", 16, 1)
    shell("version", "mem", "a")
    shell("write", "mem", 5000, 2, 3)
    return "mem"


@pytest.fixture
def idle(monkeypatch):
    """Nothing is taken over but what is written."""
    monkeypatch.setattr(filling, "PAUSE_S", 3600.0)
    return monkeypatch


def words(shell, target, *arguments):
    return shell.json("read", target, *arguments)["words"]


def names(shell, target):
    return [version["name"] for version in shell.json("versions", target)["versions"]]


def test_a_fork_is_a_memory_of_its_own(shell, mem):
    assert shell("fork", mem, "copy").startswith("copy: a fork of mem as it is now, id ")
    assert "does not hold everything yet" in shell("stat", "copy")
    shell("write", "copy", 5000, 9)
    shell("write", mem, 16, 8)
    assert (words(shell, "copy", 16), words(shell, "copy", 5000, 2)) == ([1], [9, 3])
    assert (words(shell, mem, 16), words(shell, mem, 5000, 2)) == ([8], [2, 3])
    assert shell("fill", "copy") == "copy: holds everything itself\n"
    assert shell("fill", "copy") == "copy: holds everything itself\n"
    assert names(shell, mem) == ["a"]
    shutil.rmtree(mem)
    assert shell("verify", "copy") == "all is as it was written: 2 pages, 1 record\n"
    assert "holds everything" in shell("stat", "copy")
    assert shell.json("find", "copy", 9)["addresses"] == [5000]


def test_of_a_version(shell, mem):
    made = shell.json("fork", mem, "sub/copy", "--version", "a")
    assert (made["path"], made["version"], made["address_bits"]) == ("sub/copy", "a", 16)
    assert words(shell, "sub/copy", 16) + words(shell, "sub/copy", 5000) == [1, 0]
    assert "version 'b' is not kept; those that are: a" in shell.complaint("fork", mem, "other", "--version", "b")
    assert not Path("other").exists()


def test_every_reading_command_reads_what_the_fork_does_not_hold(shell, mem, idle):
    shell("fork", mem, "copy")
    shell("write", "copy", 16, 7)
    shell("version", "copy", "b")
    shell("write", "copy", 17, 6)
    assert shell.json("find", "copy", 2)["addresses"] == [5000]
    assert shell.json("diff", "copy", "b")["words"] == [{"address": 17, "before": 0, "after": 6}]
    assert words(shell, "copy", 5000, 2, "--version", "b") == [2, 3]
    assert len(words(shell, "copy", 0, 65536)) == 65536
    assert shell.json("export", "copy", "copy.lw")["pages"] == 2
    shell("import", "whole", "copy.lw")
    assert words(shell, "whole", 0, 6000) == words(shell, "copy", 0, 6000)
    assert shell("verify", "copy") == "all is as it was written: 2 pages, 2 records\n"
    assert shell("why", "copy", 5000).splitlines()[1].startswith("not written here; this is a fork of /")
    assert shell("why", "copy", 17).splitlines()[1] == "set by  write 2"
    assert shell.json("stat", "copy")["fork"]["stage"] == "filling"
    assert shell.json("stat", mem)["forks"] == [str(Path("copy").absolute())]


def test_what_is_there_is_not_overwritten(shell, mem):
    shell("create", "other", "--bits", "8")
    assert "other: is not empty; name another directory" in shell.complaint("fork", mem, "other")
    assert names(shell, mem) == ["a"]


def test_a_version_that_a_fork_needs_stays(shell, mem, idle):
    shell("fork", mem, "copy")
    name = names(shell, mem)[-1]
    line = shell.complaint("drop", mem, name)
    assert f"version '{name}' is needed by its fork {Path('copy').absolute()}" in line
    assert "leworld memory fill" in line
    shutil.rmtree("copy")
    shell("drop", mem, name)


def test_a_parent_that_has_moved(shell, mem):
    shell("fork", mem, "copy")
    Path(mem).rename("moved")
    for command in (["read", "copy", 16], ["write", "copy", 16, 1], ["fill", "copy"]):
        line = shell.complaint(*command)
        assert f"{Path(mem).absolute()}, which cannot be read" in line
        assert "leworld memory fill copy --parent DIR" in line
    shell("create", "other", "--bits", "16")
    assert "other: is memory" in shell.complaint("fill", "copy", "--parent", "other")
    shell("fill", "copy", "--parent", "moved")
    assert words(shell, "copy", 5000) == [2]


def test_filling_what_is_no_fork(shell, mem):
    assert "mem: is no fork" in shell.complaint("fill", mem)


def test_erasing_names_the_forks(shell, mem, idle):
    shell("fork", mem, "copy")
    shell("write", "copy", 17, 4)
    shell("erase", mem, 2)
    assert f"may still hold what was erased here, and know nothing of it: {Path('copy').absolute()}" in shell.stderr
    assert words(shell, "copy", 16, 2) + words(shell, "copy", 5000) == [1, 4, 0]
    assert f"those of {Path(mem).absolute()}, from which this is a fork, are not" in shell.complaint("erase", "copy", 2)


def test_through_a_server(shell, mem):
    serving = Serving(mem)
    try:
        shell("fork", mem, "copy")
        shell("fork", mem, "old", "--version", "a")
        assert len(names(shell, mem)) == 3
        assert shell("fill", "copy") == "copy: holds everything itself\n"
        shell("write", mem, 5000, 7)
        assert words(shell, "copy", 5000) + words(shell, "old", 5000) == [2, 0]
        assert len(names(shell, mem)) == 2
        assert "is needed by its fork" in shell.complaint("drop", mem, names(shell, mem)[1])
    finally:
        serving.end()
    assert shell("fill", "old") == "old: holds everything itself\n"
    assert names(shell, mem) == ["a"]


def test_beside_a_writer_that_does_not_serve(shell, mem):
    shell("fork", mem, "copy")
    with DurableStore(mem) as store:
        assert f"in process {os.getpid()}, which does not serve it" in shell.complaint("fork", mem, "other")
        assert shell("fill", "copy").startswith("copy: holds everything itself; ")
        assert "keeps version fork-" in shell("fill", "copy")
        assert len(list(store.versions)) == 2
    assert names(shell, mem) == ["a"]
    assert json.loads(shell("fill", "copy", "--json"))["let_go"] is True


def test_a_fork_that_is_served(shell, mem, idle):
    shell("fork", mem, "copy")
    with DurableStore("copy") as store:
        assert f"is open for writing in process {os.getpid()}" in shell.complaint("fill", "copy")
        server = MemoryServer(store, ServerConfig("tcp://127.0.0.1:0")).start()
        publish_address(store.root, server.address)
        try:
            assert words(shell, server.address, 5000, 2) == [2, 3]
            assert shell.json("find", server.address, 3)["addresses"] == [5001]
            assert "does not hold everything yet" in shell("stat", server.address)
            assert shell("why", server.address, 5000).splitlines()[1].startswith("not written here")
            shell("write", "copy", 5000, 4)
            assert words(shell, "copy", 5000, 2) == [4, 3]
        finally:
            withdraw_address(store.root)
            server.stop()
