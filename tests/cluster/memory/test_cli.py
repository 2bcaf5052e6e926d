"""``leworld memory``: what the commands print and refuse, beside a writer and through a server too."""

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from actors.memory.server import MemoryServer, ServerConfig
from cluster.cli.app import main
from cluster.memory.output import duration
from cluster.messages import say_renamed
from leworld.errors import StoreError
from leworld.memory import load_snapshot
from leworld.store.durable_store import DurableStore
from leworld.store.layout import write_map
from leworld.store.search import find

REPOSITORY = Path(__file__).parents[3]
PAGE = 256


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Every test has a directory of its own, and is ada's."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LOGNAME", "ada")
    monkeypatch.delenv("LEWORLD_TOKEN", raising=False)
    return tmp_path


@pytest.fixture
def shell(capsys: pytest.CaptureFixture[str]) -> "Shell":
    return Shell(capsys)


@pytest.fixture
def mem(shell: "Shell") -> str:
    """An empty memory of 2^16 words."""
    shell("create", "mem", "--bits", "16")
    return "mem"


class Shell:
    """Runs commands of ``leworld memory`` in this process."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys
        self.stderr = ""

    def __call__(self, *arguments: object, code: int = 0) -> str:
        """What a command prints."""
        assert main(["memory", *map(str, arguments)]) == code, self._capsys.readouterr()
        shown = self._capsys.readouterr()
        self.stderr = shown.err
        return shown.out

    def json(self, *arguments: object, code: int = 0):
        return json.loads(self(*arguments, "--json", code=code))

    def complaint(self, *arguments: object) -> str:
        """The one line of a command that is refused."""
        assert self(*arguments, code=2) == ""
        assert self.stderr.startswith("leworld: ")
        assert self.stderr.count("\n") == 1
        return self.stderr


def tree(path: Path) -> dict[str, bytes]:
    """Every file's content; of the lock and of what readers see of the writer only that they are there."""
    files = {str(each.relative_to(path)): each for each in path.rglob("*") if each.is_file()}
    return {name: b"" if Path(name).name in ("lock", "state") else file.read_bytes() for name, file in files.items()}


def leworld(*arguments: str, **settings) -> subprocess.Popen:
    """``leworld memory`` in a process of its own."""
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "cluster", "memory", *arguments], env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, **settings,
    )  # fmt: skip


class Serving:
    """A server in a process of its own."""

    def __init__(self, directory: str, *arguments: str, address: str = "tcp://127.0.0.1:0") -> None:
        self.process = leworld("serve", directory, "--address", address, "--json", *arguments)
        assert self.process.stdout is not None
        self.address = json.loads(self.process.stdout.readline())["served_at"]

    def end(self, number: int = signal.SIGINT) -> int:
        self.process.send_signal(number)
        self.process.communicate(timeout=20)
        return self.process.returncode


class TestWords:
    def test_what_is_written_is_read(self, shell, mem):
        assert shell("write", mem, 16, 1, "0x2", "0xDEADBEEF") == (
            "write 1: 3 words at 0x0010..0x0012, crc32 994b327e\n"
        )
        assert shell("read", mem, "0x10") == "0x0010  00000001\n"
        assert shell("read", mem, 15, 4) == "0x000f  00000000 00000001 00000002 deadbeef\n"

    def test_formats(self, shell, mem):
        shell("write", mem, 1, 10, 4294967295)
        assert shell("read", mem, 1, 2, "--format", "dec") == "    1          10 4294967295\n"
        assert shell("read", mem, 1, 1, "--format", "bits") == "0x0001  00000000 00000000 00000000 00001010\n"

    def test_raw_is_little_endian(self, mem, shell, monkeypatch):
        shell("write", mem, 1, 10, "0x01020304")
        out = io.TextIOWrapper(io.BytesIO())
        monkeypatch.setattr(sys, "stdout", out)
        assert main(["memory", "read", mem, "1", "2", "--format", "raw"]) == 0
        assert out.buffer.getvalue() == bytes([10, 0, 0, 0, 4, 3, 2, 1])

    def test_lines_alike_are_one(self, shell, mem):
        shell("write", mem, 1000, 1)
        lines = shell("read", mem, 0, 65536).splitlines()
        assert [line.split()[0] for line in lines] == ["0x0000", "*", "0x03e8", "0x03f0", "*", "0xffff"]
        assert shell("read", mem, 0, 8).count("\n") == 1
        assert shell("read", mem, 0, 20).splitlines()[1:] == ["*", "0x0010  " + " ".join(["00000000"] * 4)]

    def test_lines_alike_across_chunks(self, shell, mem, monkeypatch):
        shell("write", mem, 2000, 1)
        whole = shell("read", mem, 3, 5000)
        for words in (8, 64, 2000):
            monkeypatch.setattr("cluster.memory.commands.CHUNK_WORDS", words)
            assert shell("read", mem, 3, 5000) == whole

    @pytest.mark.parametrize("length", [1, 255, 256, 257, 1000, 65536])
    def test_any_length_is_one_write(self, shell, mem, length):
        words = np.random.default_rng(length).integers(0, 1 << 32, length, np.uint32)
        words.astype("<u4").tofile("words.bin")
        receipt = shell.json("write", mem, 0, "--file", "words.bin")
        assert receipt["sequence"] == 1
        assert sum(receipt["length"]) == receipt["num_words"] == length
        assert max(receipt["length"]) <= PAGE
        assert shell.json("read", mem, 0, length)["words"] == words.tolist()

    def test_standard_input(self, shell, mem, monkeypatch):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(bytes([1, 0, 0, 0, 2, 0, 0, 0]))))
        shell("write", mem, 65534, "--file", "-")
        assert shell.json("read", mem, 65534, 2)["words"] == [1, 2]

    def test_the_whole_of_32_bits(self, shell):
        shell("create", "big")
        shell("write", "big", "0xffffffff", 7)
        assert shell("find", "big", 7) == "0xffffffff  00000007\n"
        assert shell("read", "big", "0xfffffffe", 2) == "0xfffffffe  00000000 00000007\n"
        assert sum(file.stat().st_blocks for file in Path("big").rglob("*")) * 512 < 80 << 20


class TestFinding:
    def test_words_in_a_row_across_pages(self, shell, mem):
        shell("write", mem, 254, 5, 6, 7, 8)
        assert shell.json("find", mem, 6, 7)["addresses"] == [255]
        assert shell("find", mem, 6, 7, 8, 0) == "0x00ff  00000006 00000007 00000008 00000000\n"
        assert shell("find", mem, 9) == "nowhere\n"

    def test_mask(self, shell, mem):
        shell("write", mem, 5, "0xab000001", "0xab000002", "0xcd000001")
        assert shell.json("find", mem, "0xab000000", "--mask", "0xff000000")["addresses"] == [5, 6]

    def test_limit(self, shell, mem):
        shell("write", mem, 5, 1, 1, 1)
        assert shell("find", mem, 1, "--limit", 2).splitlines()[-1] == "and more: raise --limit above 2"
        assert shell.json("find", mem, 1, "--limit", 3)["more"] is False

    def test_what_was_there(self, shell, mem):
        shell("write", mem, 5, 1)
        shell("version", mem, "a")
        shell("write", mem, 5, 2)
        assert shell("find", mem, 1) == "nowhere\n"
        assert shell.json("find", mem, 1, "--version", "a")["addresses"] == [5]

    @pytest.mark.parametrize("seed", range(20))
    def test_as_looking_at_every_word(self, seed, monkeypatch):
        monkeypatch.setattr("leworld.store.search.CHUNK_WORDS", 300)
        rng = np.random.default_rng(seed)
        num_words, count = 40 * PAGE, int(rng.integers(1, 600 if seed % 2 else 4))
        words = np.zeros(num_words, np.uint32)
        pages = np.sort(rng.choice(40, rng.integers(0, 20), replace=False))
        for page in pages.tolist():
            words[page * PAGE : page * PAGE + PAGE] = rng.integers(0, 2, PAGE)
        place = int(rng.integers(0, num_words - count))
        pattern = words[place : place + count]
        windows = np.lib.stride_tricks.sliding_window_view(words, count)
        same = np.flatnonzero((windows == pattern).all(1))
        written = np.isin(np.arange(num_words) // PAGE, pages)
        near = np.lib.stride_tricks.sliding_window_view(written, count).any(1)
        found = find(lambda a, n: words[a : a + n], pages, num_words, pattern, 0xFFFFFFFF, num_words)
        assert found == same[near[same]].tolist()


class TestVersions:
    def test_keep_differ_go_back_drop(self, shell, mem):
        shell("write", mem, 0, 1, 2)
        assert shell("version", mem, "a").startswith("version a: the content after write 1, kept 20")
        shell("write", mem, 1, 9)
        assert shell("diff", mem, "a") == "0x0001  00000002  00000009\n1 word differs between a and now\n"
        assert shell("diff", mem, "now", "a").splitlines()[0] == "0x0001  00000009  00000002"
        assert shell("read", mem, 0, 2, "--version", "a") == "0x0000  00000001 00000002\n"
        shell("version", mem, "b")
        assert "that of version a again" in shell("rollback", mem, "a")
        assert shell.json("read", mem, 0, 2)["words"] == [1, 2]
        assert [version["name"] for version in shell.json("versions", mem)["versions"]] == ["a", "b"]
        assert shell("drop", mem, "a") == "version a is kept no longer\n"
        shell("rollback", mem, "b")
        assert shell.json("read", mem, 0, 2)["words"] == [1, 9]

    def test_commands_still_go_by_their_old_names(self, shell, mem):
        say_renamed.cache_clear()
        assert shell("snapshot", mem, "a").startswith("version a: the content after write 0")
        assert shell.stderr == "leworld: leworld memory snapshot is now called leworld memory version\n"
        shell("snapshot", mem, "b")
        assert shell.stderr == ""
        assert "that of version a again" in shell("restore", mem, "a")
        assert shell.stderr == "leworld: leworld memory restore is now called leworld memory rollback\n"
        names = {line.strip("│ ").split(" ")[0] for line in shell("--help").splitlines()}
        assert {"version", "rollback"} <= names
        assert not {"snapshot", "restore"} & names

    def test_a_long_difference_is_cut(self, shell, mem):
        shell("version", mem, "a")
        shell("write", mem, 0, *range(1, 31))
        assert shell("diff", mem, "a").splitlines()[-1] == (
            "30 words differ between a and now; 20 are shown, raise --limit"
        )
        assert shell.json("diff", mem, "a", "--limit", 3)["num_words"] == 30

    def test_ranges_of_a_version_may_cross_pages(self, shell, mem):
        words = np.arange(3000, dtype="<u4")
        words.tofile("words.bin")
        shell("write", mem, 100, "--file", "words.bin")
        shell("version", mem, "a")
        shell("write", mem, 100, *[0] * 50)
        assert shell.json("read", mem, 100, 3000, "--version", "a")["words"] == words.tolist()


class TestHistory:
    def test_who_wrote_what(self, shell, mem):
        shell("write", mem, 0, 1, 2)
        shell("write", mem, 1, 9, "--writer", "bob")
        rows = [line.split() for line in shell("log", mem).splitlines()]
        assert [row[0] for row in rows] == ["write", "2", "1"]
        assert rows[1][3:] == ["bob", "write", "1", "0x0001"]
        assert rows[2][3:] == ["ada", "write", "2", "0x0000..0x0001"]
        assert [record["sequence"] for record in shell.json("log", mem, "--address", 0)["records"]] == [1]
        assert shell("log", mem, "--limit", 1).splitlines()[-1] == "and older ones: raise --limit above 1"
        assert shell.json("why", mem, 1)["record"]["writer"] == "bob"
        assert "set by  write 1\n" in shell("why", mem, 0)
        assert shell("why", mem, 2) == "word at 0x0002: 00000000 (0)\nnever written\n"

    def test_nothing_was_written(self, shell, mem):
        assert shell("log", mem) == "nothing was written yet\n"
        assert shell("log", mem, "--address", 5) == "never written\n"
        assert shell("versions", mem) == "no version is kept\n"
        assert "last write        none yet\n" in shell("stat", mem)

    def test_long_writes_are_one_stretch(self, shell, mem):
        np.arange(1, 2001, dtype="<u4").tofile("words.bin")
        shell("write", mem, 10, "--file", "words.bin")
        assert shell("log", mem).splitlines()[1].split()[-2:] == ["2,000", "0x000a..0x07d9"]


class TestErasing:
    def test_receipt_and_check(self, shell, mem):
        shell("write", mem, 0, 1, 2)
        shell("version", mem, "a")
        shell("write", mem, 1, 9)
        receipt = json.loads(shell("erase", mem, 1))
        assert shell.stderr == "leworld: write 1 (2 words) is erased, by write 3\n"
        assert (receipt["erased"], receipt["start"], receipt["length"]) == (1, [0], [2])
        Path("receipt.json").write_text(json.dumps(receipt))
        assert shell("verify", mem, "--erasure", "receipt.json") == "write 1: nothing of it is left\n"
        assert shell.json("read", mem, 0, 2)["words"] == [0, 9]
        assert shell.json("read", mem, 0, 2, "--version", "a")["words"] == [0, 0]

    def test_receipt_in_a_file(self, shell, mem):
        shell("write", mem, 0, 1)
        assert shell("erase", mem, 1, "--receipt", "r.json").endswith("; receipt: r.json\n")
        assert shell.json("verify", mem, "--erasure", "r.json") == {"erased": True, "write": 1}

    def test_what_is_not_erased_is_said(self, shell, mem):
        shell("write", mem, 0, 1)
        shell("write", mem, 5, 2)
        receipt = json.loads(shell("erase", mem, 1))
        # A receipt of someone who claims to have erased the other write.
        Path("r.json").write_text(json.dumps({**receipt, "erased": 2, "start": [5]}))
        assert shell("verify", mem, "--erasure", "r.json", code=1) == "write 2: is NOT erased\n"

    def test_a_receipt_that_cannot_be_kept_erases_nothing(self, shell, mem):
        shell("write", mem, 0, 1)
        shell.complaint("erase", mem, 1, "--receipt", "no/where.json")
        assert shell.json("read", mem, 0)["words"] == [1]


class TestDamage:
    def test_is_found(self, shell, mem):
        shell("write", mem, 1000, 1)
        shell("write", mem, 0, 1)
        assert shell("verify", mem) == "all is as it was written: 2 pages, 2 records\n"
        with Path("mem/words").open("r+b") as file:
            file.seek(4000)
            file.write(b"\xff")
        assert shell("verify", mem, code=1) == "page 3 at 0x0300..0x03ff: not what was written\n1 page damaged\n"
        assert shell.json("verify", mem, code=1)["damaged"] == [3]
        assert "page 3: not what was written" in shell.complaint("read", mem, 1000)
        assert shell("read", mem, 0) == "0x0000  00000001\n"

    def test_a_snapshot_is_put_in_place_of_it(self, shell, mem):
        shell("write", mem, 1000, 1)
        shell("export", mem, "all.lw")
        shell("version", mem, "a")
        shell("write", mem, 0, 1)
        with Path("mem/words").open("r+b") as file:
            file.seek(4000)
            file.write(b"\xff")
        assert "leworld memory import DIRECTORY FILE" in shell.complaint("read", mem, 1000)
        assert "version 'a' holds it, too: drop that version first" in shell.complaint("import", mem, "all.lw")
        shell("drop", mem, "a")
        assert shell("import", mem, "all.lw") == "mem: now holds all.lw, 1 page\n"
        assert shell("verify", mem) == "all is as it was written: 1 page, 3 records\n"

    def test_of_the_journal_leaves_what_export_needs(self, shell, mem):
        shell("write", mem, 5, 1)
        shell("version", mem, "a")
        with DurableStore(mem) as store:
            for value in (2, 3):
                store.write([6], np.array([[value]], np.uint32))
        segment = Path("mem/journal/00000000000000000002.log")
        flipped = bytearray(segment.read_bytes())
        flipped[30] ^= 1
        segment.write_bytes(flipped)
        line = shell.complaint("write", mem, 6, 4)
        assert "leworld memory import NEW FILE; FILE is what leworld memory export writes of this one, if" in line
        shell("export", mem, "all.lw")
        shell("import", "new", "all.lw")
        assert shell.json("read", "new", 5, 2)["words"] == [1, 3]

    def test_of_the_journal_is_found(self, shell, mem):
        shell("version", mem, "a")
        shell("write", mem, 0, 1)
        shell("write", mem, 0, 2)
        segment = Path("mem/journal/00000000000000000001.log")
        segment.write_bytes(b"")
        assert "1 of 2 records are missing" in shell("verify", mem, code=1)


class TestRights:
    def test_what_is_anothers_reads_as_zero(self, shell, mem):
        shell("write", mem, 0, *range(1, 11))
        assert shell("grant", mem, 4, 6, "bob", "--readers", "eve,kim").splitlines()[1].split(maxsplit=2) == [
            "0x0004..0x0005", "bob", "eve, kim",
        ]  # fmt: skip
        # Only the words that are kept from the reader are hidden, not those beside them.
        assert shell.json("read", mem, 2, 6)["words"] == [3, 4, 0, 0, 7, 8]
        assert shell.json("read", mem, 2, 6, "--as", "eve")["words"] == [3, 4, 5, 6, 7, 8]
        assert shell("find", mem, 5) == "nowhere\n"
        assert shell.json("find", mem, 5, "--as", "bob")["addresses"] == [4]
        assert "not ada's to write" in shell.complaint("write", mem, 5, 1)
        shell("write", mem, 5, 1, "--writer", "bob")
        assert (
            shell("grant", mem, 4, 6, "--take-back") == "nothing is granted: everyone may read and write everything\n"
        )
        assert shell.json("read", mem, 4, 2)["words"] == [5, 1]

    def test_differences_and_versions_are_hidden_too(self, shell, mem):
        shell("write", mem, 0, 1, 2)
        shell("version", mem, "a")
        shell("write", mem, 0, 3, 4)
        shell("grant", mem, 1, 2, "bob")
        assert [row["address"] for row in shell.json("diff", mem, "a")["words"]] == [0]
        assert [row["address"] for row in shell.json("diff", mem, "a", "--as", "bob")["words"]] == [0, 1]
        assert shell.json("read", mem, 0, 2, "--version", "a")["words"] == [1, 0]

    def test_mistakes(self, shell, mem):
        shell("grant", mem, 4, 6, "bob")
        assert "[5, 9) to kim overlaps another" in shell.complaint("grant", mem, 5, 9, "kim")
        assert "those that are: [4, 6)" in shell.complaint("grant", mem, 4, 5, "--take-back")
        assert "no owner" in shell.complaint("grant", mem, 4, 6)
        assert "the stop address is above the first" in shell.complaint("grant", mem, 6, 6, "kim")


class TestFiles:
    def test_there_and_back(self, shell, mem):
        shell("write", mem, 300, 1, 2)
        shell("version", mem, "a")
        shell("write", mem, 300, 3)
        assert shell("export", mem, "now.lw").startswith("now.lw: the content after write 2, 1 page, 1.")
        shell("export", mem, "a.lw", "--version", "a")
        assert load_snapshot("a.lw").sequence == 1
        assert shell("import", "new/copy", "a.lw") == "new/copy: a memory made from a.lw, 1 page\n"
        assert shell.json("read", "new/copy", 300, 2)["words"] == [1, 2]
        shell("write", "new/copy", 9, 9)
        assert shell("import", "new/copy", "now.lw") == "new/copy: now holds now.lw, 1 page\n"
        assert shell.json("read", "new/copy", 300, 2)["words"] == [3, 2]
        assert shell.json("read", "new/copy", 9)["words"] == [0]

    def test_what_is_anothers_is_exported(self, shell, mem):
        shell("write", mem, 0, 1)
        shell("grant", mem, 0, 1, "bob")
        shell("export", mem, "all.lw")
        shell("import", "copy", "all.lw")
        assert shell.json("read", "copy", 0)["words"] == [1]

    def test_other_widths_and_other_files_are_refused(self, shell, mem):
        shell("create", "small", "--bits", "8")
        shell("export", mem, "all.lw")
        before = tree(Path("small"))
        assert "16 address bits, and small has 8" in shell.complaint("import", "small", "all.lw")
        Path("all.lw").write_bytes(Path("all.lw").read_bytes()[:-3])
        assert "all.lw" in shell.complaint("import", "small", "all.lw")
        assert "all.lw" in shell.complaint("import", "gone", "all.lw")
        assert tree(Path("small")) == before
        assert not Path("gone").exists()


class TestRuns:
    def test_the_memory_is_made_of_the_newest_checkpoint(self, shell, mem):
        shell("write", mem, 300, 1, 2)
        for name, words in (("joint-000002", 1), ("pretrain-000009", 0)):
            checkpoint = Path("run/checkpoints") / name
            checkpoint.mkdir(parents=True)
            (checkpoint / "manifest.json").touch()
            shell("write", mem, 300, words)
            shell("export", mem, checkpoint / "memory.lw")
        Path("run/config.yaml").touch()
        assert shell("read", "run", 300, 2) == "0x012c  00000001 00000002\n"
        assert shell.stderr == "leworld: run/memory: made from checkpoint joint-000002, 1 pages\n"
        shell("write", "run", 300, 7)
        assert shell.stderr == ""
        assert shell.json("read", "run/memory", 300, 2)["words"] == [7, 2]
        assert {path.name for path in Path("run").iterdir()} == {"checkpoints", "config.yaml", "memory"}

    def test_without_checkpoint_or_with_a_damaged_one(self, shell):
        checkpoint = Path("run/checkpoints/joint-000002")
        checkpoint.mkdir(parents=True)
        Path("run/config.yaml").touch()
        assert "neither a memory nor a complete checkpoint" in shell.complaint("stat", "run")
        (checkpoint / "manifest.json").touch()
        (checkpoint / "memory.lw").write_bytes(b"LEWORLD")
        assert "memory.lw" in shell.complaint("stat", "run")
        assert {path.name for path in Path("run").iterdir()} == {"checkpoints", "config.yaml"}


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["read", "mem", "65536"], "address 65536: this memory has the addresses 0 to 65535 (0xffff)"),
        (["read", "mem", "65530", "7"], "7 words from 0xfffa on end after the last address, 0xffff: at most 6"),
        (["read", "mem", "ten"], "address 'ten': a whole number is needed"),
        (["read", "mem", "0", "0"], "length 0"),
        (["read", "mem", "0", "--version", "no"], "version 'no' is not kept"),
        (["read", "mem", "0", "--format", "oct"], "--format"),
        (["write", "mem", "0", "4294967296"], "word 4294967296: 32 bits hold 0 to 4294967295"),
        (["write", "mem", "65535", "1", "2"], "2 words from 0xffff on end after the last address"),
        (["write", "mem", "0"], "no words to write"),
        (["write", "mem", "0", "1", "--file", "x"], "1 words and --file x"),
        (["write", "mem", "0", "--file", "odd"], "odd: 3 bytes are not whole words"),
        (["write", "mem", "0", "--file", "gone"], "gone: cannot be read"),
        (["write", "mem", "0", "--file", "empty"], "empty: is empty"),
        (["find", "mem", "1", "--mask", "-1"], "mask -1"),
        (["diff", "mem", "no"], "version 'no' is not kept"),
        (["rollback", "mem", "no"], "version 'no' is not kept"),
        (["drop", "mem", "no"], "version 'no' is not kept"),
        (["version", "mem", "now"], "cannot be called 'now'"),
        (["erase", "mem", "7"], "write 7 is not known"),
        (["erase", "mem", "0"], "write 0: writes are counted from 1"),
        (["verify", "mem", "--erasure", "odd"], "odd: is no receipt"),
        (["verify", "mem", "--erasure", "gone"], "gone: cannot be read"),
        (["import", "mem", "odd"], "odd: not a LeWorld snapshot"),
        (["export", "mem", "no/where"], "no/where: cannot be written"),
        (["stat", "gone"], "gone: no such directory; make a memory there with"),
        (["stat", "odd"], "odd: is a file"),
        (["stat", "."], "holds neither a memory nor a run"),
        (["stat", "http://x"], "http://x: no address"),
        (["stat", "tcp://x"], "tcp://x: no address"),
        (["create", "mem"], "holds a memory already"),
        (["create", "."], "is not empty"),
        (["create", "new", "--bits", "12"], "address_bits 12"),
        (["create", "odd/new"], "odd"),
        (["serve", "mem", "--address", "x"], "x: no address"),
        (["serve", "mem", "--address", "tcp://0.0.0.0:0"], "is open to other machines: give tokens"),
        (["serve", "mem", "--tokens", "odd"], "odd, line 1: 1 words"),
        (["serve", "mem", "--tokens", "empty"], "empty: has no tokens"),
        (["export", "tcp://127.0.0.1:1", "x"], "needs a directory"),
        (["read", "tcp://127.0.0.1:1", "0", "--as", "bob"], "--as bob"),
    ],
)
def test_bad_input_is_one_line_and_changes_nothing(shell, mem, here, arguments, part):
    shell("write", mem, 0, 1)
    Path("odd").write_text("abc")
    Path("empty").touch()
    before = tree(here)
    assert part in shell.complaint(*arguments)
    assert tree(here) == before


def test_a_memory_that_cannot_be_made_leaves_nothing(shell, here, monkeypatch):
    def refuse(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("leworld.store.mapped_memory.os.posix_fallocate", refuse)
    (here / "empty").mkdir()
    assert "o space left on device" in shell.complaint("create", "new")
    assert "o space left on device" in shell.complaint("create", "empty")
    assert [path.name for path in here.rglob("*")] == ["empty"]


def test_interrupt_is_one_line(shell, mem, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("leworld.store.directory_reader.DirectoryReader.read", interrupt)
    shell("read", mem, 0, code=130)
    assert shell.stderr == "leworld: interrupted; a write that was begun is wholly there or not at all\n"


def test_times_are_short():
    assert [duration(seconds) for seconds in (4.2, 65, 7500)] == ["4 s", "1 min", "2 h 5 min"]


def test_one_of_several_copies_is_not_written_by_itself(shell, mem):
    shell("write", mem, 0, 1)
    write_map(Path("mem/epoch"), {"epoch": 3})
    for command in (["write", mem, 0, 2], ["drop", mem, "a"], ["serve", mem]):
        assert "is one of several copies" in shell.complaint(*command)
    assert shell.json("read", mem, 0)["words"] == [1]


def test_a_full_disk_at_the_end_does_not_hide_what_was_written(shell, mem, monkeypatch):
    def refuse(*_, **__):
        raise StoreError("mem/checkpoint: not written (No space left on device): make room on that disk")

    with monkeypatch.context() as full:
        full.setattr("leworld.store.durable_store.DurableStore.checkpoint", refuse)
        assert shell("write", mem, 0, 1).startswith("write 1: 1 word")
    assert shell.stderr.endswith("make room on that disk; what was done is kept\n")
    assert shell.json("read", mem, 0)["words"] == [1]


class TestBesideAWriter:
    """Another process has the memory open: here this one, as locks are of open files."""

    def test_reading_goes_on(self, shell, mem):
        shell("write", mem, 0, 1, 2)
        with DurableStore(mem, writer="bob") as store:
            store.create_version("a")
            store.write(np.array([1]), np.array([[9]], np.uint32))
            assert shell.json("read", mem, 0, 2)["words"] == [1, 9]
            assert shell.json("read", mem, 0, 2, "--version", "a")["words"] == [1, 2]
            assert shell.json("find", mem, 9)["addresses"] == [1]
            assert shell.json("diff", mem, "a")["num_words"] == 1
            assert [record["writer"] for record in shell.json("log", mem)["records"]] == ["bob", "ada"]
            assert shell.json("why", mem, 1)["record"]["writer"] == "bob"
            assert [version["name"] for version in shell.json("versions", mem)["versions"]] == ["a"]
            assert shell.json("stat", mem)["writer_pid"] == os.getpid()
            assert shell("verify", mem) == "all is as it was written: 1 page, 2 records\n"
            Path("r.json").write_text(json.dumps(_plain(store.eraser.erase(2))))
            assert shell.json("verify", mem, "--erasure", "r.json")["erased"]
            shell("export", mem, "x.lw")
        assert shell.json("stat", mem)["writer_pid"] is None

    def test_history_says_what_the_store_says(self, shell, mem):
        with DurableStore(mem) as store:
            rng = np.random.default_rng(0)
            for turn in range(40):
                start = rng.integers(0, 2000, 3)
                store.write(start, rng.integers(0, 9, (3, 5), np.uint32))
                if turn % 7 == 0:
                    store.checkpoint()
                if turn == 20:
                    store.create_version("a")
            store.rollback_to("a")
            erasure = store.eraser.erase(15)
            Path("r.json").write_text(json.dumps(_plain(erasure)))
            found = shell.json("log", mem, "--limit", 100)["records"]
            assert [record["sequence"] for record in found] == [record.sequence for record in store.log(100)]
            for address in rng.integers(0, 2005, 20).tolist():
                record = store.why(address)
                told = shell.json("why", mem, address)["record"]
                assert (told and told["sequence"]) == (record and record.sequence)
            assert shell.json("verify", mem, "--erasure", "r.json")["erased"] is store.eraser.is_erased(erasure) is True
            assert shell.json("verify", mem)["journal"] is None

    def test_writing_says_who_holds_it(self, shell, mem):
        with DurableStore(mem):
            for command in (["write", mem, 0, 1], ["version", mem, "a"], ["erase", mem, 1], ["grant", mem, 0, 1, "x"]):
                line = shell.complaint(*command)
                assert f"in process {os.getpid()}, which does not serve it" in line
            shell("create", "other", "--bits", "8")
            shell("export", mem, "x.lw")
            assert f"in process {os.getpid()}" in shell.complaint("import", mem, "x.lw")

    def test_an_address_that_nobody_serves_any_more(self, shell, mem, monkeypatch):
        monkeypatch.setattr("cluster.memory.remote_target.CONNECT_S", 0.2)
        with DurableStore(mem):
            Path("mem/served").write_text("tcp://127.0.0.1:1\n")
            line = shell.complaint("write", mem, 0, 1)
            assert "nobody answers at tcp://127.0.0.1:1, which mem/served names" in line
        # Nobody has it open: the address is of no interest.
        shell("write", mem, 0, 1)

    def test_an_address_at_which_another_memory_is_served(self, shell, mem):
        shell("create", "other", "--bits", "16")
        with DurableStore("other") as other, DurableStore(mem):
            server = MemoryServer(other, ServerConfig("tcp://127.0.0.1:0")).start()
            try:
                Path("mem/served").write_text(server.address)
                assert "where another memory is" in shell.complaint("write", mem, 0, 1)
            finally:
                server.stop()
            assert other.sequence == 0


def _plain(erasure) -> dict:
    return {**vars(erasure), "start": erasure.start.tolist(), "length": erasure.length.tolist()}


class TestServing:
    def test_a_served_memory(self, shell, mem):
        """Ends with Ctrl-C, and leaves nothing behind."""
        shell("write", mem, 0, 1, 2)
        serving = Serving(mem)
        try:
            assert Path("mem/served").read_text() == f"{serving.address}\n"
            assert shell("write", mem, 1, 9).startswith("write 2: 1 word at 0x0001")
            for target in (mem, serving.address):
                assert shell.json("read", target, 0, 2)["words"] == [1, 9]
                assert shell.json("why", target, 1)["record"]["writer"] == "admin"
            assert "token says who writes" in shell.complaint("write", mem, 1, 9, "--writer", "bob")
            shell("version", mem, "a")
            shell("write", serving.address, 300, 5, 6)
            assert shell("diff", serving.address, "a") == shell("diff", mem, "a")
            assert shell("log", serving.address) == shell("log", mem)
            assert shell("versions", serving.address) == shell("versions", mem)
            assert shell.json("find", serving.address, 5, 6)["addresses"] == [300]
            assert "ranges read" in shell("stat", serving.address)
            assert "limit 10000: a server lists at most 9999" in shell.complaint(
                "log", serving.address, "--limit", 10000
            )
            assert f"served at {serving.address}" in shell("stat", mem)
            shell("erase", mem, 2, "--receipt", "r.json")
            assert shell("verify", serving.address, "--erasure", "r.json") == "write 2: nothing of it is left\n"
            assert shell("verify", serving.address) == "all is as it was written\n"
            shell("rollback", serving.address, "a")
            shell("grant", mem, 0, 1, "bob")
            assert shell.json("read", serving.address, 0, 2)["words"] == [0, 0]
            assert "a server reads what is there now" in shell.complaint("read", serving.address, 0, "--version", "a")
            assert f"in process {serving.process.pid}" in shell.complaint("serve", mem)
            shell("drop", mem, "a")
        finally:
            code = serving.end(signal.SIGINT)
        assert code == 0
        assert not Path("mem/served").exists()
        assert shell.json("stat", mem)["writer_pid"] is None
        assert shell("verify", mem).startswith("all is as it was written")

    def test_tokens(self, shell, mem, here, monkeypatch):
        Path("tokens").write_text("# who\n\nt1 admin\nt2 bob\n")
        serving = Serving(mem, "--tokens", "tokens", address=f"ipc://{here}/socket")
        try:
            assert "unknown token: give yours with --token" in shell.complaint("stat", serving.address)
            shell("grant", mem, 0, 10, "bob", "--token", "t1")
            monkeypatch.setenv("LEWORLD_TOKEN", "t2")
            shell("write", mem, 5, 1)
            assert shell.json("read", serving.address, 5)["words"] == [1]
            assert "only admin may" in shell.complaint("version", mem, "a")
            assert shell.json("log", mem)["records"][0]["writer"] == "bob"
            assert "is not admin's to write" in shell.complaint("write", mem, 5, 2, "--token", "t1")
        finally:
            code = serving.end(signal.SIGTERM)
        assert code == 0

    def test_a_killed_server_loses_nothing(self, shell, mem):
        serving = Serving(mem)
        try:
            shell("write", mem, 0, 7)
        finally:
            code = serving.end(signal.SIGKILL)
        assert code == -signal.SIGKILL
        assert shell("read", mem, 0) == "0x0000  00000007\n"
        assert shell.stderr == "leworld: mem: was not closed; mended from its journal\n"
        shell("write", mem, 1, 8)
        assert shell.stderr == ""


WRITER = """
import sys
import numpy as np
from leworld.store.durable_store import DurableStore, StoreConfig

rng = np.random.default_rng(0)
with DurableStore(sys.argv[1], StoreConfig("os", segment_bytes=1 << 16)) as store:
    store.create_version("start")
    print("ready", flush=True)
    turn = 0
    while True:
        turn += 1
        value = rng.integers(1, 1 << 31)
        # Both halves are always the same: a reader that sees half a write can tell.
        store.write(np.array([0, 512]), np.full((2, 256), value, np.uint32))
        if turn % 20 == 0:
            store.eraser.erase(store.sequence)
"""


def test_two_processes_at_once(shell, mem):
    shell("write", mem, 5000, 1)
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, mem],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    )
    try:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "ready\n"
        until, seen = time.monotonic() + 3, set()
        # However slow the machine is.
        while time.monotonic() < until or len(seen) < 3:
            words = shell.json("read", mem, 0, 256)["words"]
            assert len(set(words)) == 1
            seen.add(words[0])
            assert shell.json("read", mem, 0, 256, "--version", "start")["words"] == [0] * 256
            records = shell.json("log", mem, "--limit", 50)["records"]
            numbers = [record["sequence"] for record in records]
            assert numbers == list(range(numbers[0], numbers[0] - len(numbers), -1))
            assert shell.json("why", mem, 5000)["record"]["sequence"] == 1
            assert shell.json("diff", mem, "start", "--limit", 1)["num_words"] in (0, 512)
            assert shell("verify", mem).startswith("all is as it was written")
            shell("export", mem, "start.lw", "--version", "start")
        assert len(seen) > 2
        assert f"in process {writer.pid}" in shell.complaint("write", mem, 0, 1)
    finally:
        writer.kill()
        writer.communicate()
    assert len(set(shell.json("read", mem, 0, 256)["words"])) == 1


def test_output_that_nobody_reads(mem, shell):
    process = leworld("read", mem, "0", "65536", "--format", "bits")
    assert process.stdout is not None
    process.stdout.close()
    assert process.wait(timeout=20) in (0, 1)
    assert process.stderr is not None
    assert process.stderr.read() == ""
    process.stderr.close()


def test_a_copied_memory_is_the_same(shell, mem):
    shell("write", mem, 0, 1)
    shutil.copytree(mem, "copy")
    assert shell("verify", "copy") == "all is as it was written: 1 page, 1 record\n"
