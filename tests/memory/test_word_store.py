import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from leworld.errors import CheckpointError, ConfigError, DataError, RangeError
from leworld.memory import Memory, Words, WordStore, checksum


def block(*values):
    return np.array(values, np.uint32)[None]


class PlainMemory:
    """One word after another in a dict."""

    def __init__(self):
        self.words = {}

    def read(self, start, length):
        return [[self.words.get(a, 0) for a in range(s, s + n)] for s, n in zip(start, length, strict=True)]

    def write(self, start, words):
        for s, row in zip(start, words, strict=True):
            self.words.update({s + i: int(word) for i, word in enumerate(row)})


@st.composite
def writes(draw, num_words):
    length = draw(st.integers(1, 256))
    last = num_words - length
    # Few starts, close to page borders and to each other, so that blocks overlap.
    near = st.sampled_from([0, 1, 255, 256, 300, 511]) | st.integers(0, last)
    starts = draw(st.lists(near.map(lambda start: min(start, last)), max_size=6))
    seed = draw(st.integers(0, 1000))
    return starts, np.random.default_rng(seed).integers(0, 1 << 32, (len(starts), length), dtype=np.uint32)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(writes(1 << 16), max_size=4), st.lists(st.tuples(st.integers(0, 1000), st.integers(0, 256)), max_size=6)
)
def test_store_agrees_with_a_plain_memory(all_writes, reads):
    store, plain = WordStore(16), PlainMemory()
    for start, words in all_writes:
        store.write(np.array(start, np.int64), words)
        plain.write(start, words)
    start, length = [s for s, _ in reads] + [65280, 65535, 0], [n for _, n in reads] + [256, 1, 0]
    got = store.read(np.array(start), np.array(length))
    rows = [got.words[a:b].tolist() for a, b in zip(got.offsets[:-1], got.offsets[1:], strict=True)]
    assert rows == plain.read(start, length)
    assert store.allocated_pages == len({address // 256 for address in plain.words})


def test_store_is_a_memory():
    memory: Memory = WordStore(8)
    assert memory.address_bits == 8


def test_the_later_row_wins():
    store = WordStore(8)
    store.write([10, 11, 10], np.array([[1, 2, 3], [4, 5, 6], [7, 8, 9]], np.uint32))
    assert store.read([10], [4]).words.tolist() == [7, 8, 9, 6]


def test_a_later_row_wins_in_a_large_batch():
    rows = np.arange(1, 70_001, dtype=np.uint32)[:, None]
    store = WordStore(16)
    store.write(np.arange(70_000) % 7, rows)
    assert store.read([0], [7]).words.tolist() == [
        max(r for r in range(1, 70_001) if (r - 1) % 7 == i) for i in range(7)
    ]


@pytest.mark.parametrize("bits", [8, 16, 24, 32])
def test_first_and_last_word_of_every_width(bits):
    store = WordStore(bits)
    last = (1 << bits) - 1
    store.write([0, last], np.array([[3], [4]], np.uint32))
    assert store.num_words == last + 1
    assert store.read([0, last, last], [1, 1, 0]).words.tolist() == [3, 4]
    assert store.allocated_pages == (1 if bits == 8 else 2)


@pytest.mark.parametrize(("start", "words"), [([65535], block(1, 2)), ([-1], block(1)), ([65536], block(1))])
def test_a_bad_block_writes_nothing(start, words):
    store = WordStore(16)
    with pytest.raises(RangeError):
        store.write([0, *start], np.concatenate([words, words]))
    assert (store.sequence, store.allocated_pages) == (0, 0)
    assert store.read([0], [1]).words.tolist() == [0]


@pytest.mark.parametrize("shape", [(1, 0), (1, 257), (4,), (1, 1, 1)])
def test_blocks_have_1_to_256_words(shape):
    with pytest.raises(RangeError, match="256"):
        WordStore(16).write([0], np.zeros(shape, np.uint32))


def test_words_of_another_type_are_refused():
    with pytest.raises(DataError, match="uint32"):
        WordStore(16).write([0], np.array([[-1]]))  # pyright: ignore[reportArgumentType]


def test_ragged_words_must_fit_their_offsets():
    with pytest.raises(DataError, match="offsets"):
        WordStore(16).write_ragged([0], Words(np.zeros(3, np.uint32), np.array([0, 2])))


def test_ragged_write_equals_single_writes():
    ragged, single = WordStore(16), WordStore(16)
    words = np.arange(1, 401, dtype=np.uint32)
    start, offsets = [200, 300, 100], np.array([0, 200, 200, 400])
    receipt = ragged.write_ragged(start, Words(words, offsets))
    single.write([200], words[None, :200])
    single.write([100], words[None, 200:])
    assert receipt.length.tolist() == [200, 0, 200]
    np.testing.assert_array_equal(ragged.snapshot().words, single.snapshot().words)


def test_receipts_number_the_writes_and_keep_their_own_copy():
    store, start, words = WordStore(16), np.array([5, 600]), np.array([[1, 2], [3, 4]], np.uint32)
    first, second = store.write(start, words), store.write(start, words)
    start[:] = 0
    assert (first.sequence, second.sequence, store.sequence) == (1, 2, 2)
    assert (first.start.tolist(), first.length.tolist(), first.crc32) == ([5, 600], [2, 2], checksum(words))


def test_a_read_is_a_copy():
    store = WordStore(16)
    store.write([0], block(7))
    store.read([0], [1]).words[:] = 0
    assert store.read([0], [1]).words.tolist() == [7]


def test_restore_inverts_snapshot():
    store, other = WordStore(16), WordStore(16)
    store.write([60000, 5, 300], np.arange(30, dtype=np.uint32).reshape(3, 10))
    snapshot = store.snapshot()
    store.write([5], block(99))
    other.write([1000], block(1))
    for memory in (store, other):
        memory.restore(snapshot)
        again = memory.snapshot()
        assert (again.address_bits, again.sequence) == (16, 1)
        assert again.pages.tolist() == [0, 1, 234] == snapshot.pages.tolist()
        np.testing.assert_array_equal(again.words, snapshot.words)
        assert memory.write([0], block(1)).sequence == 2
    assert snapshot.words[0, 0] == 0


def test_an_empty_snapshot_empties():
    store = WordStore(8)
    empty = store.snapshot()
    store.write([0], block(7))
    store.restore(empty)
    assert store.read([0], [1]).words.tolist() == [0]
    assert store.allocated_pages == 0


def test_restore_refuses_what_is_not_its_own_and_keeps_its_words():
    store = WordStore(16)
    store.write([0, 300], np.array([[7], [8]], np.uint32))
    good = store.snapshot()
    bad = [
        WordStore(24).snapshot(),
        replace(good, pages=good.pages[::-1]),
        replace(good, pages=good.pages + 255),
        replace(good, pages=good.pages - 1),
        replace(good, pages=good.pages[:1]),
        replace(good, pages=np.array([1, 1])),
    ]
    for snapshot in bad:
        with pytest.raises(CheckpointError):
            store.restore(snapshot)
    assert store.read([0, 300], [1, 1]).words.tolist() == [7, 8]


def test_a_bad_width_is_refused():
    with pytest.raises(ConfigError, match="12"):
        WordStore(12)


def test_32_bits_take_no_memory_until_written():
    script = """
import numpy as np
from pathlib import Path
from leworld.memory import WordStore
def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096
before = resident()
store = WordStore(32)
store.read(np.arange(0, 2**32, 2**20), np.full(4096, 256))
store.write([2**32 - 1, 2**31], np.ones((2, 1), np.uint32))
print(resident() - before, store.allocated_pages)
"""
    if not sys.platform.startswith("linux"):
        pytest.skip("reads the resident size from /proc")
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    grown, pages = map(int, done.stdout.split())
    assert grown < 100 << 20
    assert pages == 2
