"""Memory over shards answers as one store does."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.errors import ActorError
from actors.memory_shard import MemoryShard
from actors.sharded_memory import ShardedMemory
from leworld.errors import CheckpointError, ConfigError, DataError, RangeError
from leworld.memory import WordStore
from tests.actors.peers import LocalPeers

BITS = 16
LAST = (1 << BITS) - 1


def shards(count: int, bits: int = BITS) -> LocalPeers:
    return LocalPeers([MemoryShard(shard_id, bits) for shard_id in range(count)])


def sharded(count: int, bits: int = BITS) -> ShardedMemory:
    return ShardedMemory(shards(count, bits), range(count), bits)


def same_words(one, other) -> bool:
    return np.array_equal(one.words, other.words) and np.array_equal(one.offsets, other.offsets)


def same_snapshot(one, other) -> bool:
    sizes = (one.address_bits, one.sequence) == (other.address_bits, other.sequence)
    return sizes and np.array_equal(one.pages, other.pages) and np.array_equal(one.words, other.words)


@st.composite
def writes(draw):
    length = draw(st.integers(1, 256))
    start = draw(st.lists(st.integers(0, 1500).map(lambda x: min(x, LAST + 1 - length)), max_size=4))
    near_end = draw(st.booleans())
    start = [LAST + 1 - length - (s % 300 if s else 0) for s in start] if near_end else start
    return np.array(start, np.int64), length


@given(st.sampled_from([1, 2, 4]), st.lists(writes(), max_size=5), st.integers(0, 1000))
@settings(max_examples=40, deadline=None)
def test_sharded_memory_agrees_with_one_store(count: int, batches, seed: int):
    random = np.random.default_rng(seed)
    store, memory = WordStore(BITS), sharded(count)
    for start, length in batches:
        words = random.integers(0, 2**32, (len(start), length), dtype=np.uint32)
        ours, theirs = memory.write(start, words), store.write(start, words)
        assert (ours.sequence, ours.crc32) == (theirs.sequence, theirs.crc32)
        assert np.array_equal(ours.start, theirs.start)
        assert np.array_equal(ours.length, theirs.length)
    start = np.concatenate([random.integers(0, 1800, 20), [0, LAST, LAST - 255, 7]]).astype(np.int64)
    length = np.concatenate([random.integers(0, 257, 20), [256, 1, 256, 0]]).astype(np.int64)
    assert same_words(memory.read(start, length), store.read(start, length))
    assert same_snapshot(memory.snapshot(), store.snapshot())


def test_read_of_nothing_asks_no_one():
    memory = sharded(3)
    memory.shards.calls.clear()
    assert memory.read(np.zeros(2, np.int64), np.zeros(2, np.int64)).offsets.tolist() == [0, 0, 0]
    assert memory.read(np.zeros(0, np.int64), np.zeros(0, np.int64)).words.size == 0
    assert memory.shards.calls == []


def test_one_message_a_shard_however_many_ranges():
    memory = sharded(3)
    memory.shards.calls.clear()
    start = np.arange(0, 100 * 256, 256)
    memory.read(start, np.full(100, 200))
    assert sorted(memory.shards.calls) == [(0, "read"), (1, "read"), (2, "read")]


@pytest.mark.parametrize(("start", "length"), [(LAST, 2), (-1, 1), (LAST + 1, 1), (0, 257)])
def test_bad_read_touches_no_shard(start: int, length: int):
    memory = sharded(2)
    memory.shards.calls.clear()
    with pytest.raises(RangeError):
        memory.read(np.array([0, start]), np.array([1, length]))
    assert memory.shards.calls == []


def test_bad_write_touches_no_shard_and_counts_for_nothing():
    memory = sharded(2)
    before = memory.snapshot()
    memory.shards.calls.clear()
    for start, words in (([0, LAST], np.ones((2, 2), np.uint32)), ([0], np.ones((1, 257), np.uint32))):
        with pytest.raises(RangeError):
            memory.write(np.array(start), words)
    with pytest.raises(DataError):
        memory.write(np.array([0]), np.ones((2, 2), np.uint32))
    assert memory.shards.calls == []
    assert same_snapshot(memory.snapshot(), before)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_snapshot_moves_between_numbers_of_shards(count: int):
    random = np.random.default_rng(0)
    first = sharded(3)
    first.write(random.integers(0, LAST - 256, 50), random.integers(0, 2**32, (50, 200), dtype=np.uint32))
    other = sharded(count)
    other.write(np.array([LAST]), np.ones((1, 1), np.uint32))
    other.restore(first.snapshot())
    assert same_snapshot(other.snapshot(), first.snapshot())
    assert other.write(np.array([0]), np.ones((1, 1), np.uint32)).sequence == 2


def test_snapshot_of_another_width_is_refused():
    with pytest.raises(CheckpointError, match="24 address bits for a memory of 16"):
        sharded(2).restore(sharded(2, 24).snapshot())


def test_new_client_knows_the_writes_so_far():
    peers = shards(3)
    ShardedMemory(peers, range(3), BITS).write(np.array([0]), np.ones((1, 1), np.uint32))
    assert ShardedMemory(peers, range(3), BITS).sequence == 1


def test_second_writer_is_found_out():
    peers = shards(2)
    one, other = (ShardedMemory(peers, range(2), BITS) for _ in range(2))
    one.write(np.array([0]), np.ones((1, 1), np.uint32))
    with pytest.raises(ActorError, match="another writer"):
        other.write(np.array([9]), np.ones((1, 1), np.uint32))


def test_shard_that_lost_writes_is_found_out():
    peers = shards(2)
    ShardedMemory(peers, range(2), BITS).write(np.array([0]), np.ones((1, 1), np.uint32))
    renewed = LocalPeers([peers.objects[0], MemoryShard(1, BITS)])
    with pytest.raises(ActorError, match="MemoryShard 1 holds 0 of 1 writes"):
        ShardedMemory(renewed, range(2), BITS)


def test_no_shards_are_refused():
    with pytest.raises(ConfigError, match="at least one"):
        ShardedMemory(LocalPeers([]), [], BITS)
