import multiprocessing
import os
import signal
import threading
from contextlib import suppress
from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from leworld.errors import CheckpointError, ConfigError, DamageError, DataError, RangeError, StoreError
from leworld.memory import Memory, Words, WordStore
from leworld.store import checkpointer as checkpoints
from leworld.store import layout
from leworld.store.durable_store import DurableStore, StoreConfig, Write
from leworld.store.journal.journal import POLICIES, Journal
from leworld.store.journal.record import encode
from leworld.store.journal.write_batch import make_batch
from leworld.store.layout import write_map
from leworld.store.mapped_memory import MappedMemory
from tests.store.stores import (
    block,
    content,
    crashed,
    fill,
    flip,
    last_segment,
    reopened,
    start_anew,
    version_content,
)

SMALL = StoreConfig(policy="os", segment_bytes=1 << 14)
FORKS = multiprocessing.get_context("forkserver")


@pytest.fixture
def store(tmp_path):
    with DurableStore.create(tmp_path / "m", 16) as made:
        yield made


def some_blocks(random):
    """Starts and blocks of any lengths, near each other so that they overlap."""
    length = random.integers(0, 257, int(random.integers(0, 6)))
    start = random.integers(0, 4000, len(length))
    words = random.integers(0, 1 << 32, length.sum(), dtype=np.uint32)
    return start, Words(words, np.concatenate([np.zeros(1, np.int64), np.cumsum(length)]))


class Wanderer:
    """Does the same with a memory on disk and with one of this process."""

    def __init__(self, root, seed):
        self.random = np.random.default_rng(seed)
        self.store, self.plain = DurableStore.create(root, 16, SMALL), WordStore(16)
        self.kept, self.copies = {}, 0

    def step(self):
        actions = [self.write, self.write_ragged, self.write_many]
        actions += [self.create_version, self.drop_version, self.rollback_to, self.diff]
        actions += [self.write, self.write_ragged, self.restore, self.reopen, self.crash, self.checkpoint]
        actions[int(self.random.integers(0, len(actions)))]()

    def check(self):
        np.testing.assert_array_equal(content(self.store), content(self.plain))
        one, two = self.store.snapshot(), self.plain.snapshot()
        full = two.words.any(1)
        np.testing.assert_array_equal(one.pages, two.pages[full])
        np.testing.assert_array_equal(one.words, two.words[full])
        assert [version.name for version in self.store.versions] == list(self.kept)
        assert not len(self.store.verify())
        for name, right in self.kept.items():
            np.testing.assert_array_equal(version_content(self.store, name), right)

    def write(self):
        start = self.random.integers(0, 4000, 4)
        words = self.random.integers(0, 1 << 32, (4, int(self.random.integers(1, 257))), dtype=np.uint32)
        one, two = self.store.write(start, words), self.plain.write(start, words)
        assert (one.start.tolist(), one.length.tolist(), one.crc32) == (
            two.start.tolist(), two.length.tolist(), two.crc32,
        )  # fmt: skip

    def write_ragged(self):
        blocks = some_blocks(self.random)
        before = self.store.sequence
        assert self.store.write_ragged(*blocks).sequence == before + 1
        self.plain.write_ragged(*blocks)

    def write_many(self):
        several, before = [some_blocks(self.random) for _ in range(3)], self.store.sequence
        receipts = self.store.write_many([Write(*blocks, f"w{i}") for i, blocks in enumerate(several)])
        assert [receipt.sequence for receipt in receipts] == [before + 1, before + 2, before + 3]
        for blocks in several:
            self.plain.write_ragged(*blocks)

    def create_version(self):
        if len(self.kept) < 4:
            name = f"v{self.store.sequence}-{self.random.integers(0, 1000)}"
            self.store.create_version(name)
            self.kept[name] = content(self.plain)

    def some_name(self):
        return list(self.kept)[int(self.random.integers(0, len(self.kept)))] if self.kept else None

    def drop_version(self):
        if name := self.some_name():
            self.store.drop_version(name)
            del self.kept[name]

    def rollback_to(self):
        if name := self.some_name():
            self.store.rollback_to(name)
            pages = np.arange(256)
            self.plain.restore(replace(self.plain.snapshot(), pages=pages, words=self.kept[name].reshape(256, 256)))

    def diff(self):
        if (before := self.some_name()) and (after := self.some_name()):
            found, changed = (
                self.store.versions.diff(before, after),
                np.flatnonzero(self.kept[before] != self.kept[after]),
            )
            np.testing.assert_array_equal(found.address, changed)
            np.testing.assert_array_equal(found.after, self.kept[after][changed])

    def restore(self):
        other = WordStore(16)
        other.write_ragged(*some_blocks(self.random))
        self.store.restore(other.snapshot())
        self.plain.restore(other.snapshot())

    def checkpoint(self):
        self.store.checkpoint(wait=bool(self.random.integers(0, 2)))

    def reopen(self):
        self.store = reopened(self.store, SMALL)

    def crash(self):
        thread = self.store._checkpoints.thread
        if thread is not None:
            thread.join()
        self.copies += 1
        root = crashed(self.store, self.store.root.parent / f"copy{self.copies}")
        if self.random.integers(0, 2):
            start_anew(root)
        self.store.close()
        self.store = DurableStore(root, SMALL)


@pytest.mark.parametrize("seed", range(8))
def test_a_memory_on_disk_answers_as_one_of_this_process(tmp_path, seed):
    wanderer = Wanderer(tmp_path / "m", seed)
    for step in range(60):
        wanderer.step()
        if step % 5 == 4:
            wanderer.check()
    wanderer.store.close()


def test_it_is_a_memory(store):
    memory: Memory = store
    assert memory.address_bits == 16
    assert store.num_words == 1 << 16


@pytest.mark.parametrize("bits", [8, 24, 32])
def test_first_and_last_word_of_every_width(tmp_path, bits):
    last = (1 << bits) - 1
    with DurableStore.create(tmp_path / "m", bits) as store:
        store.write([0, last], np.array([[3], [4]], np.uint32))
        store.create_version("a")
        store.write([last], block(5))
    with DurableStore(tmp_path / "m") as store:
        assert store.read([0, last], [1, 1]).words.tolist() == [3, 5]
        assert store.versions.diff("a").address.tolist() == [last]
    assert (tmp_path / "m" / "words").stat().st_blocks * 512 <= 32768


def test_what_is_kept_is_there_when_it_is_opened_again(store):
    receipt = store.write([10, 500], np.array([[1, 2], [3, 4]], np.uint32))
    store = reopened(store)
    assert store.read([10, 500], [2, 2]).words.tolist() == [1, 2, 3, 4]
    assert store.sequence == receipt.sequence == 1
    assert store.write([0], block(1)).sequence == 2
    store.close()


@pytest.mark.parametrize("anew", [False, True])
@pytest.mark.parametrize("policy", POLICIES)
def test_what_was_acknowledged_is_there_after_a_crash(tmp_path, policy, anew):
    with DurableStore.create(tmp_path / "m", 16, StoreConfig(policy)) as store:
        for step in range(10):
            store.write([step * 200], fill(step + 1, 250))
        root, right = crashed(store, tmp_path / "copy"), content(store)
    if anew:
        start_anew(root)
    with DurableStore(root) as again:
        assert again.sequence == 10
        np.testing.assert_array_equal(content(again), right)


@pytest.mark.parametrize("anew", [False, True])
def test_a_record_that_was_not_applied_is_applied(store, tmp_path, anew):
    store.write([0], block(1))
    root = crashed(store, tmp_path / "copy")
    batch = make_batch([Write([300], Words(np.array([8, 9], np.uint32), np.array([0, 2])))], 1 << 16)
    record = store._committer.record(batch, batch.checksums())
    with last_segment(root).open("ab") as file:
        file.write(b"".join(encode(record)))
    if anew:
        start_anew(root)
    with DurableStore(root) as again:
        assert again.sequence == 2
        assert again.read([0, 300], [1, 2]).words.tolist() == [1, 8, 9]


def test_half_a_write_is_taken_back_or_finished(store, tmp_path):
    store.write([0], fill(1, 200))
    store.write([100], fill(2, 200))
    root = crashed(store, tmp_path / "copy")
    mapped = MappedMemory(root, writable=True)
    mapped.state.begin(3, np.array([0, 1]))
    mapped.pages[:2, ::3] = 7
    with DurableStore(root) as again:
        np.testing.assert_array_equal(content(again), content(store))
        assert not len(again.verify())


def test_an_acknowledged_write_stays_though_the_end_of_the_journal_was_lost(store, tmp_path):
    for value in (1, 2, 3):
        store.write([value * 300], fill(value))
    root = crashed(store, tmp_path / "copy")
    last_segment(root).write_bytes(last_segment(root).read_bytes()[:-1])
    right = content(store)
    with DurableStore(root) as again:
        np.testing.assert_array_equal(content(again), right)
        assert again.sequence == 3
        again.write([5000], fill(4))
        once_more = crashed(again, tmp_path / "more")
    # The journal alone could not tell of it any more.
    start_anew(once_more)
    with DurableStore(once_more) as again:
        assert again.read([900, 5000], [1, 1]).words.tolist() == [3, 4]


def test_a_lost_end_of_the_journal_and_a_damaged_page_are_not_passed_over(store, tmp_path):
    for value in (1, 2, 3):
        store.write([value * 300], fill(value))
    root = crashed(store, tmp_path / "copy")
    last_segment(root).write_bytes(last_segment(root).read_bytes()[:-1])
    flip(root / "words", 1200)
    with pytest.raises(DamageError, match="record 3 is missing"):
        DurableStore(root)


def test_damage_within_the_pages_that_the_journal_knows_is_healed(store, tmp_path):
    store.write([0, 300], fill(7, 100, 2))
    store.checkpoint()
    store.write([20], fill(8, 100))
    root = crashed(store, tmp_path / "copy")
    flip(root / "words", 4, 3)
    flip(root / "sums", 0, 3)
    flip(root / "words", 300 * 4, 3)
    with DurableStore(root) as again:
        assert again.read([0, 20], [1, 1]).words.tolist() == [7, 8]
        with pytest.raises(DamageError, match="page 1"):
            again.read([300], [1])


def test_a_second_writer_is_refused_in_this_process_and_in_others(store):
    line = f"is open for writing in process {os.getpid()}; end that one, or only read"
    with pytest.raises(StoreError, match=line):
        DurableStore(store.root)
    with FORKS.Pool(1) as pool:
        assert line in pool.apply(error_of_opening, (store.root,))
    store.close()
    DurableStore(store.root).close()


def error_of_opening(root):
    try:
        DurableStore(root)
    except StoreError as error:
        return str(error)


def test_a_memory_is_made_only_where_there_is_nothing(tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").touch()
    (tmp_path / "file").touch()
    for path in (tmp_path / "other", tmp_path / "file"):
        with pytest.raises(StoreError, match="is not empty, and holds no memory"):
            DurableStore.create(path, 16)
        with pytest.raises(StoreError) as caught:
            DurableStore(path)
        assert "\n" not in str(caught.value)
    with pytest.raises(ConfigError, match="address_bits 12"):
        DurableStore.create(tmp_path / "new", 12)
    assert not (tmp_path / "new").exists()


def test_open_or_create_makes_opens_and_knows_the_width(tmp_path):
    DurableStore.open_or_create(tmp_path / "m", 16).close()
    with DurableStore.open_or_create(tmp_path / "m", 16, writer="ann") as store:
        store.write([0], block(1))
        assert store.why(0).writer == "ann"
    with pytest.raises(StoreError, match="has 16 address bits, not 24: set address_bits to match"):
        DurableStore.open_or_create(tmp_path / "m", 24)
    DurableStore.open_or_create(tmp_path / "m", 16).close()


def test_every_flipped_bit_of_identity_and_checkpoint_is_found(store, tmp_path):
    store.write([0], block(1))
    store.checkpoint()
    root = crashed(store, tmp_path / "copy")
    for name in ("identity", "checkpoint"):
        good = (root / name).read_bytes()
        for bit in range(len(good) * 8):
            flip(root / name, bit // 8, bit % 8)
            with pytest.raises(StoreError, match=f"{name}: is damaged or foreign"):
                DurableStore(root)
            (root / name).write_bytes(good)
    DurableStore(root).close()


@pytest.mark.parametrize("content", [b"", b"abc", b"\x80\x04 a pickle", bytes(100)])
@pytest.mark.parametrize("name", ["identity", "checkpoint", "versions"])
def test_foreign_small_files_are_refused_in_one_line(store, name, content):
    store.close()
    (store.root / name).write_bytes(content)
    with pytest.raises(StoreError, match=f"{name}: is damaged or foreign") as caught:
        DurableStore(store.root)
    assert "\n" not in str(caught.value)


def test_a_newer_format_is_refused(store):
    store.close()
    known = {"version": 9, "address_bits": 16, "id": "x", "created_ns": 1}
    write_map(store.root / "identity", known)
    with pytest.raises(StoreError, match="format 9, this program reads 1; use a newer one"):
        DurableStore(store.root)
    write_map(store.root / "identity", known | {"version": 1, "address_bits": 12})
    with pytest.raises(ConfigError, match="address_bits 12"):
        DurableStore(store.root)


@pytest.mark.parametrize(
    ("config", "message"), [(StoreConfig(policy="never"), "policy 'never'"), (StoreConfig(verify="x"), "verify 'x'")]
)
def test_a_bad_config_is_refused_and_holds_nothing(store, config, message):
    store.close()
    with pytest.raises(ConfigError, match=message):
        DurableStore(store.root, config)
    DurableStore(store.root).close()


def test_bad_writes_are_refused_and_nothing_is_written(store):
    good = Write([0], Words(np.ones(1, np.uint32), np.array([0, 1])))
    with pytest.raises(RangeError):
        store.write([0, 65_535], fill(1, 2, 2))
    with pytest.raises(DataError, match="uint32"):
        store.write([0], np.array([[-1]]))
    with pytest.raises(DataError, match="offsets"):
        store.write_ragged([0], Words(np.zeros(3, np.uint32), np.array([0, 2])))
    with pytest.raises(RangeError):
        store.write_many([good, replace(good, start=[65_536])])
    assert (store.sequence, store.snapshot().pages.tolist()) == (0, [])


def test_restore_refuses_another_width_and_damaged_snapshots(store):
    store.write([0], block(7))
    good = store.snapshot()
    for snapshot in (WordStore(24).snapshot(), replace(good, pages=good.pages + 256), replace(good, pages=[])):
        with pytest.raises(CheckpointError):
            store.restore(snapshot)
    assert store.read([0], [1]).words.tolist() == [7]


def test_snapshots_serve_no_damaged_word(store):
    store.write([0], block(7))
    with (store.root / "words").open("r+b") as file:
        file.write(b"\x06")
    for call in (store.snapshot, lambda: store.create_version("a") and store.write([1], block(1))):
        store.checkpoint()
        with pytest.raises(DamageError, match="page 0: not what was written; put a snapshot in place"):
            call()


def test_a_checkpoint_beside_does_not_stop_one_that_waits(store, monkeypatch):
    store.write([0], block(1))
    going_on, sync = threading.Event(), checkpoints.sync
    monkeypatch.setattr(checkpoints, "sync", lambda path: (going_on.wait(10), sync(path)))
    store.checkpoint(wait=False)
    store.write([5], block(2))
    waiting = threading.Thread(target=store.checkpoint, daemon=True)
    waiting.start()
    store.write([9], block(3))
    going_on.set()
    waiting.join(10)
    assert not waiting.is_alive()
    assert store.stat()["checkpoint"] >= 2


def test_checkpoints_are_taken_beside_writes(tmp_path):
    with DurableStore.create(tmp_path / "m", 16, SMALL) as store:
        for step in range(300):
            store.write([step * 200], fill(step + 1, 100))
        store._checkpoints.thread.join()
        assert store.stat()["checkpoint"] > 0
        assert sorted((store.root / "journal").iterdir())[0].name > "00000000000000000001.log"


def test_a_checkpoint_that_cannot_be_taken_refuses_no_write(tmp_path, monkeypatch):
    with DurableStore.create(tmp_path / "m", 16, SMALL) as store:
        with monkeypatch.context() as patched:
            patched.setattr(layout, "replace_file", full)
            for step in range(100):
                store.write([step * 200], fill(step + 1, 100))
            store._checkpoints.thread.join()
            assert store.stat()["checkpoint"] == 0
            with pytest.raises(StoreError, match="checkpoint: not written \\(No space left on device\\): make room"):
                store.checkpoint()
        store.checkpoint()
        assert store.stat()["checkpoint"] == 100


def full(*_):
    raise OSError(28, "No space left on device")


def test_closing_on_a_full_disk_says_so_and_lets_another_write(store, monkeypatch):
    store.write([0], block(7))
    with monkeypatch.context() as patched:
        patched.setattr(layout, "replace_file", full)
        with pytest.raises(StoreError, match="checkpoint: not written"):
            store.close()
    with DurableStore(store.root) as again:
        assert again.read([0], [1]).words.tolist() == [7]


def test_a_disk_that_fails_is_not_written_any_more(store, monkeypatch):
    store.write([0], block(7))
    store.create_version("a")
    with monkeypatch.context() as patched:
        patched.setattr("leworld.store.journal.synced_file.os.fdatasync", lambda _: full())
        for _ in range(2):
            with pytest.raises(StoreError, match="the disk failed"):
                store.write([0], block(8))
    with pytest.raises(StoreError, match="the disk failed"):
        store.write([0], block(8))
    assert store.read([0], [1]).words.tolist() == [7]
    with suppress(StoreError):
        store.close()
    with DurableStore(store.root) as again:
        assert again.read([0], [1]).words.tolist() == [7]


def test_words_that_did_not_reach_the_disk_end_writing(store, monkeypatch):
    store.write([0], block(7))
    with monkeypatch.context() as patched:
        patched.setattr(checkpoints, "sync", full)
        with pytest.raises(StoreError, match="the disk failed \\(No space left on device\\)"):
            store.checkpoint()
    with pytest.raises(StoreError, match="the disk failed"):
        store.write([0], block(8))
    store.close()
    with DurableStore(store.root) as again:
        assert again.stat()["checkpoint"] == 0
        assert again.read([0], [1]).words.tolist() == [7]


def test_a_closed_memory_is_not_written_and_closes_again(store, tmp_path):
    store.write([0], block(7))
    store.close()
    with (tmp_path / "other").open("w+b") as other:
        closed = (store.create_version, store.drop_version)
        for call in (lambda: store.write([0], block(8)), *(partial(each, "a") for each in closed)):
            with pytest.raises(StoreError, match="is closed"):
                call()
        assert os.fstat(other.fileno()).st_size == 0
    store.close()
    with DurableStore(store.root) as again:
        assert again.read([0], [1]).words.tolist() == [7]


def test_a_write_that_was_interrupted_before_it_was_visible_is_finished_by_opening_again(store, monkeypatch):
    store.write([0], block(1))
    with monkeypatch.context() as patched:
        patched.setattr(store._committer.mapped, "apply", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            store.write([0, 300], fill(2, 5, 2))
    with pytest.raises(StoreError, match="write 2 was cut off: close the memory and open it again"):
        store.write([5], block(3))
    store = reopened(store)
    assert store.read([0, 300], [1, 1]).words.tolist() == [2, 2]
    assert not len(store.verify())
    store.close()


def write_and_be_interrupted(root, out):
    """Write as fast as it goes, and be interrupted again and again."""
    store, random, interrupts, done = DurableStore(root, SMALL), np.random.default_rng(0), 0, 0
    signal.signal(signal.SIGALRM, lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    while interrupts < 60:
        signal.setitimer(signal.ITIMER_REAL, float(random.uniform(0.001, 0.02)))
        try:
            while True:
                store.write([0, 1000, 9000], fill(done + 1, 100, 3))
                done += 1
        except KeyboardInterrupt:
            signal.setitimer(signal.ITIMER_REAL, 0)
            interrupts += 1
        except StoreError:
            signal.setitimer(signal.ITIMER_REAL, 0)
            store.close()
            store = DurableStore(root, SMALL)
        # What was being written when the interrupt came is there or not.
        found = int(store.read([0], [1]).words[0]) if store._committer.is_settled else done
        assert found in (done, done + 1), (found, done)
        done = found
    store.close()
    out.send(done)


def test_interrupts_lose_nothing_and_leave_no_half_write(tmp_path):
    DurableStore.create(tmp_path / "m", 16).close()
    here, there = FORKS.Pipe()
    writer = FORKS.Process(target=write_and_be_interrupted, args=(tmp_path / "m", there))
    writer.start()
    assert here.poll(60)
    done = here.recv()
    writer.join()
    with DurableStore(tmp_path / "m") as store:
        # The write at which the last interrupt came may be there.
        assert store.read([0, 1000, 9000], [100] * 3).words.tolist() in ([done] * 300, [done + 1] * 300)
        assert [record.sequence for record in store.log(10_000)] == list(range(store.sequence, 0, -1))


def test_threads_write_one_after_another(tmp_path):
    with DurableStore.create(tmp_path / "m", 16, SMALL) as store:
        receipts = []

        def write(who):
            for step in range(40):
                receipts.append(store.write([who * 1000 + step], block(step)).sequence)

        threads = [threading.Thread(target=write, args=(who,)) for who in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(receipts) == list(range(1, 161))
        assert store.read([3000], [40]).words.tolist() == list(range(40))
    with DurableStore(tmp_path / "m") as store:
        assert store.read([1000, 2000], [40, 40]).words.tolist() == [*range(40), *range(40)]


def test_stat_says_what_a_memory_takes(store):
    store.write([0, 60_000], fill(1, 5, 2))
    store.create_version("a")
    found = store.stat()
    assert (found["sequence"], found["pages_written"], found["versions"], found["policy"]) == (1, 2, ["a"], "group")
    assert found["words_bytes"] >= 8192
    assert found["journal_bytes"] == sum(path.stat().st_size for path in (store.root / "journal").iterdir())


def test_a_lost_end_of_the_journal_is_known_when_the_machine_was_started_anew(store, tmp_path):
    for value in (1, 2, 3):
        store.write([value * 300], fill(value))
    root = crashed(store, tmp_path / "copy")
    last_segment(root).write_bytes(last_segment(root).read_bytes()[:-1])
    start_anew(root)
    with pytest.raises(DamageError, match="record 3 is missing"):
        DurableStore(root)


@pytest.mark.xfail(strict=True, reason="with policy os, words may reach the disk before the journal does")
def test_policy_os_leaves_no_half_write_when_the_machine_fails(tmp_path):
    with DurableStore.create(tmp_path / "m", 16, StoreConfig("os")) as store:
        store.write([0], block(1))
        store.checkpoint()
        synced = last_segment(store.root).read_bytes()
        store.write([0, 60_000], fill(2, 5, 2))
        # The system writes back the words of one page, its sum, and nothing of the journal; then the power fails.
        root = crashed(store, tmp_path / "copy")
    last_segment(root).write_bytes(synced)
    for name, at, raw in (
        ("words", 60_000 * 4, bytes(20)),
        ("sums", 60_000 // 256 * 4, bytes(4)),
        ("state", 0, b"\x01" + bytes(7) + b"\x01" + bytes(7)),
    ):
        with (root / name).open("r+b") as file:
            file.seek(at)
            file.write(raw)
    start_anew(root)
    with DurableStore(root) as again:
        assert again.read([0, 60_000], [1, 1]).words.tolist() in ([1, 0], [2, 2])


def test_the_journal_of_another_moment_is_not_taken_for_the_end(store, tmp_path):
    store.write([0], block(1))
    store.close()
    for path in (store.root / "journal").iterdir():
        path.unlink()
    with pytest.raises(DamageError, match="record 2 is missing"):
        DurableStore(store.root)
    with pytest.raises(DamageError):
        Journal(store.root / "journal", "group", 1)
