"""A fork has what its parent had, whatever became of either since, whether it holds it yet or not."""

import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from leworld.errors import DamageError, StoreError
from leworld.memory import Words
from leworld.store.access_control import Grant, Rights, load_rights, save_rights
from leworld.store.durable_store import DurableStore, StoreConfig, Write
from leworld.store.forks import backfill as filling
from leworld.store.forks.fork_link import FILLED, FILLING, FREE, read_link, relink
from leworld.store.forks.fork_registry import forks_of
from leworld.store.layout import Layout, read_identity, read_map, write_map
from leworld.store.mapped_memory import MappedMemory, page_sums
from leworld.store.versions.version_reader import VersionReader
from tests.store.stores import block, content, crashed, fill, flip, start_anew, version_content

REPOSITORY = Path(__file__).parents[3]
PAGE = 256


@pytest.fixture
def parent(tmp_path):
    """Some pages of 2^16 words, each of which holds its number and one."""
    with DurableStore.create(tmp_path / "parent", 16) as made:
        pages = np.arange(0, 256, 3)
        made.write(pages * PAGE, np.repeat(pages + 1, PAGE).reshape(-1, PAGE).astype(np.uint32))
        yield made


@pytest.fixture
def idle(monkeypatch):
    """Nothing is taken over but what is written."""
    monkeypatch.setattr(filling, "PAUSE_S", 3600.0)
    return monkeypatch


@pytest.fixture
def slow(monkeypatch):
    """Pages are taken over one by one."""
    monkeypatch.setattr(filling, "PAUSE_S", 0.002)
    monkeypatch.setattr(filling, "PIECE_PAGES", 1)
    monkeypatch.setattr(filling, "SCAN_PAGES", 16)
    return monkeypatch


@pytest.fixture
def child(parent, tmp_path):
    """Of a fork that nobody has opened."""
    parent.versions.fork(tmp_path / "child")
    return tmp_path / "child"


def stage(root):
    return read_link(Layout(root)).stage


def held(root):
    """Number of pages that a fork of 256 holds, as all processes see it."""
    try:
        return np.count_nonzero(np.fromfile(root / "filling", np.uint8)[:-1])
    except FileNotFoundError:
        return 256


def filled(root):
    with DurableStore(root) as store:
        store.backfill.finish()
        return content(store)


class TestMaking:
    def test_it_has_the_content_and_neither_sees_what_the_other_writes(self, parent, child, idle):
        right = content(parent)
        np.testing.assert_array_equal(content(MappedMemory(child)), right)
        parent.write([0, 300], fill(7, 200, 2))
        with DurableStore(child) as fork:
            np.testing.assert_array_equal(content(fork), right)
            changed = content(parent)
            fork.write([5, 60_000], fill(8, 100, 2))
            np.testing.assert_array_equal(content(parent), changed)
            right[5:105] = right[60_000:60_100] = 8
            np.testing.assert_array_equal(content(fork), right)
            np.testing.assert_array_equal(content(MappedMemory(child)), right)
            assert fork.sequence == 1
            assert read_identity(fork.root).id != read_identity(parent.root).id

    def test_of_a_version(self, parent, tmp_path):
        parent.create_version("a")
        right = content(parent)
        parent.write([0], fill(7, 250))
        parent.checkpoint()
        parent.versions.fork(tmp_path / "child", "a")
        parent.drop_version("a")
        parent.write([256], fill(9, 250))
        parent.checkpoint()
        np.testing.assert_array_equal(content(MappedMemory(tmp_path / "child")), right)
        np.testing.assert_array_equal(filled(tmp_path / "child"), right)

    def test_of_a_version_that_is_none(self, parent, tmp_path):
        with pytest.raises(StoreError, match="version 'b' is not kept"):
            parent.versions.fork(tmp_path / "child", "b")
        assert sorted(path.name for path in tmp_path.iterdir()) == ["parent"]
        assert not forks_of(parent.layout)

    def test_where_something_is(self, parent, child):
        with pytest.raises(StoreError, match="child: is not empty; name another directory"):
            parent.versions.fork(child)
        assert len(list(parent.versions)) == 1

    def test_into_an_empty_directory(self, parent, tmp_path):
        (tmp_path / "empty").mkdir()
        parent.versions.fork(tmp_path / "empty")
        np.testing.assert_array_equal(content(MappedMemory(tmp_path / "empty")), content(parent))

    def test_of_one_of_several_copies(self, parent, tmp_path):
        write_map(parent.layout.epoch, {"epoch": 1})
        with pytest.raises(StoreError, match="is one of several copies"):
            parent.versions.fork(tmp_path / "child")

    def test_rights_go_along(self, parent, tmp_path):
        save_rights(parent.layout, Rights([Grant(0, 10, "eve")], parent.num_words))
        parent.versions.fork(tmp_path / "child")
        save_rights(parent.layout, Rights([], parent.num_words))
        assert load_rights(Layout(tmp_path / "child"), 1 << 16).grants == [Grant(0, 10, "eve")]

    def test_it_takes_as_little_however_large_the_memory_is(self, tmp_path):
        taken = []
        for name, bits, pages in (("small", 16, 1), ("large", 24, 1 << 14)):
            with DurableStore.create(tmp_path / name, bits, StoreConfig("os")) as store:
                for first in range(0, pages, 1 << 12):
                    start = np.arange(first, min(first + (1 << 12), pages)) * PAGE
                    store.write(start, fill(7, PAGE, len(start)))
                store.checkpoint()
                before = on_disk(store.root)
                store.versions.fork(tmp_path / f"{name} fork")
                taken.append(on_disk(tmp_path / f"{name} fork") + on_disk(store.root) - before)
        assert max(taken) < 64 << 10
        assert taken[0] == taken[1]

    def test_what_holds_nothing_stays_a_hole(self, tmp_path):
        with DurableStore.create(tmp_path / "parent", 32) as store:
            store.write([5, (1 << 32) - 300], fill(7, 250, 2))
            store.versions.fork(tmp_path / "child")
        with DurableStore(tmp_path / "child") as fork:
            fork.backfill.finish()
            assert fork.read([5, (1 << 32) - 300, 1 << 31], [1, 1, 1]).words.tolist() == [7, 7, 0]
            assert fork.stat()["pages_written"] == 3
            assert fork.stat()["words_bytes"] < 1 << 20


def on_disk(root):
    return sum(path.stat().st_blocks for path in [root, *root.rglob("*")]) * 512


class TestFilling:
    def test_it_comes_to_hold_everything_and_the_parent_lets_go(self, parent, child):
        right = content(parent)
        with DurableStore(child) as fork:
            assert stage(child) == FILLING
            fork.backfill.finish()
            # The parent is open, so that it is the one who has to.
            assert stage(child) == FILLED
            assert [version.name for version in parent.versions] == [f"fork-{read_identity(fork.root).id}"]
            assert not (child / "filling").exists()
            assert not (child / "filled").exists()
        parent.close()
        shutil.rmtree(parent.root)
        with DurableStore(child) as fork:
            np.testing.assert_array_equal(content(fork), right)
            assert not len(fork.verify())
            np.testing.assert_array_equal(MappedMemory(child).sums, page_sums(MappedMemory(child).pages))
            assert fork.snapshot().pages.tolist() == list(range(0, 256, 3))

    @pytest.mark.parametrize("opened", ["child", "parent"])
    def test_who_is_opened_next_lets_go(self, parent, child, opened):
        filled(child)
        name = next(iter(parent.versions)).name
        # As a process would leave it that ends without closing.
        parent.abandon()
        assert stage(child) == FILLED
        with DurableStore(child if opened == "child" else parent.root):
            pass
        with DurableStore(parent.root) as again:
            assert name not in [version.name for version in again.versions]

    def test_a_closed_parent_lets_go_at_once(self, parent, child):
        parent.close()
        filled(child)
        assert stage(child) == FREE
        with DurableStore(parent.root) as again:
            assert list(again.versions) == []
            assert again.stat()["journal_segments"] == 1

    def test_a_reader_beside_goes_on_when_the_parent_is_gone(self, parent, child):
        right, beside = content(parent), MappedMemory(child)
        assert beside.inherited is not None
        parent.close()
        filled(child)
        shutil.rmtree(parent.root)
        np.testing.assert_array_equal(content(beside), right)
        assert beside.inherited is None
        assert beside.written_pages().tolist() == list(range(0, 256, 3))

    def test_it_goes_on_where_it_was(self, parent, child, idle):
        for step in range(4):
            with DurableStore(child) as fork:
                fork.write([step * 3 * PAGE], block(50 + step))
                assert held(child) == step + 1
        noted = read_map(child / "filled", {"bits": bytes})["bits"]
        assert np.flatnonzero(np.unpackbits(np.frombuffer(noted, np.uint8))).tolist() == [0, 3, 6, 9]

    def test_a_fork_that_is_closed_is_filled_no_more(self, parent, child, idle):
        with DurableStore(child) as fork:
            pass
        with pytest.raises(StoreError, match="child: is closed"):
            fork.backfill.finish()

    @pytest.mark.parametrize("seed", range(4))
    def test_random_writes_to_both_sides(self, parent, child, slow, seed):
        random, models = np.random.default_rng(seed), {"parent": content(parent), "child": content(parent)}
        stores = {"parent": parent, "child": DurableStore(child, StoreConfig(segment_bytes=1 << 14))}
        beside, versions = MappedMemory(child), {}
        for step in range(60):
            name = "parent" if random.random() < 0.5 else "child"
            store, model = stores[name], models[name]
            start, length = random.integers(0, 65_000, 3), int(random.integers(1, 257))
            words = random.integers(0, 5, (3, length), np.uint32)
            if step % 3:
                store.write(start, words)
            else:
                offsets = np.array([0, length])
                store.write_many([Write(start[i : i + 1], Words(words[i], offsets)) for i in range(3)])
            for first, row in zip(start.tolist(), words, strict=True):
                model[first : first + length] = row
            what = random.integers(0, 12)
            if what == 0:
                store.checkpoint()
            elif what == 1 and name == "child":
                store.create_version(f"v{step}")
                versions[f"v{step}"] = model.copy()
            elif what == 2 and versions and name == "child":
                chosen = str(random.choice(list(versions)))
                store.rollback_to(chosen)
                model[:] = versions[chosen]
            elif what == 3:
                store.close()
                stores[name] = DurableStore(store.root, store.config)
            start, length = random.integers(0, 65_000, 20), random.integers(0, 257, 20)
            right = np.concatenate([models["child"][a : a + n] for a, n in zip(start, length, strict=True)])
            np.testing.assert_array_equal(stores["child"].read(start, length).words, right)
            np.testing.assert_array_equal(beside.read(start, length).words, right)
        np.testing.assert_array_equal(content(stores["parent"]), models["parent"])
        for store in (stores["child"], beside):
            np.testing.assert_array_equal(content(store), models["child"])
        for version, right in versions.items():
            np.testing.assert_array_equal(version_content(stores["child"], version), right)
            assert_same_snapshot(VersionReader(child, version).snapshot(), right)
        assert_same_snapshot(stores["child"].snapshot(), models["child"])
        stores["child"].backfill.finish()
        np.testing.assert_array_equal(content(stores["child"]), models["child"])
        assert not len(stores["child"].verify())
        stores["child"].close()
        stores["parent"].close()

    def test_pages_that_the_parent_came_to_hold_since_are_not_the_forks(self, parent, child, idle):
        right = np.arange(0, 256, 3)
        parent.write([PAGE, 3 * PAGE], np.stack([fill(9, PAGE)[0], fill(0, PAGE)[0]]))
        assert MappedMemory(child).written_pages().tolist() == right.tolist()
        with DurableStore(child) as fork:
            fork.write([6 * PAGE, 7 * PAGE], np.stack([fill(0, PAGE)[0], fill(1, PAGE)[0]]))
            assert fork.written_pages().tolist() == sorted({*right.tolist(), 7} - {6})
            assert MappedMemory(child).written_pages(5, 8).tolist() == [7]

    def test_a_snapshot_replaces_what_is_not_held(self, parent, child, tmp_path, idle):
        with DurableStore.create(tmp_path / "other", 16) as other, DurableStore(child) as fork:
            other.write([PAGE], fill(4))
            fork.create_version("before")
            fork.restore(other.snapshot())
            np.testing.assert_array_equal(content(fork), content(other))
            fork.rollback_to("before")
            np.testing.assert_array_equal(content(fork), content(parent))


def assert_same_snapshot(snapshot, words):
    words = words.reshape(-1, PAGE)
    np.testing.assert_array_equal(snapshot.pages, np.flatnonzero(words.any(1)))
    np.testing.assert_array_equal(snapshot.words, words[snapshot.pages])


class TestForksOfForks:
    def test_three_in_a_row(self, parent, child, tmp_path, idle):
        first = content(parent)
        with DurableStore(child) as fork:
            fork.write([0], fill(5, 100))
            second = content(fork)
            fork.versions.fork(tmp_path / "third")
            fork.write([0, 900], fill(6, 100, 2))
            parent.write([0], fill(7, 256))
            np.testing.assert_array_equal(content(MappedMemory(tmp_path / "third")), second)
        idle.undo()
        np.testing.assert_array_equal(filled(tmp_path / "third"), second)
        second[0:100] = second[900:1000] = 6
        np.testing.assert_array_equal(filled(child), second)
        assert first[0] == 1

    def test_what_is_in_between_may_come_to_hold_everything_first(self, parent, child, tmp_path):
        right = content(parent)
        with DurableStore(child) as fork:
            fork.versions.fork(tmp_path / "third")
        third = MappedMemory(tmp_path / "third")
        assert third.read([0], [1]).words.tolist() == [1]
        filled(child)
        parent.close()
        shutil.rmtree(parent.root)
        np.testing.assert_array_equal(content(third), right)


PROGRAM = """
import sys, time
import numpy as np
from leworld.store.forks import backfill
from leworld.store.durable_store import DurableStore, StoreConfig
root, seed = sys.argv[1], int(sys.argv[2])
backfill.PIECE_PAGES, backfill.PAUSE_S, backfill.SAVE_PAGES, backfill.SCAN_PAGES = 1, 0.001, 8, 16
random = np.random.default_rng(seed)
with DurableStore(root, StoreConfig(segment_bytes=1 << 13)) as store:
    print("ready", flush=True)
    while True:
        address, value = int(random.integers(0, 65_536)), int(random.integers(1, 1 << 32))
        print("begin", address, value, flush=True)
        store.write([address], np.array([[value]], np.uint32))
        print("done", flush=True)
        time.sleep(0.001)
"""


def killed_when(process, child, pages):
    """Kill the process when its file holds that many pages."""
    while process.poll() is None and held(child) < pages:
        time.sleep(0.0005)
    process.send_signal(signal.SIGKILL)


class TestCrashes:
    def test_killed_while_it_is_filled(self, parent, child):
        model, seen, random = content(parent), [], np.random.default_rng(0)
        environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
        for seed in range(8):
            process = subprocess.Popen(
                [sys.executable, "-c", PROGRAM, str(child), str(seed)], stdout=subprocess.PIPE, env=environment
            )
            assert process.stdout.readline() == b"ready\n"
            threading.Thread(
                target=killed_when, args=(process, child, min(256, held(child) + random.integers(1, 40)))
            ).start()
            # The last line may be cut off, too.
            lines = process.communicate()[0].decode().rpartition("\n")[0].splitlines()
            parent.write(random.integers(0, 65_000, 4), fill(99, 200, 4))
            unsure = None
            for line in lines:
                kind, *numbers = line.split()
                unsure = tuple(map(int, numbers)) if kind == "begin" else model.__setitem__(*unsure)
            seen.append(held(child))
            with DurableStore(child) as fork:
                found = content(fork)
            if unsure is not None and found[unsure[0]] == unsure[1]:
                model[unsure[0]] = unsure[1]
            np.testing.assert_array_equal(found, model)
        assert any(0 < number < 256 for number in seen)
        np.testing.assert_array_equal(filled(child), model)
        assert not len(MappedMemory(child).verify_all())

    @pytest.mark.parametrize("seed", range(3))
    def test_a_machine_that_fails_loses_what_was_not_noted(self, parent, child, slow, tmp_path, seed):
        slow.setattr(filling, "SAVE_PAGES", 16)
        random, model, fork = np.random.default_rng(seed), content(parent), DurableStore(child)
        for step in range(30):
            address = int(random.integers(0, 65_000))
            fork.write([address], fill(1000 + step, 100))
            model[address : address + 100] = 1000 + step
            if step == 11:
                fork.checkpoint()
        fork.backfill.close()
        after = start_anew_with_random_words(crashed(fork, tmp_path / "crashed"), random)
        fork.close()
        with DurableStore(after) as again:
            np.testing.assert_array_equal(content(again), model)
            again.backfill.finish()
            np.testing.assert_array_equal(content(again), model)
            assert not len(again.verify())

    def test_what_is_held_is_on_the_disk_before_a_checkpoint_is(self, parent, child, tmp_path, idle):
        with DurableStore(child) as fork:
            fork.write([0], block(70))
            fork.checkpoint()
            assert not fork._journal.segments[-1].size
            after = crashed(fork, tmp_path / "crashed")
        start_anew(after)
        (after / "filling").write_bytes(bytes(257))
        with DurableStore(after) as again:
            assert again.read([0, 1], [1, 1]).words.tolist() == [70, 1]

    def test_what_the_journal_tells_to_be_held_stays_so_after_a_checkpoint(self, parent, child, idle, tmp_path):
        with DurableStore(child) as fork:
            fork.write([0], block(70))
            after = crashed(fork, tmp_path / "crashed")
        start_anew(after)
        for _ in range(3):
            with DurableStore(after) as again:
                assert again.read([0, 1], [1, 1]).words.tolist() == [70, 1]

    def test_a_fork_that_was_never_put_in_place(self, parent, tmp_path, monkeypatch):
        def fail(*_):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "rename", fail)
        with pytest.raises(StoreError, match="child: cannot be made"):
            parent.versions.fork(tmp_path / "child")
        assert sorted(path.name for path in tmp_path.iterdir()) == ["parent"]
        assert list(parent.versions) == []

    def test_an_interrupted_fork_leaves_a_version_that_can_be_dropped(self, parent, tmp_path, monkeypatch):
        class End(BaseException):
            pass

        def end(*_):
            raise End

        monkeypatch.setattr(os, "rename", end)
        with pytest.raises(End):
            parent.versions.fork(tmp_path / "child")
        (version,) = parent.versions
        parent.drop_version(version.name)
        assert list(parent.versions) == []

    def test_a_full_disk_ends_filling_and_no_words_are_wrong(self, parent, child, idle):
        right = content(parent)

        def refuse(*_):
            raise OSError(28, "No space left on device")

        with DurableStore(child) as fork:
            fork.backfill.close()
            fork.backfill._stopped.clear()
            with idle.context() as patch:
                patch.setattr(os, "posix_fallocate", refuse)
                with pytest.raises(StoreError, match="make room"):
                    fork.backfill.finish()
                np.testing.assert_array_equal(content(fork), right)
                with pytest.raises(StoreError, match="make room"):
                    fork.write([250 * PAGE], block(1))
            fork.backfill.finish()
            np.testing.assert_array_equal(content(fork), right)


def start_anew_with_random_words(root, random):
    """Every page that was not noted is there or not; what was to say so says that all are."""
    start_anew(root)
    found = read_map(root / "filled", {"bits": bytes})
    noted = np.unpackbits(np.frombuffer(found["bits"], np.uint8), count=256)
    lost = np.flatnonzero((noted == 0) & (random.random(256) < 0.7))
    words, sums = (np.memmap(root / name, np.uint32, "r+") for name in ("words", "sums"))
    words.reshape(-1, PAGE)[lost] = 0
    sums[lost] = np.where(random.random(len(lost)) < 0.5, sums[lost], 0)
    (root / "filling").write_bytes(b"\1" * 257)
    return root


def read_across(root, ready, stop, found):
    """Read ranges over the border of two pages, over and over; each must be of one write."""
    memory, random = MappedMemory(root), np.random.default_rng(os.getpid())
    wrong = count = 0
    while not stop.is_set():
        for first in random.permutation(128).tolist():
            words = memory.read([first * 512 + 128], [256]).words
            wrong += bool((words != words[0]).any()) or int(words[0]) not in (first + 1, first + 1001)
            count += 1
        ready.set()
    found.put((wrong, count, memory.inherited is None))


class TestReadersBeside:
    def test_they_never_see_half_a_write_nor_zeros(self, tmp_path, slow):
        slow.setattr(filling, "PAUSE_S", 0.01)
        with DurableStore.create(tmp_path / "parent", 16) as parent:
            start = np.arange(128) * 512
            values = np.repeat(np.arange(1, 129), 256).reshape(-1, 256).astype(np.uint32)
            for offset in (0, 256):
                parent.write(start + offset, values)
            parent.versions.fork(tmp_path / "child")
            context = multiprocessing.get_context("spawn")
            ready, stop, found = context.Event(), context.Event(), context.Queue()
            reader = context.Process(target=read_across, args=(tmp_path / "child", ready, stop, found))
            reader.start()
            assert ready.wait(30)
            random = np.random.default_rng(0)
            with DurableStore(tmp_path / "child") as fork:
                for step, first in enumerate(random.permutation(128).tolist()):
                    fork.write([first * 512 + 128], fill(first + 1001, 256))
                    parent.write([first * 512], fill(7 + step, 256))
                fork.backfill.finish()
                ready.clear()
                assert ready.wait(30)
            stop.set()
            wrong, count, is_over = found.get(timeout=30)
            reader.join()
        assert (wrong, is_over) == (0, True)
        assert count > 200

    def test_threads_of_the_writers_process(self, parent, child, slow):
        right, errors = content(parent), []

        def look(fork):
            for _ in range(20):
                if not np.array_equal(content(fork), right):
                    errors.append("other words")

        with DurableStore(child) as fork:
            threads = [threading.Thread(target=look, args=(fork,)) for _ in range(3)]
            for thread in threads:
                thread.start()
            fork.backfill.finish()
            for thread in threads:
                thread.join()
        assert not errors


class TestVersionsThatForksNeed:
    def test_dropping_one_is_refused_until_the_fork_holds_everything(self, parent, child, idle):
        (version,) = parent.versions
        with pytest.raises(StoreError, match=rf"version '{version.name}' is needed by its fork .*child, .* fill"):
            parent.drop_version(version.name)
        idle.undo()
        filled(child)
        parent.drop_version(version.name)
        assert list(parent.versions) == []

    def test_a_fork_that_is_gone_needs_nothing(self, parent, child):
        shutil.rmtree(child)
        parent.drop_version(next(iter(parent.versions)).name)
        parent.close()
        with DurableStore(parent.root):
            assert not forks_of(parent.layout)

    def test_a_fork_that_was_moved_says_where_it_is(self, parent, child, tmp_path, idle):
        child.rename(tmp_path / "moved")
        DurableStore(tmp_path / "moved").close()
        with pytest.raises(StoreError, match=r"is needed by its fork .*moved"):
            parent.drop_version(next(iter(parent.versions)).name)

    def test_a_note_that_is_lost_is_made_again(self, parent, child, idle):
        (parent.layout.forks / next(iter(parent.versions)).name).unlink()
        DurableStore(child).close()
        with pytest.raises(StoreError, match=r"is needed by its fork .*child"):
            parent.drop_version(next(iter(parent.versions)).name)

    def test_other_versions_come_and_go(self, parent, child):
        parent.create_version("a")
        parent.drop_version("a")
        assert len(list(parent.versions)) == 1

    def test_a_version_that_was_dropped_even_so_is_told(self, parent, child, idle):
        parent._kept.drop(next(iter(parent.versions)).name)
        parent.write([0], fill(9))
        parent.close()
        with pytest.raises(
            StoreError, match=r"child: .*parent, which cannot be read \(version 'fork-.*leworld memory fill"
        ):
            MappedMemory(child).read([0], [1])


class TestParents:
    def test_gone(self, parent, child, idle):
        with DurableStore(child) as fork:
            fork.write([0], block(50))
        parent.close()
        parent.root.rename(parent.root.with_name("moved"))
        with DurableStore(child) as fork:
            assert fork.read([0, 1], [1, 1]).words.tolist() == [50, 1]
            for action in (
                lambda: fork.read([3 * PAGE], [1]),
                lambda: fork.write([3 * PAGE], block(1)),
                fork.backfill.finish,
            ):
                with pytest.raises(StoreError, match=r"parent, which cannot be read \(.*--parent DIR"):
                    action()
            assert fork.sequence == 1
            assert "cannot be read" in str(fork.backfill.problem)

    def test_moved(self, parent, child):
        right = content(parent)
        parent.close()
        parent.root.rename(parent.root.with_name("moved"))
        relink(child, parent.root.with_name("moved"))
        np.testing.assert_array_equal(content(MappedMemory(child)), right)
        np.testing.assert_array_equal(filled(child), right)
        assert stage(child) == FREE

    def test_only_the_parent_is_one(self, parent, child, tmp_path):
        DurableStore.create(tmp_path / "other", 16).close()
        with pytest.raises(StoreError, match=r"other: is memory .*, and the parent of .*child is"):
            relink(child, tmp_path / "other")
        with pytest.raises(StoreError, match="is no fork"):
            relink(tmp_path / "other", parent.root)

    @pytest.mark.parametrize("when", ["closed", "open"])
    def test_another_memory_in_its_place(self, parent, child, idle, when):
        fork = MappedMemory(child)
        if when == "open":
            assert fork.read([0], [1]).words.tolist() == [1]
        parent.close()
        parent.root.rename(parent.root.with_name("moved"))
        with DurableStore.create(parent.root, 16) as other:
            other.write([0], fill(9, 256))
            for _ in range(2):
                with pytest.raises(StoreError, match="parent, which cannot be read"):
                    fork.read([0], [1])

    def test_deleted_while_the_fork_is_read(self, parent, child):
        fork = MappedMemory(child)
        assert fork.read([0], [1]).words.tolist() == [1]
        parent.write([0], fill(9, 256))
        parent.close()
        shutil.rmtree(parent.root)
        with pytest.raises(StoreError, match="parent, which cannot be read"):
            fork.read([0], [1])

    def test_damaged_in_a_page(self, parent, child):
        parent.checkpoint()
        parent.close()
        flip(parent.root / "words", 3 * PAGE * 4)
        with DurableStore(child) as fork:
            with pytest.raises(DamageError, match=r"parent: page 3: .*leworld memory fill") as caught:
                fork.backfill.finish()
            assert caught.value.pages == (3,)
            assert fork.read([0, 6 * PAGE], [1, 1]).words.tolist() == [1, 7]
            assert fork.verify().tolist() == [3]
            for action in (lambda: fork.read([3 * PAGE], [1]), lambda: fork.write([3 * PAGE], block(1))):
                with pytest.raises(DamageError, match="page 3"):
                    action()
        assert stage(child) == FILLING
        assert MappedMemory(child).verify_all().tolist() == [3]

    def test_damage_of_what_the_fork_holds_is_found(self, parent, child):
        filled(child)
        flip(child / "words", 3 * PAGE * 4)
        assert MappedMemory(child).verify_all().tolist() == [3]

    def test_a_note_that_is_damaged_opens_nothing(self, parent, child):
        flip(child / "fork", 20)
        with pytest.raises(StoreError, match="fork: is damaged"):
            MappedMemory(child)


class TestErasing:
    def test_a_write_of_the_parent_is_none_of_the_forks(self, parent, child):
        with DurableStore(child) as fork:
            fork.write([0], block(5))
            fork.eraser.erase(1)
            assert fork.read([0, 1], [1, 1]).words.tolist() == [0, 1]
            with pytest.raises(StoreError, match=r"write 9 is not known: .*; those of .*parent, from which"):
                fork.eraser.erase(9)

    def test_what_the_parent_erases_does_not_come_any_more(self, parent, child, idle):
        with DurableStore(child) as fork:
            fork.write([1], block(50))
            erasure = parent.eraser.erase(1)
            assert parent.eraser.is_erased(erasure)
            # Page 0 was taken over before, the others not.
            right = np.zeros(1 << 16, np.uint32)
            right[:PAGE], right[1] = 1, 50
            np.testing.assert_array_equal(content(fork), right)
            np.testing.assert_array_equal(content(MappedMemory(child)), right)
        idle.undo()
        np.testing.assert_array_equal(filled(child), right)

    def test_nor_what_it_wrote_over_and_erases(self, parent, child, idle):
        parent.write([3 * PAGE], fill(9, PAGE))
        parent.eraser.erase(1)
        assert not content(MappedMemory(child)).any()
        parent.eraser.erase(2)
        idle.undo()
        assert not filled(child).any()

    def test_what_was_cut_off_while_it_was_taken_over_goes_too(self, parent, child, idle, tmp_path):
        with DurableStore(child) as fork:
            fork._committer.mapped.reserve(np.arange(16))
            fork.mapped.pages[3] = 4
        parent.eraser.erase(1)
        idle.undo()
        assert not filled(child).any()
        assert not len(MappedMemory(child).verify_all())

    def test_in_a_fork_it_is_of_all_its_versions(self, parent, child, slow):
        right = content(parent)
        with DurableStore(child) as fork:
            fork.write([0], fill(8, 200))
            fork.create_version("a")
            erasure = fork.eraser.erase(1)
            assert fork.eraser.is_erased(erasure)
            right[:200] = 0
            np.testing.assert_array_equal(version_content(fork, "a"), right)
            np.testing.assert_array_equal(content(fork), right)
