import numpy as np
import pytest

from leworld.errors import DamageError, StoreError
from leworld.store import committer
from leworld.store.durable_store import DurableStore, StoreConfig
from leworld.store.layout import Layout, write_map
from leworld.store.versions.versions import Version, Versions
from tests.store.stores import block, content, crashed, fill, flip, reopened, version_content


@pytest.fixture
def store(tmp_path):
    with DurableStore.create(tmp_path / "m", 16) as made:
        yield made


def test_a_version_is_the_content_of_when_it_was_kept(store):
    store.write([5], block(1, 2, 3))
    version = store.create_version("a")
    assert (version.name, version.sequence, list(store.versions)) == ("a", 1, [version])
    store.write([6], block(9, 3))
    found = store.versions.diff("a")
    assert (found.address.tolist(), found.before.tolist(), found.after.tolist()) == ([6], [2], [9])


def test_diff_agrees_with_plain_copies(store):
    random, copies = np.random.default_rng(0), {}
    for name in "abcd":
        for _ in range(4):
            store.write(random.integers(0, 3000, 3), random.integers(0, 3, (3, 200), dtype=np.uint32))
        store.create_version(name)
        copies[name] = content(store)
    store.write([0], fill(7))
    copies["now"] = content(store)
    for before, first in copies.items():
        for after, second in copies.items():
            found, changed = store.versions.diff(before, after), np.flatnonzero(first != second)
            np.testing.assert_array_equal(found.address, changed)
            np.testing.assert_array_equal(found.before, first[changed])
            np.testing.assert_array_equal(found.after, second[changed])


def test_versions_outlive_checkpoints_and_reopening(store):
    copies, config = {}, StoreConfig(segment_bytes=1)
    store = reopened(store, config)
    for step in range(6):
        store.write([step * 100], fill(step + 1, 150))
        store.create_version(f"v{step}")
        copies[f"v{step}"] = content(store)
        store.checkpoint()
        store = reopened(store, config)
    for name, right in copies.items():
        np.testing.assert_array_equal(version_content(store, name), right)
    store.rollback_to("v2")
    np.testing.assert_array_equal(content(store), copies["v2"])
    np.testing.assert_array_equal(version_content(store, "v5"), copies["v5"])
    store.close()


def test_going_back_can_be_undone(store):
    store.write([5], block(1))
    store.create_version("before")
    store.write([5, 60_000], block(2).repeat(2, 0))
    store.create_version("after")
    store.rollback_to("before")
    assert store.read([5, 60_000], [1, 1]).words.tolist() == [1, 0]
    store.rollback_to("after")
    assert store.read([5, 60_000], [1, 1]).words.tolist() == [2, 2]
    assert [version.name for version in store.versions] == ["before", "after"]


def test_going_back_in_chunks_is_the_same(store, monkeypatch):
    monkeypatch.setattr(committer, "CHUNK_PAGES", 3)
    right = content(store)
    store.create_version("empty")
    store.write(np.arange(0, 65_536, 2560), fill(3, 200, 26))
    store.rollback_to("empty")
    np.testing.assert_array_equal(content(store), right)


def test_going_back_takes_checkpoints_on_the_way(tmp_path, monkeypatch):
    monkeypatch.setattr(committer, "CHUNK_PAGES", 2)
    with DurableStore.create(tmp_path / "m", 16, StoreConfig(segment_bytes=1)) as store:
        store.create_version("empty")
        store.write(np.arange(0, 65_536, 2560), fill(3, 200, 26))
        store.rollback_to("empty")
        assert not content(store).any()


def test_the_journal_is_as_long_as_versions_need_it(store):
    config = StoreConfig(segment_bytes=1)
    store = reopened(store, config)
    store.write([0], fill(1))
    store.create_version("a")
    store.create_version("b")
    for step in range(5):
        store.write([step * 600], fill(2))
        store.checkpoint()
    assert store.stat()["journal_segments"] == 6
    store.drop_version("a")
    assert store.stat()["journal_segments"] == 6
    store.drop_version("b")
    assert store.stat()["journal_segments"] == 1
    assert len(store.log(100)) == 6
    store.close()


@pytest.mark.parametrize("name", ["", "now", 5])
def test_bad_names_are_refused(store, name):
    with pytest.raises(StoreError, match=f"a version cannot be called {name!r}: give another name"):
        store.create_version(name)
    assert list(store.versions) == []


def test_a_name_that_is_taken_or_not_known_is_refused(store):
    store.create_version("a")
    with pytest.raises(StoreError, match="'a' is kept already"):
        store.create_version("a")
    for call in (store.drop_version, store.rollback_to, store.versions.diff):
        with pytest.raises(StoreError, match="version 'b' is not kept; those that are: a"):
            call("b")
    store.drop_version("a")
    with pytest.raises(StoreError, match="those that are: none"):
        store.drop_version("a")
    with pytest.raises(StoreError, match="version 'now' is not kept"):
        store.rollback_to("now")
    assert store.sequence == 0


def test_a_list_of_versions_that_is_damaged_is_refused(store, tmp_path):
    store.create_version("a")
    root = crashed(store, tmp_path / "copy")
    good = (root / "versions").read_bytes()
    for bit in range(len(good) * 8):
        flip(root / "versions", bit // 8, bit % 8)
        with pytest.raises(StoreError, match="versions: is damaged or foreign"):
            DurableStore(root)
        (root / "versions").write_bytes(good)


@pytest.mark.parametrize("rows", [[["a"]], [5], [["a", "b", 3]], [["a", 1, 2, 3]]])
def test_a_list_of_versions_of_another_program_is_refused(tmp_path, rows):
    write_map(tmp_path / "versions", {"versions": rows})
    with pytest.raises(StoreError, match="versions: is damaged or foreign"):
        Versions(Layout(tmp_path))


def test_versions_are_kept_in_their_file(tmp_path):
    versions = Versions(Layout(tmp_path))
    versions.add(Version("a", 3, 5))
    versions.add(Version("b", 2, 6))
    assert list(Versions(Layout(tmp_path))) == [Version("a", 3, 5), Version("b", 2, 6)]
    versions.drop("b")
    assert list(Versions(Layout(tmp_path))) == [Version("a", 3, 5)]


def test_diff_serves_no_damaged_word(store):
    store.write([0], fill(1))
    store.create_version("a")
    store.write([0], fill(2))
    with (store.root / "words").open("r+b") as file:
        file.write(b"\x07")
    with pytest.raises(DamageError, match="page 0"):
        store.versions.diff("a")
    # What the page held then is in the journal.
    store.rollback_to("a")
    assert not len(store.versions.diff("a").address)
    assert content(store)[:9].tolist() == [1] * 8 + [0]


def test_a_version_of_which_the_journal_lost_a_part_is_refused_and_not_gone_back_to(store):
    store.write([0], fill(1))
    store.create_version("a")
    store.write([0], fill(2))
    store.create_version("b")
    store.write([0], fill(3))
    store.close()
    middle = sorted((store.root / "journal").iterdir())[-3]
    middle.write_bytes(middle.read_bytes()[:-1])
    with DurableStore(store.root) as again:
        for call in (again.versions.diff, again.rollback_to):
            with pytest.raises(DamageError, match="record 2 is missing"):
                call("a")
        assert version_content(again, "b")[:8].tolist() == [2] * 8
        again.write([0], fill(4))
    with DurableStore(store.root) as again:
        assert again.read([0], [1]).words.tolist() == [4]


def fail_at(store, monkeypatch, step):
    """Have the disk refuse the append of a number."""
    append, left = store._committer.append, [step]

    def failing(records):
        left[0] -= 1
        if left[0] < 0:
            raise StoreError("the disk is full")
        append(records)

    monkeypatch.setattr(store._committer, "append", failing)


def prepared(tmp_path, monkeypatch, step):
    """A memory whose going back to version "empty" failed at a step."""
    store = DurableStore.create(tmp_path / "m", 16)
    monkeypatch.setattr(committer, "CHUNK_PAGES", 2)
    store.create_version("empty")
    store.write([0, 600, 1200, 1800], fill(1, 4, 4))
    with monkeypatch.context() as patched:
        fail_at(store, patched, step)
        with pytest.raises(StoreError, match="full"):
            store.rollback_to("empty")
    return store


@pytest.mark.parametrize("step", range(4))
def test_a_going_back_that_failed_is_finished_when_the_memory_is_opened(tmp_path, monkeypatch, step):
    store = reopened(prepared(tmp_path, monkeypatch, step))
    if step:
        assert not content(store).any()
        assert store.log(1)[0].kind == "restored"
    else:
        assert store.read([0, 1800], [1, 1]).words.tolist() == [1, 1]
    store.close()


@pytest.mark.parametrize("step", range(4))
def test_what_is_written_after_a_going_back_failed_stays(tmp_path, monkeypatch, step):
    store = prepared(tmp_path, monkeypatch, step)
    store.write([1800, 5000], fill(9, 4, 2))
    store = reopened(store)
    assert store.read([1800, 5000], [4, 4]).words.tolist() == [9] * 8
    store.rollback_to("empty")
    assert not content(store).any()
    store.close()


def test_a_version_may_be_dropped_after_going_back_to_it_failed(tmp_path, monkeypatch):
    store = prepared(tmp_path, monkeypatch, 2)
    store.drop_version("empty")
    store = reopened(store)
    assert store.read([1800], [1]).words.tolist() == [1]
    store.close()
