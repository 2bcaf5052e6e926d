"""A short sample of every fault of ``benchmarks/store_faults.py``, which does more of them."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks.store_faults.counts import Counts, table
from benchmarks.store_faults.flips import flip_bits
from benchmarks.store_faults.full_disk import fill_disks, on_a_small_disk, small_disk
from benchmarks.store_faults.fuzz import fuzz
from benchmarks.store_faults.journal_end import damage_the_end
from benchmarks.store_faults.kills import kill_at_every_step, kill_writers
from benchmarks.store_faults.model import Model, operations
from benchmarks.store_faults.processes import outcome
from benchmarks.store_faults.stores import check_opened, copy_of, flip
from leworld.store.durable_store import DurableStore


def assert_met(rows, *, at_least):
    """All faults were met as they should be, and there were some of each kind."""
    assert not [row for row in rows if row.failed], "\n" + table(rows)
    assert min(row.injected for row in rows) >= at_least, "\n" + table(rows)


def test_killed_writers_lose_nothing(tmp_path):
    rows = kill_writers(tmp_path, count=16, seed=1)
    assert_met(rows, at_least=1)
    assert sum(row.injected for row in rows) == 16


def test_a_kill_at_any_step_loses_nothing_and_a_going_back_is_finished(tmp_path):
    assert_met(kill_at_every_step(tmp_path, seed=0, every=19), at_least=2)


def test_a_damaged_end_of_the_journal_is_whole_or_absent(tmp_path):
    assert_met(damage_the_end(tmp_path, every=211), at_least=3)


def test_full_disks_refuse_and_lose_nothing(tmp_path):
    rows = fill_disks(tmp_path, rounds=6, seed=0)
    assert_met(rows, at_least=7)
    assert all(row.refused for row in rows)


def test_flipped_bits_are_found_before_they_are_served(tmp_path):
    rows = flip_bits(tmp_path, count=6, seed=0)
    assert_met(rows, at_least=6)
    assert [row.refused for row in rows[:2]] == [6, 6]


def test_nonsense_is_refused(tmp_path):
    assert_met(fuzz(tmp_path, decodes=900, opens=100, seed=1), at_least=100)


@pytest.mark.xfail(strict=True, reason="on tmpfs reading a word that was never written takes room, too")
def test_a_full_tmpfs_ends_no_process(tmp_path):
    with small_disk(tmp_path, "tmpfs") as disk:
        if disk is None:
            pytest.skip("only root can mount a file system")
        counts, line = outcome(on_a_small_disk, disk, 4, 0)
        assert not line
        assert not counts.failed


def test_lost_words_half_writes_and_errors_would_be_counted(tmp_path):
    right = Model.empty().after(next(iter(operations(5))))
    store = DurableStore.create(tmp_path / "m", 16)
    next(iter(operations(5))).do(store)
    store.close()
    assert check_opened(store.root, [right], good := Counts("good"), "") is not None
    assert not good.failed

    following = next(operation for operation in operations(6) if operation.kind == "write")
    check_opened(store.root, [right.after(following)], lost := Counts("lost"), "")
    assert lost.lost > 0
    more = right.words.copy()
    more[np.flatnonzero(more == 0)[0]] = 7
    check_opened(store.root, [Model.empty(), Model(more, {})], half := Counts("half"), "")
    assert (half.half, half.lost) == (1, 0)
    check_opened(store.root, [Model(right.words, {"a": right.words})], version := Counts("version"), "")
    assert version.lost == 1

    bad = copy_of(store.root, tmp_path / "bad")
    flip(bad / "identity", 77)
    check_opened(bad, [right], died := Counts("died"), "")
    assert (died.died, died.refused) == (1, 0)
    check_opened(bad, [right], refused := Counts("refused"), "", may_refuse=True)
    assert (refused.died, refused.refused) == (0, 1)
    assert "identity: is damaged" in table([died])


def test_a_process_that_dies_or_hangs_is_told(tmp_path):
    assert outcome(sys.exit, 3)[1] == "died with exit code 3"
    assert outcome(Path.exists, tmp_path) == (True, "")
    assert outcome(json.loads, "[1]") == ([1], "")
