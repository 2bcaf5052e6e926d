"""``leworld memory bench``: every row is there, nothing is left behind, and nobody's memory is changed."""

import json
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from actors.memory.server import MemoryServer, ServerConfig
from cluster.memory.speed import bench
from cluster.memory.speed.turns import ROUNDS, Sample, interleave, num_rounds, turn_of
from cluster.memory.speed.workloads import BLOCKS, Blocks, Plan
from leworld.store.durable_store import DurableStore
from tests.cluster.memory.test_cli import Shell, leworld, tree

SHORT = ("--seconds", "0.1", "--batch", "64")
READS = ["read, this process", "numpy, the same ranges", "read, 2 processes"]


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LEWORLD_TOKEN", raising=False)
    (tmp_path / "disk").mkdir()
    return tmp_path


@pytest.fixture
def shell(capsys):
    return Shell(capsys)


@pytest.fixture
def mem():
    with DurableStore.create("mem", 16) as store:
        store.write([300, 60_000], np.array([[1, 2], [3, 4]], np.uint32))
    return "mem"


def names(outcome):
    return [row["name"] for row in outcome["rows"]]


def check(outcome):
    """Figures that fit together."""
    known = {row["name"]: row for row in outcome["rows"]}
    for row in outcome["rows"]:
        assert 0 < row["p50_s"] <= row["p99_s"]
        assert row["batches"] >= ROUNDS
        if row["unit"]:
            assert len(row["rates"]) == ROUNDS
            assert row["rate"] == np.median(row["rates"])
            assert row["bytes_per_s"] == row["rate"] * 4 * outcome["settings"]["range_words"]
        if row["beside"]:
            assert row["ratio"] == np.median(np.divide(row["rates"], known[row["beside"]]["rates"]))
            assert row["ratio_quartiles"][0] <= row["ratio"] <= row["ratio_quartiles"][1]


def test_every_row_of_a_memory_that_is_made_and_gone(shell, here):
    outcome = shell.json("bench", *SHORT, "--dir", "disk", "--range-words", 100)
    check(outcome)
    assert names(outcome) == [
        *READS, "read, over the wire",
        "write always, 1 write of 32 blocks", "write always, 32 writes one after another",
        "write group, 1 write of 32 blocks", "write group, 32 writes together", "keep a version",
        "write os, 1 write of 32 blocks", "write os, 32 writes together",
        "bare disk, write and sync all at once", "bare disk, write and sync each", "bare file, write only",
        "start, open to write and first read",
    ]  # fmt: skip
    assert outcome["settings"]["range_words"] == 100
    assert (outcome["num_words"], outcome["memory"]) == (65536, "disk")
    assert shell.stderr.splitlines()[-1] == f"leworld: round {ROUNDS} of {ROUNDS}"
    assert [path.name for path in here.rglob("*")] == ["disk"]


def test_a_table_for_people(shell):
    lines = shell("bench", *SHORT, "--dir", "disk", "--policy", "os", "--bits", 8).splitlines()
    assert lines[0].startswith("a memory made for this in disk on ")
    assert ": 1.0 KiB, ranges and blocks of 256 words, " in lines[0]
    assert lines[2].split() == ["a", "second", "median", "99", "%", "beside"]
    first = next(line for line in lines if line.startswith("read, this process"))
    assert " ranges " in first
    assert first.endswith(" x numpy, the same ranges")
    assert not any("bare disk," in line or "write group" in line for line in lines)
    assert any(line.startswith("Beside the bare disk or file: ") for line in lines)


def test_a_directory_is_only_read(shell, mem):
    before = tree(Path(mem))
    outcome = shell.json("bench", mem, *SHORT)
    check(outcome)
    assert names(outcome) == [*READS, "start, open to read and first read"]
    assert outcome["num_words"] == 512
    with DurableStore(mem) as store:
        assert names(shell.json("bench", mem, *SHORT)) == names(outcome)
        assert store.sequence == 1
    after = tree(Path(mem))
    assert {name: after[name] for name in ("words", "sums", "ledger", "identity")} == {
        name: before[name] for name in ("words", "sums", "ledger", "identity")
    }


def test_a_server_is_only_read_unless_words_are_given_away(shell, mem):
    with DurableStore(mem) as store:
        server = MemoryServer(store, ServerConfig("tcp://127.0.0.1:0", {"a": "admin", "b": "bob"})).start()
        try:
            outcome = shell.json("bench", server.address, *SHORT, "--token", "a")
            check(outcome)
            assert names(outcome) == names(shell.json("bench", server.address, *SHORT, "--token", "b"))
            assert names(outcome) == ["read, over the wire"]
            assert store.sequence == 1
            assert "end after the last address" in shell.complaint(
                "bench", server.address, *SHORT, "--token", "a", "--write", 65_000
            )
            assert store.sequence == 1
            outcome = shell.json(
                "bench", server.address, *SHORT, "--token", "a", "--write", "0x1000", "--range-words", 8
            )
            check(outcome)
            assert len(outcome["rows"]) == 3
            assert store.sequence >= 1 + (ROUNDS + 1) * (1 + BLOCKS)
            address = np.flatnonzero(_words(store))
            written = address[(address != 300) & (address != 301) & (address < 60_000)]
            assert (written.min(), written.max()) == (0x1000, 0x1000 + BLOCKS * 8 - 1)
        finally:
            server.stop()


def _words(store):
    return store.read(np.arange(256) * 256, np.full(256, 256)).words


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["--bits", "12"], "address_bits 12"),
        (["--seconds", "0"], "seconds 0: give more than 0"),
        (["--range-words", "257"], "range words 257: a range has 1 to 256 words"),
        (["--batch", "0"], "batch 0: give 1 to"),
        (["--dir", "gone"], "gone: no such directory"),
        (["--write", "0"], "--write 0: overwrites words of a served memory only"),
        (["mem", "--write", "0"], "--write 0: overwrites words of a served memory only"),
        (["gone"], "gone: no such directory"),
        (["empty"], "empty: holds nothing to be read"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(shell, mem, here, arguments, part):
    DurableStore.create("empty", 8).close()
    before = tree(here)
    assert part in shell.complaint("bench", *arguments)
    assert tree(here) == before


def test_no_room_is_said_before_anything_is_written(shell, here, monkeypatch):
    monkeypatch.setattr(bench, "JOURNAL_BYTES", 1 << 60)
    assert "name another directory with --dir, or fewer --bits" in shell.complaint("bench", "--dir", "disk")
    assert not list((here / "disk").iterdir())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_leaves_nothing_behind(here, number):
    process = leworld("bench", "--dir", "disk", "--seconds", "60", start_new_session=True)
    assert process.stderr is not None
    assert process.stdout is not None
    while "warming up" not in process.stderr.readline():
        assert process.poll() is None
    time.sleep(0.7)
    children = [int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]
    assert len(children) >= 3
    process.send_signal(number)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 128 + number
    assert "Traceback" not in err
    assert not out
    assert not list((here / "disk").iterdir())
    assert not any(Path(f"/proc/{pid}").exists() for pid in children)


def test_what_ranges_are_read():
    starts = Plan(1000, 256, 500).starts()
    assert (starts.min() >= 0, starts.max() <= 744) == (True, True)
    assert starts.shape == (16, 500)
    np.save("pages.npy", np.array([3, 255]))
    starts = Plan(1 << 16, 256, 500, "pages.npy").starts()
    assert set((starts // 256).ravel().tolist()) == {3, 255}
    assert starts.max() == (1 << 16) - 256
    plan = Plan(1000, 5, 7, "pages.npy", 4)
    assert Plan.of_text(plan.text()) == plan


@pytest.mark.parametrize(("num_words", "length"), [(256, 256), (256, 100), (1 << 16, 256)])
def test_blocks_are_inside(num_words, length):
    blocks = Blocks.within(1000, num_words, length)
    assert blocks.starts.min() >= 1000
    assert blocks.starts.max() + length <= 1000 + num_words
    if num_words >= BLOCKS * length:
        assert all(len(set(row)) == BLOCKS for row in blocks.starts.tolist())


def test_turns_are_interleaved_and_ratios_are_of_the_same_round():
    calls = []
    turns = {name: lambda seconds, name=name: calls.append((name, seconds)) or Sample([1.0], [0.5]) for name in "ab"}
    found = interleave(turns, 1.0, lambda _: None)
    assert [seconds for _, seconds in calls] == [0.05] * 2 + [0.2] * 2 * ROUNDS
    assert all({first[0], second[0]} == {"a", "b"} for first, second in zip(calls[::2], calls[1::2], strict=True))
    assert found["a"] == Sample([1.0] * ROUNDS, [0.5] * ROUNDS)
    assert Sample([1, 20, 3]).against(Sample([1, 10, 1])).tolist() == [1, 2, 3]
    assert [num_rounds(seconds) for seconds in (0.1, 2, 3, 60)] == [5, 10, 15, 15]
    assert len(turn_of(lambda: 7)(0.0).times) == 1


def test_json_is_exact(shell):
    assert json.loads(shell("bench", *SHORT, "--dir", "disk", "--policy", "group", "--json"))["settings"] == {
        "bits": 16, "seconds": 0.1, "range_words": 256, "batch": 64, "policies": ["group"], "readers": 2,
        "wire_ranges": 256, "blocks": 32,
    }  # fmt: skip
