import errno
import os
import shutil
import threading
from dataclasses import replace

import numpy as np
import pytest

from leworld.errors import ConfigError, DamageError, StoreError
from leworld.store.journal import journal as module
from leworld.store.journal import synced_file
from leworld.store.journal.journal import POLICIES, Journal
from leworld.store.journal.record import Record, encode
from leworld.store.journal.segment import load_segment, load_segments, scan, segment_paths
from tests.store.stores import flip


def record(sequence, pages=(), length=3):
    pages = np.array(pages, np.int64)
    return Record(
        sequence=sequence,
        time_ns=sequence,
        start=np.array([sequence * 10]),
        length=np.array([length]),
        words=np.full(length, sequence, np.uint32),
        pages=pages,
        before=np.full((len(pages), 256), 1000 + sequence, np.uint32),
    )


@pytest.fixture
def journal(tmp_path):
    made = Journal(tmp_path, "group", 0)
    yield made
    made.close()


def sequences(directory):
    return [found.sequence for path in segment_paths(directory) for found, _ in scan(path)]


def write_segments(directory, *ends):
    """Segments that end with these records."""
    journal, sequence = Journal(directory, "group", 0), 0
    for end in ends:
        while sequence < end:
            sequence += 1
            journal.append([record(sequence, [sequence])])
        if end != ends[-1]:
            journal.roll()
    journal.close()


@pytest.mark.parametrize("policy", POLICIES)
def test_records_are_there_when_a_journal_is_opened_again(tmp_path, policy):
    journal = Journal(tmp_path, policy, 0)
    journal.append([record(1, [4]), record(2)])
    journal.roll()
    journal.append([record(3, [4, 9])])
    journal.close()
    again = Journal(tmp_path, policy, 0)
    assert (again.sequence, [segment.first for segment in again.segments]) == (3, [1, 3])
    assert again.segments[0].before.keys() == {4}
    assert again.last.read_before(np.array([9, 4])).tolist() == [[1003] * 256] * 2
    again.append([record(4)])
    again.close()
    assert sequences(tmp_path) == [1, 2, 3, 4]


def test_an_unknown_policy_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="policy 'never' is unknown: use one of always, group, os"):
        Journal(tmp_path, "never", 0)


def test_a_journal_whose_directory_is_empty_goes_on_after_the_checkpoint_only_at_the_begin(tmp_path):
    journal = Journal(tmp_path, "group", 0)
    assert journal.sequence == 0
    journal.close()
    for path in segment_paths(tmp_path):
        path.unlink()
    with pytest.raises(DamageError, match="record 6 is missing"):
        Journal(tmp_path, "group", 5)


def test_rolling_an_empty_segment_does_nothing(journal):
    journal.roll()
    journal.append([record(1)])
    journal.roll()
    journal.roll()
    assert [segment.first for segment in journal.segments] == [1, 2]


def test_a_record_that_was_cut_off_makes_room_for_the_next(tmp_path):
    write_segments(tmp_path, 3)
    path = segment_paths(tmp_path)[0]
    whole, cut = path.read_bytes(), b"".join(encode(record(4, [1])))[:-1]
    path.write_bytes(whole + cut)
    journal = Journal(tmp_path, "group", 0)
    assert (journal.sequence, path.read_bytes()) == (3, whole)
    journal.append([record(4)])
    journal.close()
    assert sequences(tmp_path) == [1, 2, 3, 4]


def test_damage_before_a_whole_record_is_not_taken_for_the_end(tmp_path):
    write_segments(tmp_path, 3)
    path = segment_paths(tmp_path)[0]
    begins = [frame.offset for _, frame in scan(path)]
    good = path.read_bytes()
    for byte in range(0, begins[-1], 13):
        flip(path, byte, byte % 8)
        with pytest.raises(DamageError, match=f"{path.name}: damaged at byte"):
            Journal(tmp_path, "group", 0)
        path.write_bytes(good)


@pytest.mark.parametrize("cut", [1, 50, 10_000])
def test_a_segment_that_ends_too_early_before_another_is_damage(tmp_path, cut):
    write_segments(tmp_path, 3, 6)
    path = segment_paths(tmp_path)[0]
    path.write_bytes(path.read_bytes()[:-cut])
    with pytest.raises(DamageError, match="is missing"):
        Journal(tmp_path, "group", 0)


def test_a_segment_that_is_gone_is_damage(tmp_path):
    (tmp_path / "made").mkdir()
    write_segments(tmp_path / "made", 2, 4, 6)
    for gone, first in enumerate((1, 3)):
        shutil.copytree(tmp_path / "made", tmp_path / str(gone))
        segment_paths(tmp_path / str(gone))[gone].unlink()
        with pytest.raises(DamageError, match=f"record {first} is missing"):
            Journal(tmp_path / str(gone), "group", 0)


def test_the_segment_after_the_checkpoint_must_be_there(tmp_path):
    write_segments(tmp_path, 2, 4)
    assert len(load_segments(tmp_path, 2)) == 2
    segment_paths(tmp_path)[1].unlink()
    with pytest.raises(DamageError, match="record 3 is missing"):
        load_segments(tmp_path, 2)


def test_pages_of_before_of_an_old_segment_that_lost_its_end_are_not_used(tmp_path):
    write_segments(tmp_path, 3, 4)
    path = segment_paths(tmp_path)[0]
    path.write_bytes(path.read_bytes()[:-1])
    old, _ = load_segments(tmp_path, 3)
    with pytest.raises(DamageError, match="record 3 is missing"):
        assert old.before


def test_a_segment_under_another_name_is_damage(tmp_path):
    write_segments(tmp_path, 2)
    path = segment_paths(tmp_path)[0]
    path.rename(path.with_name("00000000000000000002.log"))
    with pytest.raises(DamageError, match="record 1 where 2 was due"):
        Journal(tmp_path, "group", 1)


def test_a_full_disk_leaves_the_journal_as_it_was(journal, monkeypatch):
    journal.append([record(1, [1])])
    size, write = journal.last.path.stat().st_size, os.write

    def half(file, data):
        write(file, data[: len(data) // 2])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(synced_file.os, "write", half)
    with pytest.raises(StoreError, match="not written \\(No space left on device\\): make room") as caught:
        journal.append([record(2, [2]), record(3)])
    assert "\n" not in str(caught.value)
    assert (journal.sequence, journal.last.size, journal.last.path.stat().st_size) == (1, size, size)
    monkeypatch.setattr(synced_file.os, "write", write)
    journal.append([record(2, [2])])
    assert load_segment(journal.last.path).before == journal.last.before


def test_a_full_disk_does_not_leave_half_a_new_segment(journal, monkeypatch):
    journal.append([record(1)])

    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(module, "sync", full)
    with pytest.raises(StoreError, match="No space left"):
        journal.roll()
    monkeypatch.undo()
    journal.append([record(2)])
    assert [path.name for path in segment_paths(journal.directory)] == [journal.last.path.name]
    assert sequences(journal.directory) == [1, 2]


def test_a_disk_that_fails_is_not_written_any_more(tmp_path, monkeypatch):
    journal = Journal(tmp_path, "group", 0)
    journal.append([record(1)])

    def failing(_):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(synced_file.os, "fdatasync", failing)
    for _ in range(2):
        with pytest.raises(StoreError, match="the disk failed \\(Input/output error\\)"):
            journal.append([record(2)])
    monkeypatch.undo()
    with pytest.raises(StoreError, match="the disk failed"):
        journal.append([record(2)])
    journal.close()
    assert Journal(tmp_path, "group", 0).sequence in (1, 2)


@pytest.mark.parametrize("call", ["write", "fdatasync"])
def test_an_interrupted_append_leaves_the_journal_as_it_was(journal, monkeypatch, call):
    journal.append([record(1, [1])])
    real = getattr(os, call)

    def interrupted(*given):
        real(*given)
        raise KeyboardInterrupt

    monkeypatch.setattr(synced_file.os, call, interrupted)
    with pytest.raises(KeyboardInterrupt):
        journal.append([record(2, [2])])
    monkeypatch.undo()
    journal.append([record(2, [3])])
    assert load_segment(journal.last.path).before == journal.last.before
    assert sequences(journal.directory) == [1, 2]


def test_a_journal_that_is_closed_writes_into_no_file(tmp_path):
    (tmp_path / "j").mkdir()
    journal = Journal(tmp_path / "j", "os", 0)
    journal.append([record(1)])
    journal.close()
    with (tmp_path / "other").open("w+b") as other:
        with pytest.raises(StoreError, match="is closed: open the memory again"):
            journal.append([record(2)])
        assert os.fstat(other.fileno()).st_size == 0
    journal.close()


@pytest.mark.parametrize("policy", POLICIES)
def test_the_policy_says_when_records_are_on_the_disk(tmp_path, monkeypatch, policy):
    journal, synced = Journal(tmp_path, policy, 0), []
    monkeypatch.setattr(synced_file, "SYNC_EVERY_S", 1000)
    monkeypatch.setattr(synced_file.os, "fdatasync", synced.append)
    journal.append([record(1), record(2)])
    assert len(synced) == (0 if policy == "os" else 1)
    journal.roll()
    assert len(synced) == 1
    journal.close()


def test_policy_os_brings_records_to_the_disk_soon(tmp_path, monkeypatch):
    monkeypatch.setattr(synced_file, "SYNC_EVERY_S", 0.01)
    done, journal = threading.Event(), Journal(tmp_path, "os", 0)
    monkeypatch.setattr(synced_file.os, "fdatasync", lambda _: done.set())
    journal.append([record(1)])
    assert done.wait(10)
    journal.close()


def held_sync(monkeypatch):
    """The disk works, once ``working`` is set, until ``done`` is."""
    monkeypatch.setattr(synced_file, "SYNC_EVERY_S", 0.01)
    working, done, sync = threading.Event(), threading.Event(), os.fdatasync
    monkeypatch.setattr(synced_file.os, "fdatasync", lambda file: (working.set(), done.wait(10), sync(file)))
    return working, done


def test_with_policy_os_others_write_while_the_disk_works_unless_it_is_late(tmp_path, monkeypatch):
    working, done = held_sync(monkeypatch)
    journal = Journal(tmp_path, "os", 0)
    journal.append([record(1)])
    assert working.wait(10)
    journal.append([record(2)])
    monkeypatch.setattr(synced_file, "MAX_LATE_S", 0)
    late = threading.Thread(target=journal.append, args=([record(3)],))
    late.start()
    late.join(0.1)
    assert late.is_alive()
    done.set()
    late.join(10)
    assert journal.sequence == 3
    journal.close()
    assert sequences(tmp_path) == [1, 2, 3]


def test_a_new_segment_waits_for_the_sync_of_the_one_before(tmp_path, monkeypatch):
    working, done = held_sync(monkeypatch)
    journal = Journal(tmp_path, "os", 0)
    journal.append([record(1)])
    assert working.wait(10)
    rolling = threading.Thread(target=journal.roll)
    rolling.start()
    rolling.join(0.1)
    assert (rolling.is_alive(), len(segment_paths(tmp_path))) == (True, 1)
    done.set()
    rolling.join(10)
    assert len(segment_paths(tmp_path)) == 2
    journal.close()


def test_with_policy_os_nothing_is_written_after_the_disk_failed(tmp_path, monkeypatch):
    monkeypatch.setattr(synced_file, "SYNC_EVERY_S", 0.01)
    tried = threading.Event()

    def failing(_):
        tried.set()
        raise OSError(errno.EIO, "no")

    monkeypatch.setattr(synced_file.os, "fdatasync", failing)
    journal = Journal(tmp_path, "os", 0)
    journal.append([record(1)])
    assert tried.wait(10)
    journal._file._thread.join(10)
    for refused in (lambda: journal.append([record(2)]), journal.sync, journal.roll):
        with pytest.raises(StoreError, match="the disk failed"):
            refused()
    journal.close()


def test_a_group_of_which_a_machine_that_failed_wrote_only_later_parts_is_cut_off(tmp_path):
    journal = Journal(tmp_path, "group", 0)
    journal.append([record(1)])
    begin = journal.last.size
    journal.append([replace(record(sequence), group=2) for sequence in (2, 3, 4)])
    path = journal.last.path
    journal.close()
    flip(path, begin + 30)
    assert sequences(tmp_path) == [1]
    again = Journal(tmp_path, "group", 0)
    assert again.sequence == 1
    again.append([record(2)])
    again.close()
    assert sequences(tmp_path) == [1, 2]


def test_a_group_before_one_that_was_written_later_is_damaged_and_not_cut_off(tmp_path):
    journal = Journal(tmp_path, "group", 0)
    journal.append([replace(record(sequence), group=1) for sequence in (1, 2)])
    journal.append([record(3)])
    path = journal.last.path
    journal.close()
    flip(path, 30)
    with pytest.raises(DamageError, match="damaged at byte 0"):
        Journal(tmp_path, "group", 0)
