from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from leworld.errors import StoreError
from leworld.memory import Words
from leworld.store.durable_store import DurableStore, StoreConfig, Write
from leworld.store.versions.version_reader import VersionReader
from tests.store.stores import block, one_write, version_content

NUM_WORDS = 1 << 16
SECRET = 0xDEADBEEF
CONFIG = StoreConfig(policy="os", segment_bytes=1 << 14)


class Model:
    """What a memory should hold, and where of that the secret write's words are."""

    def __init__(self) -> None:
        self.words, self.secret = np.zeros(NUM_WORDS, np.uint32), np.zeros(NUM_WORDS, np.bool_)
        self.kept: dict[str, tuple[np.ndarray, np.ndarray]] = {}

    def write(self, start: int, words: np.ndarray, *, secret: bool = False) -> None:
        self.words[start : start + len(words)] = words
        self.secret[start : start + len(words)] = secret

    def create_version(self, name: str) -> None:
        self.kept[name] = (self.words.copy(), self.secret.copy())

    def rollback_to(self, name: str) -> None:
        self.words[:], self.secret[:] = self.kept[name]

    def without_secret(self) -> np.ndarray:
        return np.where(self.secret, 0, self.words).astype(np.uint32)


def content(store: DurableStore) -> np.ndarray:
    return store.read(np.arange(0, NUM_WORDS, 256), np.full(NUM_WORDS // 256, 256)).words


def files_with(root: Path, needle: bytes) -> list[Path]:
    return [path for path in root.rglob("*") if path.is_file() and needle in path.read_bytes()]


def as_write(start: int, words: np.ndarray) -> Write:
    return Write(np.array([start]), Words(words, np.array([0, len(words)])))


def wander(store: DurableStore, model: Model, random: np.random.Generator, at: int, steps: int) -> DurableStore:
    """Random writes near an address, versions kept, dropped and gone back to, and reopening."""
    for _ in range(steps):
        step, names = int(random.integers(0, 10)), list(model.kept)
        if step == 0 and len(names) < 3:
            name = f"v{store.sequence}-{len(names)}"
            store.create_version(name)
            model.create_version(name)
        elif step == 1 and names:
            name = names[int(random.integers(0, len(names)))]
            store.rollback_to(name)
            model.rollback_to(name)
        elif step == 2 and len(names) == 3:
            store.drop_version(names[0])
            del model.kept[names[0]]
        elif step == 3:
            store.close()
            store = DurableStore(store.root, CONFIG)
        else:
            starts = random.integers(max(0, at - 200), at + 200, 3)
            words = random.integers(0, 1 << 31, (3, int(random.integers(1, 50))), dtype=np.uint32)
            if step == 4:
                store.write_many([as_write(start, row) for start, row in zip(starts, words, strict=True)])
            else:
                store.write(starts, words)
            for start, row in zip(starts.tolist(), words, strict=True):
                model.write(start, row)
    return store


@pytest.mark.parametrize("seed", range(12))
def test_nothing_of_an_erased_write_is_left_in_any_file_and_all_else_stays(tmp_path, seed):
    random, model = np.random.default_rng(seed), Model()
    at = int(random.integers(300, 60_000))
    store = wander(DurableStore.create(tmp_path / "m", 16, CONFIG), model, random, at, 10)
    # Alone, or together with writes before, after, or both.
    before, after = seed % 4 in (1, 3), seed % 4 in (2, 3)
    together = [(at - 9, 7, 30)] * before + [(at, SECRET, 64)] + [(at + 50, 8, 30)] * after
    receipts = store.write_many([as_write(start, np.full(n, value, np.uint32)) for start, value, n in together])
    sequence = receipts[before].sequence
    for start, value, n in together:
        model.write(start, np.full(n, value, np.uint32), secret=value == SECRET)
    if seed % 3:
        store.create_version("with-it")
        model.create_version("with-it")
    store = wander(store, model, random, at, 30)

    store.checkpoint()
    if model.secret.any():
        assert files_with(store.root, SECRET.to_bytes(4, "little"))
    erasure = store.eraser.erase(sequence)
    assert files_with(store.root, SECRET.to_bytes(4, "little")) == []
    assert np.array_equal(content(store), model.without_secret())
    assert store.eraser.is_erased(erasure)
    for name, (words, secret) in model.kept.items():
        before, found = np.where(secret, 0, words), store.versions.diff(name)
        rebuilt = content(store).copy()
        rebuilt[found.address] = found.before
        assert np.array_equal(rebuilt, before), name
    store.close()
    with DurableStore(store.root) as again:
        assert np.array_equal(content(again), model.without_secret())
        assert again.eraser.is_erased(erasure)


def test_what_held_pages_before_stays_where_it_was_when_a_write_of_a_group_is_erased(tmp_path):
    with DurableStore.create(tmp_path / "m", 16) as store:
        store.write([0, 1000], np.full((2, 250), 5, np.uint32))
        store.create_version("before")
        words = content(store)
        group = [one_write(3, 11), one_write(1010, 12, 2), one_write(5, 13, 3)]
        receipts = store.write_many(group)
        store.create_version("after")
        readers = [VersionReader(store.root, name) for name in ("before", "after")]
        pages = [reader.pages(np.array([0, 3])) for reader in readers]
        segment = store._journal.segments[1].path
        size = segment.stat().st_size
        store.write([1010], block(20))
        erasure = store.eraser.erase(receipts[1].sequence)
        # Those who read beside know where the pages lie in the file.
        assert segment.stat().st_size == size
        pages[1][1][[1010 % 256, 1011 % 256]] = 0
        for reader, right in zip(readers, pages, strict=True):
            np.testing.assert_array_equal(reader.pages(np.array([0, 3])), right)
        np.testing.assert_array_equal(version_content(store, "before"), words)
        assert store.eraser.is_erased(erasure)
        store.rollback_to("before")
        np.testing.assert_array_equal(content(store), words)


def test_a_receipt_that_was_changed_or_is_of_another_memory_proves_nothing(tmp_path):
    with DurableStore.create(tmp_path / "m", 16) as store, DurableStore.create(tmp_path / "other", 16) as other:
        first = store.write([5], np.full((1, 3), 7, np.uint32))
        store.write([50], np.full((1, 3), 9, np.uint32))
        erasure = store.eraser.erase(first.sequence)
        assert store.eraser.is_erased(erasure)
        assert not store.eraser.is_erased(replace(erasure, erased=2))
        assert not store.eraser.is_erased(replace(erasure, start=erasure.start + 1))
        with pytest.raises(StoreError, match=f"the receipt is of memory {erasure.memory}, this one is "):
            other.eraser.is_erased(erasure)


def test_a_write_that_is_not_known_cannot_be_erased(tmp_path):
    with DurableStore.create(tmp_path / "m", 16) as store:
        store.write([5], np.full((1, 3), 7, np.uint32))
        for sequence in (0, 2, 99):
            with pytest.raises(StoreError, match=f"write {sequence} is not known"):
                store.eraser.erase(sequence)
        assert store.sequence == 1


def test_an_erasure_that_a_crash_cut_off_is_finished_when_the_memory_is_opened(tmp_path, monkeypatch):
    store = DurableStore.create(tmp_path / "m", 16)
    sequence = store.write([5], np.full((1, 64), SECRET, np.uint32)).sequence
    store.create_version("with-it")
    store.write([8], np.full((1, 4), 1, np.uint32))
    monkeypatch.setattr(store.eraser, "finish", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        store.eraser.erase(sequence)
    assert files_with(store.root, SECRET.to_bytes(4, "little"))
    store._journal.sync()
    store._writer_lock.release()
    with DurableStore(store.root) as again:
        assert files_with(again.root, SECRET.to_bytes(4, "little")) == []
        assert again.read([4], [9]).words.tolist() == [0, 0, 0, 0, 1, 1, 1, 1, 0]


def test_an_erasure_is_in_the_log_and_says_what_it_erased(tmp_path):
    with DurableStore.create(tmp_path / "m", 16, writer="ann") as store:
        store.write([5], np.full((1, 3), 7, np.uint32))
        erasure = store.eraser.erase(1)
        found = [(record.kind, record.note, record.writer) for record in store.log()]
        assert found == [("erased", "1", "ann"), ("erase", "1", "ann"), ("write", "", "ann")]
        assert store.why(6).sequence == erasure.sequence
