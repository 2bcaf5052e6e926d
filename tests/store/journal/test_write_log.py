import errno
import threading

import numpy as np
import pytest

from leworld.errors import DamageError, StoreError
from leworld.memory import Words
from leworld.store.directory_reader import DirectoryReader
from leworld.store.durable_store import DurableStore, StoreConfig, Write
from leworld.store.journal import write_log as history
from leworld.store.journal.record import decode_at
from leworld.store.journal.segment import scan, set_aside_segments
from leworld.store.journal.write_log import WriteLog
from tests.store.stores import block, crashed, fill, flip, one_write, reopened

CONFIG = StoreConfig(segment_bytes=1, policy="os")


@pytest.fixture
def store(tmp_path):
    with DurableStore.create(tmp_path / "m", 16, writer="ann", epoch=3) as made:
        yield made


def sequences(records):
    return [record.sequence for record in records]


def test_the_log_is_newest_first_and_without_words(store):
    for value in (1, 2, 3):
        receipt = store.write([value * 10, 500], fill(value, 4, 2))
    newest = store.log(2)
    assert sequences(newest) == [3, 2]
    assert (newest[0].writer, newest[0].epoch, newest[0].crc32, newest[0].kind) == ("ann", 3, receipt.crc32, "write")
    assert (newest[0].start.tolist(), newest[0].length.tolist()) == ([30, 500], [4, 4])
    assert not newest[0].words.size
    assert store.log(0) == []


def test_why_names_the_last_write_of_a_word(store):
    blocks = Words(np.arange(3, dtype=np.uint32), np.array([0, 3]))
    store.write([10], fill(1, 5))
    store.write_many([Write([12], blocks, "bob", "a note"), Write([14], blocks, "eve")])
    assert [getattr(store.why(address), "sequence", None) for address in range(8, 19)] == [
        None, None, 1, 1, 2, 2, 3, 3, 3, None, None,
    ]  # fmt: skip
    assert (store.why(13).writer, store.why(13).note) == ("bob", "a note")
    assert sequences(store.log(address=14)) == [3, 2, 1]
    assert sequences(store.log(2, address=14)) == [3, 2]


def test_why_agrees_with_a_plain_dict_whatever_was_forgotten(tmp_path):
    random, last = np.random.default_rng(0), {}
    store = DurableStore.create(tmp_path / "m", 16, CONFIG)
    for step in range(60):
        start, length = random.integers(0, 400, 2), random.integers(0, 30, 2)
        words = Words(np.zeros(length.sum(), np.uint32), np.concatenate([[0], np.cumsum(length)]))
        sequence = store.write_ragged(start, words).sequence
        for first, count in zip(start.tolist(), length.tolist(), strict=True):
            last.update(dict.fromkeys(range(first, first + count), sequence))
        if step % 20 == 10:
            store.create_version(f"v{step}")
        if step % 20 == 19:
            store = reopened(store, CONFIG)
    store.drop_version("v10")
    assert store.stat()["ledger_bytes"] > 0
    for address in range(0, 430, 7):
        assert getattr(store.why(address), "sequence", None) == last.get(address), address
    assert sequences(store.log(100)) == list(range(60, 0, -1))
    store.close()


def test_history_outlives_the_journal(store):
    for value in range(5):
        store.write([value], block(value))
    store = reopened(store)
    assert store.stat()["journal_bytes"] == 0
    assert sequences(store.log(100)) == [5, 4, 3, 2, 1]
    assert store.why(2).epoch == 3
    store.close()


def test_going_back_is_in_the_log(store):
    store.write([0], block(1))
    store.create_version("a")
    store.write([0], block(2))
    store.rollback_to("a")
    assert [(record.kind, record.note) for record in store.log()] == [
        ("restored", "a"), ("back", "1"), ("restore", "a"), ("write", ""), ("write", ""),
    ]  # fmt: skip
    assert store.why(0).kind == "back"


def test_a_crash_between_ledger_and_journal_tells_nothing_twice(store, tmp_path, monkeypatch):
    for value in range(3):
        store.write([value], block(value))
    with monkeypatch.context() as patched:
        patched.setattr(store._journal, "drop", lambda *_, **__: None)
        store.checkpoint()
    root = crashed(store, tmp_path / "copy")
    assert (root / "ledger").stat().st_size
    for _ in range(2):
        with DurableStore(root) as again:
            assert sequences(again.log(100)) == [3, 2, 1]
            again.checkpoint()
    raw, offset, found = (root / "ledger").read_bytes(), 0, []
    while offset < len(raw):
        record, frame = decode_at(raw, offset)
        found.append(record.sequence)
        offset = frame.end
    assert found == [1, 2, 3]


def test_a_ledger_whose_end_was_cut_off_is_written_on(store, tmp_path, monkeypatch):
    for value in range(3):
        store.write([value], block(value))
    with monkeypatch.context() as patched:
        patched.setattr(store._journal, "drop", lambda *_, **__: None)
        store.checkpoint()
    root = crashed(store, tmp_path / "copy")
    raw = (root / "ledger").read_bytes()
    (root / "ledger").write_bytes(raw[:-5])
    with DurableStore(root) as again:
        assert sequences(again.log(100)) == [3, 2, 1]
        again.write([9], block(9))
    assert (root / "ledger").read_bytes()[: len(raw)] == raw
    with DurableStore(root) as again:
        assert sequences(again.log(100)) == [4, 3, 2, 1]


def test_damage_in_the_middle_of_the_ledger_is_found(store):
    for value in range(4):
        store.write([value], block(value))
    store.close()
    flip(store.root / "ledger", 30)
    with pytest.raises(DamageError, match="ledger: damaged at byte 0, before byte"):
        DurableStore(store.root)


def test_a_full_disk_leaves_the_ledger_as_it_was(store, monkeypatch):
    store.write([0], block(1))
    store.checkpoint()
    store.write([0], block(2))

    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("leworld.store.journal.write_log.os.fsync", full)
        with pytest.raises(StoreError, match="ledger: not written \\(No space left on device\\)"):
            store._log.remember(store._journal.last)
    store.checkpoint()
    assert sequences(store.log()) == [2, 1]
    assert sequences(WriteLog(store.layout, store._journal).newest_first()) == [2, 1]


def test_who_wrote_what_is_kept_though_something_is_erased_meanwhile(store, monkeypatch):
    store.write_many([one_write(10 * i, i, 3) for i in range(1, 6)])
    store.create_version("a")
    store.write([60], block(6))
    erasing = threading.Thread(target=store.eraser.erase, args=(2,))
    to_header_only = history.to_header_only

    def slowly(*arguments):
        erasing.start()
        erasing.join(0.5)
        return to_header_only(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(history, "to_header_only", slowly)
        whole = store._log.remember(store._journal.segments[0])
    erasing.join()
    assert whole
    store.drop_version("a")
    assert sequences(store.log(99)) == list(range(8, 0, -1))
    assert not set_aside_segments(store.layout.journal)


class TestDamagedSegment:
    """One that only history needs is put aside with what is left, and said to be missing."""

    @pytest.fixture
    def root(self, store):
        for value in range(1, 6):
            store.write([value * 10], block(value))
        store.create_version("a")
        store.write([60], block(6))
        segment = store._journal.segments[0].path
        begins = [frame.offset for _, frame in scan(segment)]
        flip(segment, begins[2] + 30)
        store.drop_version("a")
        store.checkpoint()
        store.close()
        return store.root

    def test_what_is_left_is_kept(self, root):
        (aside,) = (root / "journal").glob("*.damaged")
        assert aside.name == f"{1:020d}.log.damaged"
        assert decode_at(aside.read_bytes(), 0)[0].sequence == 1
        with DurableStore(root) as again:
            assert sequences(again.log(100)) == [6, 2, 1]
            again.write([5], block(9))
            assert again.read([10, 40, 5], [1, 1, 1]).words.tolist() == [1, 4, 9]

    def test_it_is_said(self, root):
        problem = DirectoryReader(root, "admin").verify()["journal"]
        assert "3 of 6 records are missing from journal and ledger; " in problem
        assert problem.endswith(".log.damaged has what is left")

    def test_a_write_whose_traces_are_not_known_is_not_erased(self, root):
        with DurableStore(root) as again:
            for write in (1, 2):
                with pytest.raises(DamageError, match="record 3 after it is missing"):
                    again.eraser.erase(write)
            again.eraser.erase(6)
            assert again.read([50, 60], [1, 1]).words.tolist() == [5, 0]

    def test_writes_that_came_together_are_lost_together(self, tmp_path):
        with DurableStore.create(tmp_path / "g", 16) as store:
            store.write_many([one_write(10, 1, note="a"), one_write(20, 2, note="b")])
            store.write_many([one_write(30, 3), one_write(40, 4), one_write(50, 5)])
            store.create_version("a")
            store.write([60], block(6))
            segment = store._journal.segments[0].path
            flip(segment, [frame.offset for _, frame in scan(segment)][1] + 30)
            store.drop_version("a")
            store.checkpoint()
            assert [(record.sequence, record.note) for record in store.log(99)] == [(6, ""), (2, "b"), (1, "a")]
        problem = DirectoryReader(store.root, "admin").verify()["journal"]
        assert "3 of 6 records are missing from journal and ledger; " in problem
        with DurableStore(store.root) as again:
            assert again.read([10, 20, 30, 50], [1, 1, 1, 1]).words.tolist() == [1, 2, 3, 5]
            with pytest.raises(DamageError, match="record 3 after it is missing"):
                again.eraser.erase(2)
