"""Snapshots and versions in place of what is there: wholly or not at all, and in place of what is damaged, too."""

import errno
import shutil
from contextlib import suppress

import numpy as np
import pytest

from leworld.errors import DamageError, StoreError
from leworld.memory import Snapshot, Words
from leworld.store import committer as module
from leworld.store import restore_intent as restoring
from leworld.store.durable_store import DurableStore, StoreConfig, Write
from leworld.store.layout import write_map
from leworld.store.mapped_memory import MappedMemory
from tests.store.stores import block, content, crashed, fill, flip, last_segment, start_anew, version_content

PAGE_BYTES = 1024


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "CHUNK_PAGES", 4)
    with DurableStore.create(tmp_path / "m", 16, StoreConfig(segment_bytes=1 << 12)) as made:
        yield made


def snapshot_of(value, pages=range(0, 40, 3)):
    pages = np.array(pages, np.int64)
    words = np.random.default_rng(value).integers(1, 1 << 32, (len(pages), 256), np.uint32)
    return Snapshot(16, 5, pages, words)


def words_of(snapshot):
    out = np.zeros((256, 256), np.uint32)
    out[snapshot.pages] = snapshot.words
    return out.reshape(-1)


def damage_page(root, page):
    flip(root / "words", page * PAGE_BYTES + 9, 3)


def copied(store, to):
    """What a killed process leaves; anew where a checkpoint beside replaced a file meanwhile."""
    while True:
        with suppress(shutil.Error):
            return crashed(store, to)
        shutil.rmtree(to)


class TestCrashes:
    @pytest.mark.parametrize("policy", ["group", "os"])
    @pytest.mark.parametrize("anew", [False, True])
    def test_a_crash_at_any_step_leaves_all_or_nothing(self, tmp_path, monkeypatch, policy, anew):
        monkeypatch.setattr(module, "CHUNK_PAGES", 4)
        config = StoreConfig(policy, segment_bytes=1 << 12)
        store = DurableStore.create(tmp_path / "m", 16, config)
        store.write(np.arange(0, 30, 2) * 256, fill(7, 9, 15))
        snapshot, copies = snapshot_of(1), []
        before, after = content(store), words_of(snapshot)

        def copy():
            copies.append(copied(store, tmp_path / f"copy-{len(copies)}"))

        def stepping(function, steps_before):
            def step(*given, **known):
                if steps_before:
                    copy()
                found = function(*given, **known)
                copy()
                return found

            return step

        with monkeypatch.context() as patched:
            patched.setattr(store._committer, "commit", stepping(store._committer.commit, True))
            patched.setattr(restoring, "save_snapshot", stepping(restoring.save_snapshot, False))
            patched.setattr(restoring, "end", stepping(restoring.end, True))
            store.restore(snapshot)
        assert len(copies) > 12
        np.testing.assert_array_equal(content(store), after)
        store.close()
        seen = set()
        for copy in copies:
            if anew:
                start_anew(copy)
            with DurableStore(copy, config) as again:
                seen.add(content(again).tobytes())
                again.write([60_000], block(1))
                assert not (copy / "restoring").exists()
            with DurableStore(copy, config) as again:
                assert again.read([60_000], [1]).words == [1]
        assert seen <= {before.tobytes(), after.tobytes()}
        assert after.tobytes() in seen

    def test_a_short_one_is_one_record(self, store):
        store.write([0, 700], block(1, 2).repeat(2, 0))
        store.restore(snapshot_of(1, [5, 6]))
        assert store.sequence == 2
        np.testing.assert_array_equal(content(store), words_of(snapshot_of(1, [5, 6])))

    def test_what_is_written_after_it_failed_stays(self, store, tmp_path, monkeypatch):
        commit, calls = store._committer.commit, []

        def failing(*given):
            calls.append(1)
            if len(calls) > 2:
                raise StoreError("no room")
            commit(*given)

        with monkeypatch.context() as patched:
            patched.setattr(store._committer, "commit", failing)
            with pytest.raises(StoreError, match="no room"):
                store.restore(snapshot_of(1))
        half = copied(store, tmp_path / "half")
        store.write([60_000], block(3))
        now = content(store)
        written = copied(store, tmp_path / "written")
        with DurableStore(half) as again:
            np.testing.assert_array_equal(content(again), words_of(snapshot_of(1)))
        with DurableStore(written) as again:
            np.testing.assert_array_equal(content(again), now)
        assert not (written / "restoring").exists()

    def test_one_that_cannot_begin_leaves_nothing(self, store, monkeypatch):
        def full(*_):
            raise OSError(errno.ENOSPC, "No space left on device")

        with monkeypatch.context() as patched:
            patched.setattr(restoring, "save_snapshot", full)
            with pytest.raises(StoreError, match=r"restoring: not written \(No space left on device\)"):
                store.restore(snapshot_of(1))
        with monkeypatch.context() as patched:
            patched.setattr("leworld.store.mapped_writer.os.posix_fallocate", full)
            with pytest.raises(StoreError, match="No space left"):
                store.restore(snapshot_of(1))
        assert not store.layout.restoring.exists()
        assert (store.sequence, content(store).any()) == (0, False)

    def test_a_damaged_file_of_it_is_named_with_what_to_do(self, store, tmp_path):
        store.write([0], block(1))
        with (
            pytest.raises(KeyboardInterrupt),
            restoring.finished_later(store.layout, snapshot_of(1), iter([1, 2]).__next__),
        ):
            raise KeyboardInterrupt
        root = crashed(store, tmp_path / "copy")
        flip(root / "restoring", 5000)
        with pytest.raises(DamageError, match=r"restoring: .* delete that file to go on with this, then import"):
            DurableStore(root)
        (root / "restoring").unlink()
        with DurableStore(root) as again:
            assert again.read([0], [1]).words == [1]


class TestDamage:
    def test_a_snapshot_in_place_of_damaged_pages(self, store):
        store.write([0, 256, 9000], block(1).repeat(3, 0))
        snapshot = store.snapshot()
        store.checkpoint()
        for page in (1, 100):
            damage_page(store.root, page)
        assert store.verify().tolist() == [1, 100]
        with pytest.raises(DamageError, match="page 1: not what was written"):
            store.write([256], block(5))
        store.restore(snapshot)
        assert not len(store.verify())
        np.testing.assert_array_equal(content(store), words_of(snapshot))
        np.testing.assert_array_equal(content(MappedMemory(store.root)), words_of(snapshot))
        store.close()
        with DurableStore(store.root) as again:
            np.testing.assert_array_equal(content(again), words_of(snapshot))

    @pytest.mark.parametrize("anew", [False, True])
    def test_a_crash_after_it_is_mended_as_ever(self, store, tmp_path, anew):
        store.write([0, 256], block(1).repeat(2, 0))
        snapshot = store.snapshot()
        store.checkpoint()
        damage_page(store.root, 1)
        store.restore(snapshot)
        root = crashed(store, tmp_path / "copy")
        if anew:
            start_anew(root)
        with DurableStore(root) as again:
            np.testing.assert_array_equal(content(again), words_of(snapshot))

    def test_no_version_takes_what_is_damaged_for_its_content(self, store):
        store.write([0, 256], block(1).repeat(2, 0))
        snapshot = store.snapshot()
        store.create_version("a")
        damage_page(store.root, 1)
        with pytest.raises(DamageError, match="page 1: not what was written, and version 'a' holds it, too: drop") as e:
            store.restore(snapshot)
        assert (e.value.pages, store.sequence) == ((1,), 1)
        store.drop_version("a")
        store.restore(snapshot)
        np.testing.assert_array_equal(content(store), words_of(snapshot))

    def test_going_back_to_before_a_damaged_page_changed(self, store):
        store.write([0, 256], block(1).repeat(2, 0))
        store.create_version("a")
        before = content(store)
        store.write([256], block(2))
        store.checkpoint()
        damage_page(store.root, 1)
        with pytest.raises(DamageError, match="leworld memory rollback DIRECTORY NAME"):
            MappedMemory(store.root).read([256], [1])
        store.rollback_to("a")
        np.testing.assert_array_equal(content(store), before)
        np.testing.assert_array_equal(version_content(store, "a"), before)
        assert not len(store.verify())

    def test_going_back_over_a_version_that_holds_a_damaged_page_is_not_begun(self, store):
        store.write([0, 256], block(1).repeat(2, 0))
        store.create_version("a")
        store.write([256], block(2))
        store.create_version("b")
        damage_page(store.root, 1)
        with pytest.raises(DamageError, match="and version 'b' holds it, too"):
            store.rollback_to("a")
        assert store.sequence == 2
        store.drop_version("b")
        store.rollback_to("a")
        assert store.read([256], [1]).words == [1]

    def test_a_page_that_is_written_whole_is_well_again_only_by_the_first_of_a_group(self, store):
        store.write([256], block(1))
        store.checkpoint()
        damage_page(store.root, 1)
        whole, part = (
            Write([256], Words(fill(3, 256)[0], np.array([0, 256])), "", ""),
            Write([0], Words(fill(4, 1)[0], np.array([0, 1]))),
        )
        # What the page held must not matter to any of them.
        with pytest.raises(DamageError):
            store.write_many([part, whole])
        store.write_many([whole, part])
        assert store.read([256, 0], [1, 1]).words.tolist() == [3, 4]

    def test_a_copy_says_that_it_is_copied_anew(self, store):
        store.write([256], block(1))
        damage_page(store.root, 1)
        write_map(store.layout.epoch, {"epoch": 1})
        with pytest.raises(DamageError, match="another copy mends it soon; if none can, end this one"):
            store.read([256], [1])

    def test_a_damaged_journal_says_what_helps(self, store, tmp_path):
        for value in (1, 2):
            store.write([0], block(value))
        root = crashed(store, tmp_path / "copy")
        flip(last_segment(root), 30)
        with pytest.raises(DamageError, match="make a new memory with leworld memory import NEW FILE"):
            DurableStore(root)
