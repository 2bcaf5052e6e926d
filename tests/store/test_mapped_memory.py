import multiprocessing
import os
import time
import zlib
from contextlib import suppress

import numpy as np
import pytest

from leworld.errors import ConfigError, DamageError, RangeError, StoreError
from leworld.memory import Reader, WordStore
from leworld.store import mapped_writer, shared_state
from leworld.store.durable_store import DurableStore, StoreConfig
from leworld.store.layout import make
from leworld.store.mapped_memory import STRIPE_WORDS, MappedMemory, page_sums
from leworld.store.mapped_writer import MappedWriter
from tests.store.stores import block, content, crashed, fill, flip, start_anew

BEGUN, FINISHED, ERA = 0, 8, 32


@pytest.fixture
def store(tmp_path):
    with DurableStore.create(tmp_path / "m", 16) as made:
        yield made


@pytest.fixture
def root(tmp_path):
    """A closed memory of which three stripes were written."""
    with DurableStore.create(tmp_path / "closed", 16) as made:
        made.write([0, 300, 5 * STRIPE_WORDS, 7 * STRIPE_WORDS + 10], fill(7, 20, 4))
    return made.root


def set_state(root, at, value):
    with (root / "state").open("r+b") as file:
        file.seek(at)
        file.write(value.to_bytes(8, "little"))


def test_a_reader_sees_what_the_writer_wrote_at_once(store):
    reader: Reader = MappedMemory(store.root)
    plain = WordStore(16)
    random = np.random.default_rng(0)
    for step in range(50):
        start, words = random.integers(0, 65_000, 5), random.integers(0, 1 << 32, (5, 1 + step * 5), dtype=np.uint32)
        store.write(start, words)
        plain.write(start, words)
        start, length = random.integers(0, 65_000, 30), random.integers(0, 257, 30)
        got, right = reader.read(start, length), plain.read(start, length)
        np.testing.assert_array_equal(got.words, right.words)
        np.testing.assert_array_equal(got.offsets, right.offsets)
    assert reader.sequence == store.sequence == 50


def test_a_read_is_a_copy(store):
    store.write([0], block(7))
    reader = MappedMemory(store.root)
    reader.read([0], [1]).words[:] = 0
    assert reader.read([0], [1]).words.tolist() == [7]


def test_ranges_outside_are_refused(store):
    with pytest.raises(RangeError, match="outside the memory"):
        MappedMemory(store.root).read([65_535], [2])


def test_a_reader_cannot_write(root):
    with pytest.raises(ValueError, match="read-only"):
        MappedMemory(root).pages[0, 0] = 1


@pytest.mark.parametrize("bits", [8, 32])
def test_the_first_and_the_last_word_of_a_width(tmp_path, bits):
    last = (1 << bits) - 1
    with DurableStore.create(tmp_path / "m", bits) as store:
        store.write([0, last], np.array([[3], [4]], np.uint32))
    assert MappedMemory(store.root).read([0, last, last], [1, 1, 0]).words.tolist() == [3, 4]


def test_no_memory_and_an_unknown_way_to_verify_are_refused(tmp_path, root):
    with pytest.raises(StoreError, match="holds no memory"):
        MappedMemory(tmp_path / "nothing")
    with pytest.raises(ConfigError, match="verify 'often' is unknown: use one of touch, always, never"):
        MappedMemory(root, verify="often")


def test_a_memory_that_nobody_opened_yet_is_refused_by_readers_in_one_line(tmp_path):
    make(tmp_path / "m", 16)
    with pytest.raises(StoreError, match="too short: open the memory for writing once"):
        MappedMemory(tmp_path / "m")


@pytest.mark.parametrize("name", ["words", "sums", "state"])
def test_a_file_that_is_gone_is_named(root, name):
    (root / name).unlink()
    for open_it in (MappedMemory, DurableStore):
        with pytest.raises(StoreError, match=f"{name}: cannot be opened"):
            open_it(root)


@pytest.mark.parametrize("verify", ["touch", "always"])
@pytest.mark.parametrize(("name", "byte"), [("words", 300 * 4 + 1), ("sums", 4), ("words", 2 * STRIPE_WORDS * 4)])
def test_one_flipped_bit_is_found_before_it_is_served(root, verify, name, byte):
    flip(root / name, byte, 3)
    page = byte // 4 if name == "sums" else byte // 1024
    reader = MappedMemory(root, verify=verify)
    for _ in range(2):
        with pytest.raises(DamageError, match=f"page {page}: not what was written") as caught:
            reader.read([0, page * 256], [1, 5])
        assert caught.value.pages == (page,)


def test_pages_beside_a_damaged_one_are_still_read(root):
    flip(root / "words", 300 * 4)
    reader = MappedMemory(root)
    assert reader.read([0, 5 * STRIPE_WORDS], [2, 2]).words.tolist() == [7, 7, 7, 7]
    with pytest.raises(DamageError, match="page 1"):
        reader.read([250], [7])


def test_verify_says_when_pages_are_looked_at(root):
    readers = {verify: MappedMemory(root, verify=verify) for verify in ("touch", "always", "never")}
    for reader in readers.values():
        assert reader.read([300], [1]).words.tolist() == [7]
    with (root / "words").open("r+b") as file:
        file.seek(1200)
        file.write(b"\x06")
    assert readers["touch"].read([300], [1]).words.tolist() == [6]
    assert readers["never"].read([300], [1]).words.tolist() == [6]
    with pytest.raises(DamageError):
        readers["always"].read([300], [1])


@pytest.mark.parametrize("name", ["words", "sums"])
def test_verify_all_finds_every_damaged_page(root, name):
    for page in (1, 80, 33):
        flip(root / name, page * (4 if name == "sums" else 1024), 7)
    assert MappedMemory(root).verify_all().tolist() == [1, 33, 80]


def test_sums_that_were_lost_are_found(root):
    (root / "sums").write_bytes(bytes(1024))
    assert MappedMemory(root).verify_all().tolist() == [0, 1, 80, 112]


def test_after_verify_all_reads_verify_as_before(root):
    never, always = MappedMemory(root, verify="never"), MappedMemory(root, verify="always")
    assert not len(never.verify_all())
    assert not len(always.verify_all())
    with (root / "words").open("r+b") as file:
        file.seek(2 * STRIPE_WORDS * 4)
        file.write(b"\x06")
    assert never.read([2 * STRIPE_WORDS], [1]).words.tolist() == [6]
    with pytest.raises(DamageError, match="page 32"):
        always.read([2 * STRIPE_WORDS], [1])


def test_verify_all_finds_words_where_nothing_was_written(root):
    flip(root / "words", 3 * STRIPE_WORDS * 4 + 5)
    assert MappedMemory(root).verify_all().tolist() == [48]


def test_a_page_of_zeros_has_the_sum_0_and_no_other_page_has():
    assert page_sums(np.zeros((1, 256), np.uint32)).tolist() == [0]
    words = page_of_the_crc_of_zeros()
    assert zlib.crc32(words.tobytes()) == zlib.crc32(bytes(1024))
    assert page_sums(words[None])[0] != 0


def test_a_page_whose_crc_is_that_of_zeros_is_in_snapshots(store):
    words = page_of_the_crc_of_zeros()
    store.write([256], words[None])
    assert store.snapshot().pages.tolist() == [1]
    store.restore(WordStore(16).snapshot())
    assert not content(store).any()


def page_of_the_crc_of_zeros():
    """A page with 2 words that cancel out in CRC-32: found by elimination over the 64 bits."""
    zero, rows = zlib.crc32(bytes(1024)), []
    for bit in range(64):
        page = bytearray(1024)
        page[bit // 8] ^= 1 << bit % 8
        value, mask = zlib.crc32(page) ^ zero, 1 << bit
        for other, other_mask in rows:
            if value ^ other < value:
                value, mask = value ^ other, mask ^ other_mask
        if not value:
            return np.frombuffer(mask.to_bytes(8, "little") + bytes(1016), np.uint32)
        rows = sorted([*rows, (value, mask)], reverse=True)
    raise AssertionError("64 vectors of 32 bits depend on each other")


def test_a_write_that_does_not_end_stops_only_those_who_read_there(root):
    reader = MappedMemory(root)
    set_state(root, BEGUN, 2)
    set_state(root, 4096, 2)
    assert reader.read([5 * STRIPE_WORDS], [1]).words.tolist() == [7]
    begin = time.monotonic()
    with pytest.raises(StoreError, match="write 2 does not end; open the memory to mend it"):
        reader.read([5 * STRIPE_WORDS, 0], [1, 1])
    assert time.monotonic() - begin < 30


def test_a_range_across_two_stripes_waits_for_both(root):
    reader = MappedMemory(root)
    set_state(root, BEGUN, 2)
    set_state(root, 4096 + 8, 2)
    with pytest.raises(StoreError, match="does not end"):
        reader.read([STRIPE_WORDS - 1], [2])


def test_a_memory_written_before_the_machine_was_started_anew_is_not_read(store, tmp_path):
    store.write([0], block(5))
    root = crashed(store, tmp_path / "copy")
    assert MappedMemory(root).read([0], [1]).words.tolist() == [5]
    start_anew(root)
    with pytest.raises(StoreError, match="open it for writing once"):
        MappedMemory(root)
    DurableStore(root).close()
    assert MappedMemory(root).read([0], [1]).words.tolist() == [5]


def test_a_closed_memory_is_read_after_the_machine_was_started_anew(root):
    start_anew(root)
    assert MappedMemory(root).read([0], [1]).words.tolist() == [7]


def test_readers_on_the_disk_know_that_a_writer_came(root, monkeypatch):
    synced = []
    monkeypatch.setattr(
        shared_state, "sync", lambda path: synced.append((path.name, (root / "state").read_bytes()[40]))
    )
    store = DurableStore(root)
    assert ("state", 0) in synced
    monkeypatch.undo()
    store.close()


WORDS_A_BLOCK, STARTS = 256, (0, 200, STRIPE_WORDS - 100, 3 * STRIPE_WORDS + 7)


def write_uniform(root, seconds, policy):
    """Write blocks, all words of which are the number of the write."""
    with DurableStore(root, StoreConfig(policy=policy, segment_bytes=1 << 18)) as store:
        end, at = time.monotonic() + seconds, np.array([STARTS[0], STARTS[2], STARTS[3]])
        while time.monotonic() < end:
            store.write(at, fill(store.sequence + 1, WORDS_A_BLOCK, len(at)))


def assert_uniform(found):
    rows = found.words.reshape(-1, WORDS_A_BLOCK)
    torn = np.flatnonzero((rows != rows[:, :1]).any(1))
    assert not len(torn), rows[torn[0]]
    return rows[:, 0]


@pytest.mark.parametrize(("policy", "verify"), [("os", "touch"), ("group", "always")])
def test_a_reader_in_another_process_never_sees_half_a_write(tmp_path, policy, verify):
    root = tmp_path / "m"
    DurableStore.create(root, 16).close()
    writer = multiprocessing.get_context("forkserver").Process(target=write_uniform, args=(root, 1.5, policy))
    writer.start()
    try:
        reader, seen, reads = MappedMemory(root, verify=verify), np.zeros(3, np.int64), 0
        at, length = np.array([STARTS[0], STARTS[2], STARTS[3]]), np.full(3, WORDS_A_BLOCK)
        while writer.is_alive():
            now = assert_uniform(reader.read(at, length)).astype(np.int64)
            assert (now >= seen).all()
            seen, reads = now, reads + 1
    finally:
        writer.join()
    assert writer.exitcode == 0
    assert reads > 50
    assert seen.min() > 20


def kill_and_reopen(root, times):
    """Open, leave a write half done, as a killed process does, and open again."""
    for _ in range(times):
        store = DurableStore(root)
        at = np.array([STARTS[0], STARTS[2], STARTS[3]])
        store.write(at, fill(store.sequence + 1, WORDS_A_BLOCK, 3))
        store.mapped.state.begin(store.sequence + 1, np.array([0]))
        store.mapped.pages[0, :100] = 0
        store._journal.close()
        store._writer_lock.release()


def test_a_reader_beside_a_recovering_writer_never_sees_half_a_write(tmp_path):
    root = tmp_path / "m"
    DurableStore.create(root, 16).close()
    writer = multiprocessing.get_context("forkserver").Process(target=kill_and_reopen, args=(root, 60))
    writer.start()
    reader, reads = MappedMemory(root), 0
    at, length = np.array([STARTS[0], STARTS[2], STARTS[3]]), np.full(3, WORDS_A_BLOCK)
    while writer.is_alive():
        # Nobody mends the memory any more once the last writer is gone.
        with suppress(StoreError):
            assert_uniform(reader.read(at, length))
            reads += 1
    writer.join()
    assert writer.exitcode == 0
    assert reads > 20
    DurableStore(root).close()
    assert assert_uniform(reader.read(at, length)).tolist() == [60] * 3


def test_room_is_taken_before_words_are_stored(root, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    writer = MappedWriter(MappedMemory(root, writable=True))
    taken, real = [], os.posix_fallocate
    monkeypatch.setattr(mapped_writer.os, "posix_fallocate", lambda *given: (taken.append(given[1:]), real(*given)))
    writer.reserve(np.array([0, 1, 33]))
    writer.reserve(np.array([2, 33]))
    assert taken == [(0, 16384), (32768, 16384)]
    monkeypatch.setattr(mapped_writer.os, "posix_fallocate", full)
    with pytest.raises(StoreError, match="not written \\(No space left on device\\): make room"):
        writer.reserve(np.array([100]))
    monkeypatch.undo()
    writer.reserve(np.array([100]))


def test_a_mending_that_was_cut_off_is_begun_again(store, tmp_path):
    store.write([0], block(1))
    store.write([0], block(2))
    root = crashed(store, tmp_path / "copy")
    writer = MappedWriter(MappedMemory(root, writable=True))
    writer.state.begin_mending()
    # The last record changed the page first in its segment, and only what it replaced was put back.
    writer.apply_pages(2, np.array([0]), np.zeros((1, 256), np.uint32))
    assert not writer.state.is_whole
    with DurableStore(root) as again:
        assert again.read([0], [1]).words.tolist() == [2]
