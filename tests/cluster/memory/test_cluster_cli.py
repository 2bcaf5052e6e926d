"""``leworld memory`` on a memory of a Ray cluster: what the commands print and refuse."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from actors.memory_cluster.cluster_memory import ClusterMemory
from cluster.cli.app import main
from leworld.memory import load_snapshot

REPOSITORY = Path(__file__).parents[3]
NAME = f"cli-{os.getpid()}"
TARGET = f"ray:{NAME}"


class Shell:
    """Runs commands of ``leworld memory`` in this process."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def __call__(self, *arguments: object, code: int = 0) -> str:
        """What a command prints; with another code than 0 its one line of error."""
        assert main(["memory", *map(str, arguments)]) == code, self._capsys.readouterr()
        shown = self._capsys.readouterr()
        if code:
            assert not shown.out
            assert shown.err.startswith("leworld: ")
            assert shown.err.count("\n") == 1
            return shown.err.removeprefix("leworld: ").rstrip("\n")
        return shown.out


@pytest.fixture
def shell(capsys: pytest.CaptureFixture[str]) -> Shell:
    return Shell(capsys)


@pytest.fixture(scope="module")
def launched(ray_cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A memory of 2 shards, for all tests of this file; its folder."""
    folder = str(tmp_path_factory.mktemp("disk"))
    options = ["--bits", "24", "--shards", "2", "--together", "--folder", folder]
    assert main(["memory", "launch", NAME, *options, "--json"]) == 0
    yield folder
    main(["memory", "stop", NAME])


pytestmark = pytest.mark.ray


def test_words_are_written_read_found_and_explained(launched, shell):
    assert shell("write", TARGET, "0x100", 1, 2, 3, "0xdeadbeef").startswith(
        "write 1: 4 words at 0x000100..0x000103, crc32 1b79fcbb"
    )
    assert shell("read", TARGET, "0x100", 6).splitlines() == [
        "0x000100  00000001 00000002 00000003 deadbeef 00000000 00000000"
    ]
    assert shell("find", TARGET, "0xdeadbeef") == "0x000103  deadbeef\n"
    # 1,000 words over many stripes and both shards.
    words = np.arange(1, 1001, dtype="<u4")
    file = Path(launched) / "words.bin"
    file.write_bytes(words.tobytes())
    shell("write", TARGET, (1 << 14) - 500, "--file", file)
    found = json.loads(shell("read", TARGET, (1 << 14) - 500, 1000, "--json"))
    assert found["words"] == words.tolist()
    why = json.loads(shell("why", TARGET, "0x101", "--json"))
    assert (why["word"], why["record"]["writer"]) == (2, "admin")
    assert shell("why", TARGET, "0x101").startswith("word at 0x000101: 00000002 (2)")
    log = json.loads(shell("log", TARGET, "--json"))["records"]
    assert {record["shard"] for record in log} == {0, 1}
    assert shell("log", TARGET, "--address", "0x101").count("\n") == 2
    assert shell("verify", TARGET).startswith("all is as it was written")
    stat = shell("stat", TARGET)
    assert stat.startswith(f"memory {NAME}: 16,777,216 words (2^24) in 2 shards\n")
    assert stat.count("2 copies") == 2
    assert json.loads(shell("stat", TARGET, "--json"))["map"]["shards"] == [0, 1]


def test_versions_are_kept_compared_and_put_back_and_hold_up_a_move(launched, shell):
    shell("write", TARGET, "0x200", 1, 2)
    shell("version", TARGET, "monday")
    assert "is kept already" in shell("version", TARGET, "monday", code=2)
    shell("write", TARGET, "0x201", 7)
    assert shell("diff", TARGET, "monday").startswith("0x000201  00000002  00000007\n1 word differs")
    assert "monday" in shell("versions", TARGET)
    assert "keeps version monday, which would lack the words that move: drop it first" in shell(
        "reshard", NAME, 3, code=2
    )
    shell("rollback", TARGET, "monday")
    assert shell("read", TARGET, "0x200", 2) == "0x000200  00000001 00000002\n"
    assert shell("drop", TARGET, "monday") == "version monday is kept no longer\n"
    assert "tuesday" in shell("drop", TARGET, "tuesday", code=2)


def test_all_words_go_into_a_file_and_back(launched, shell, tmp_path):
    shell("write", TARGET, "0x300", 5)
    shell("export", TARGET, tmp_path / "notes.lw")
    shell("write", TARGET, "0x300", 6)
    shell("import", TARGET, tmp_path / "notes.lw")
    assert shell("read", TARGET, "0x300") == "0x000300  00000005\n"
    shell("create", tmp_path / "small", "--bits", 16)
    shell("export", tmp_path / "small", tmp_path / "small.lw")
    assert "address bits" in shell("import", TARGET, tmp_path / "small.lw", code=2)
    assert load_snapshot(tmp_path / "notes.lw").address_bits == 24


def test_shards_are_added_and_taken_away(launched, shell):
    shell("write", TARGET, "0x400", 9)
    before = shell("read", TARGET, 0, 1 << 15)
    assert f"memory {NAME}: 3 shards now; " in shell("reshard", NAME, 3)
    assert shell("read", TARGET, 0, 1 << 15) == before
    assert "in 3 shards" in shell("stat", TARGET)
    assert json.loads(shell("reshard", NAME, 2, "--json"))["shards"] == 2
    assert shell("read", TARGET, 0, 1 << 15) == before
    assert "greater than or equal to 1" in shell("reshard", NAME, 0, code=2)


def test_what_several_shards_cannot_do_is_refused(launched, shell):
    assert "cannot be traced to their write" in shell("erase", TARGET, 1, code=2)
    assert "everyone who reaches the cluster is admin" in shell("grant", TARGET, 0, 8, "bob", code=2)
    assert "leave out --writer" in shell("write", TARGET, 0, 1, "--writer", "bob", code=2)
    assert "leave out --as and --version" in shell("read", TARGET, 0, "--as", "bob", code=2)
    assert "leave out --as and --version" in shell("read", TARGET, 0, "--version", "monday", code=2)
    for command in (["read", TARGET, 1 << 24], ["serve", TARGET], ["fork", TARGET, f"{launched}/fork"]):
        shell(*command, code=2)


def test_a_launch_that_cannot_be_is_one_line(launched, shell, tmp_path):
    options = ["--bits", 24, "--folder", launched]
    assert "runs already with other settings (shards 2); stop it first" in shell(
        "launch", NAME, *options, "--together", code=2
    )
    assert "in 2 shards" in shell("launch", NAME, *options, "--shards", 2, "--together")
    begin = time.monotonic()
    assert "copy 1 needs a node without another copy of it, and all 1 have one" in shell(
        "launch", "other", "--folder", tmp_path, code=2
    )
    assert "give letters, digits, and _ . - between them" in shell("launch", "a/b", *options, code=2)
    assert "9" in shell("launch", "other", "--bits", 9, code=2)
    assert "the cluster has none of this name; start one with: leworld memory launch" in shell(
        "read", "ray:other", 0, code=2
    )
    assert "the cluster has none of this name" in shell("stop", "other", code=2)
    assert "the cluster has none of this name" in shell("reshard", "other", 2, code=2)
    assert time.monotonic() - begin < 60


def test_it_is_stopped_and_launched_again_with_its_files(launched, shell):
    shell("write", TARGET, "0x500", 11)
    assert shell("stop", NAME) == f"memory {NAME} is stopped; its files stay where they are\n"
    assert "the cluster has none of this name" in shell("read", TARGET, 0, code=2)
    options = ["--folder", launched, "--together"]
    assert "its files are of 2 shards and 24 bits: launch it with these" in shell(
        "launch", NAME, *options, "--bits", 24, code=2
    )
    assert "has 24 address bits, not 16" in shell("launch", NAME, *options, "--bits", 16, "--shards", 2, code=2)
    shell("launch", NAME, *options, "--bits", 24, "--shards", 2)
    assert shell("read", TARGET, "0x500") == "0x000500  0000000b\n"
    assert ClusterMemory(NAME).config.shards == 2


@pytest.mark.parametrize(
    ("command", "address", "said"),
    [
        (["read", "ray:notes", "0"], "127.0.0.1:9", "cannot be reached"),
        (["launch", "notes"], "127.0.0.1:9", "cannot be reached"),
        (["stop", "notes"], "nonsense", "is not host:port"),
    ],
)
def test_without_a_cluster_it_takes_seconds_and_a_line(command, address, said):
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "RAY_ADDRESS": address}
    done = subprocess.run(
        [sys.executable, "-m", "cluster", "memory", *command], capture_output=True, text=True, env=environment,
        timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert said in done.stderr
    assert done.stderr.count("\n") == 1
