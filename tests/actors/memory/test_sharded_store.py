"""A memory of several shards, in this process: the answers of one, also while its stripes move."""

import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from actors.errors import ActorError
from actors.memory.coordinator import FileCoordinator
from actors.memory.resharding import reshard
from actors.memory.scrubber import Scrubber
from actors.memory.shard_map import ENTRY, ShardMap, change_map, load_map, shard_name
from actors.memory.sharded_store import ShardedStore
from leworld.errors import ConfigError, MovedError, StoreError
from leworld.memory import WordStore
from tests.actors.memory.shards import BITS, Shards


@pytest.fixture
def shards(tmp_path) -> Iterator[Shards]:
    found = Shards(tmp_path)
    yield found
    found.close()


def some_ranges(random: np.random.Generator, count: int, bits: int = BITS) -> tuple[np.ndarray, np.ndarray]:
    length = random.integers(0, 257, count)
    return random.integers(0, (1 << bits) - length), length


def filled(store: ShardedStore | WordStore, seed: int = 1) -> None:
    random = np.random.default_rng(seed)
    for _ in range(20):
        size = int(random.integers(1, 257))
        start = random.integers(0, (1 << BITS) - size, 5)
        store.write(start, random.integers(0, 1 << 32, (5, size), dtype=np.uint32))


def same(store: ShardedStore, expected: WordStore) -> None:
    start = np.arange(0, 1 << BITS, 256)
    length = np.full(len(start), 256)
    assert np.array_equal(store.read(start, length).words, expected.read(start, length).words)


def test_answers_and_checksums_are_those_of_one_store(shards):
    store, expected, random = shards.make(0, 1, 2), WordStore(BITS), np.random.default_rng(3)
    for _ in range(10):
        size = int(random.integers(1, 257))
        start = random.integers(0, (1 << BITS) - size, 7)
        words = random.integers(0, 1 << 32, (7, size), dtype=np.uint32)
        assert store.write(start, words).crc32 == expected.write(start, words).crc32
        start, length = some_ranges(random, 50)
        found, wanted = store.read(start, length), expected.read(start, length)
        assert np.array_equal(found.words, wanted.words)
        assert np.array_equal(found.offsets, wanted.offsets)
    assert len(store.read([], []).words) == 0


def test_a_snapshot_goes_from_any_number_of_shards_to_any_other(shards, tmp_path):
    store, expected = shards.make(0, 1), WordStore(BITS)
    filled(store)
    filled(expected)
    snapshot = store.snapshot()
    assert np.array_equal(snapshot.pages, expected.snapshot().pages)
    assert np.array_equal(snapshot.words, expected.snapshot().words)
    store.write([5], np.full((1, 9), 7, np.uint32))
    store.restore(snapshot)
    same(store, expected)


def test_stripes_move_from_two_shards_to_five_and_to_three(shards):
    store, expected = shards.make(0, 1), WordStore(BITS)
    filled(store)
    filled(expected)
    shards.start(2, 3, 4)
    for target in ([0, 1, 2, 3, 4], [1, 2, 3]):
        before = load_map(shards.directory)
        pages = store.written_pages()
        moved = reshard(store, target)
        after = load_map(shards.directory)
        stripes = pages * 256 // after.stripe_words
        assert moved.pages == np.sum(before.owners(stripes) != after.owners(stripes))
        same(store, expected)
        same(shards.client(), expected)
        for shard in after.all_shards:
            held = shards.running[shard, "a"].store.written_pages()
            assert (after.owners(held * 256 // after.stripe_words) == shard).all()
    assert not len(shards.running[0, "a"].store.written_pages())
    assert not len(shards.running[4, "a"].store.written_pages())
    filled(store, 2)
    filled(expected, 2)
    same(store, expected)


def test_a_shard_that_hands_over_refuses_what_it_held(shards):
    store = shards.make(0, 1)
    shards.start(2)
    found = load_map(shards.directory)
    assert change_map(shards.directory, found, target=(0, 1, 2), frozen=found.num_stripes) is not None
    stripes, source, _ = load_map(shards.directory).moves(0, found.num_stripes)
    start, shard = stripes[:1] * found.stripe_words, int(source[0])
    client = store.shard(shard)
    client.call("see_map")
    with pytest.raises(MovedError, match=f"shard {shard} does not hold stripe {stripes[0]}"):
        client.read(start, [1])
    with pytest.raises(MovedError):
        client.write(start, np.ones((1, 1), np.uint32))
    # What stays is answered all the time.
    stays = np.setdiff1d(np.arange(found.num_stripes), stripes)[:1]
    store.write(stays * found.stripe_words, np.full((1, 3), 6, np.uint32))
    assert store.read(stays * found.stripe_words, [3]).words.tolist() == [6, 6, 6]
    impatient = shards.client(timeout_s=0.3)
    with pytest.raises(ActorError, match=r"the memory moves words for more than 0\.3 s"):
        impatient.read(start, [1])


def test_a_move_that_was_cut_off_is_ended_by_the_next_one(shards, monkeypatch):
    store, expected = shards.make(0, 1), WordStore(BITS)
    filled(store)
    filled(expected)
    shards.start(2)
    calls = 0

    def cut_off(*_: object, **__: object) -> None:
        nonlocal calls
        calls += 1
        raise KeyboardInterrupt

    for op in ("hand_over", "take_over", "let_go"):
        with monkeypatch.context() as patch:
            client = store.shard(2)
            again = client.again
            patch.setattr(
                client, "again", lambda name, given, op=op, again=again: cut_off() if name == op else again(name, given)
            )
            if op != "hand_over":
                with pytest.raises(KeyboardInterrupt):
                    reshard(store, [0, 1, 2])
    assert calls == 2
    with pytest.raises(ConfigError, match=r"is being moved to shards \[0, 1, 2\]"):
        reshard(store, [0, 2])
    reshard(store, [0, 1, 2])
    same(store, expected)
    assert not load_map(shards.directory).is_moving


def test_words_of_an_older_move_do_not_come_back(shards):
    store = shards.make(0, 1)
    shards.start(2)
    filled(store)
    reshard(store, [0, 1, 2])
    moved = load_map(shards.directory)
    held = shards.running[2, "a"].store.written_pages()[:1]
    words = np.concatenate([held.astype(np.uint32), np.full(256, 9, np.uint32)])
    for version in (moved.version - 1, moved.version):
        with pytest.raises(MovedError):
            store.shard(2).again("take_over", {"words": words, "num_pages": 1, "map": version})
    stripe = (held * 256 // moved.stripe_words).astype(np.uint32)
    with pytest.raises(MovedError, match="shard 2 holds stripe"):
        store.shard(2).again("let_go", {"words": stripe, "map": moved.version})


def test_who_reads_the_files_sees_what_is_written_and_asks_where_words_have_moved(shards, monkeypatch):
    store = shards.make(0, 1)
    shards.start(2)
    near = shards.client(mapped=True)
    asked = []
    start = np.arange(0, 1 << BITS, 512)
    near.read(start, np.full(len(start), 8))
    exchange = near._call_all

    def note_down(op, fragments, *others):
        asked.append((op, len(fragments.start)))
        return exchange(op, fragments, *others)

    monkeypatch.setattr(near, "_call_all", note_down)
    for value in range(1, 4):
        store.write(start, np.full((len(start), 8), value, np.uint32))
        assert (near.read(start, np.full(len(start), 8)).words == value).all()
    assert asked == []
    reshard(store, [0, 1, 2])
    store.write(start, np.full((len(start), 8), 9, np.uint32))
    assert (near.read(start, np.full(len(start), 8)).words == 9).all()
    assert asked != []
    time.sleep(1.1)
    near.read(start, np.full(len(start), 8))
    asked.clear()
    assert (near.read(start, np.full(len(start), 8)).words == 9).all()
    assert asked == []
    # A leader that is gone does not answer by its files for longer than its lease.
    shards.running[1, "a"].leadership.step_down()
    mine = start[near.map.owners(start // near.map.stripe_words) == 1][:1]
    shards.stop(1)
    shards.start(1)
    store.write(mine, np.full((1, 8), 10, np.uint32))
    assert (near.read(mine, [8]).words == 10).all()


def test_what_keeps_versions_does_not_move(shards):
    store = shards.make(0, 1)
    shards.start(2)
    store.shard(1).call("keep", name="monday")
    with pytest.raises(StoreError, match="shard 1 keeps version monday"):
        reshard(store, [0, 1, 2])
    assert not load_map(shards.directory).is_moving
    with pytest.raises(ConfigError, match="name at least one"):
        reshard(store, [])


def test_nothing_is_lost_where_shards_move_under_load_and_leaders_die(shards):
    store = shards.make(0, 1)
    shards.start(0, 1, copy="b")
    shards.start(2, 3, 4)
    shards.start(2, 3, 4, copy="b")
    ended, wrong, counts = threading.Event(), list[str](), [0, 0, 0]

    def load(number: int) -> None:
        """Registers of one's own: what was written last is what is read."""
        client, random = shards.client(mapped=number == 0), np.random.default_rng(number)
        start = np.arange(number * 256 + 64, 1 << BITS, 3 * 256)
        values = np.zeros(len(start), np.uint32)
        while not ended.is_set():
            chosen = random.choice(len(start), 16, replace=False)
            values[chosen] = random.integers(1, 1 << 32, 16, dtype=np.uint32)
            client.write(start[chosen], np.repeat(values[chosen], 32).reshape(16, 32))
            seen = random.choice(len(start), 16, replace=False)
            found = client.read(start[seen], np.full(16, 32)).words.reshape(16, 32)
            if not (found == values[seen, None]).all():
                wrong.append(f"client {number}: {found[found != values[seen, None]][:4]}")
            counts[number] += 1

    threads = [threading.Thread(target=load, args=[number]) for number in range(3)]
    for thread in threads:
        thread.start()
    reshard(store, [0, 1, 2, 3, 4])
    leader = shards.directory.get(shard_name(3)).leader
    shards.stop(3, leader)
    reshard(store, [1, 2, 3])
    time.sleep(0.2)
    ended.set()
    for thread in threads:
        thread.join()
    assert not wrong
    assert min(counts) > 2


def test_who_asks_a_shard_that_is_no_more_looks_where_its_words_are(shards):
    store = shards.make(0, 1)
    filled(store)
    patient = shards.client(timeout_s=60)
    start = np.arange(0, 1 << BITS, 256)
    before = patient.read(start, np.full(256, 256)).words
    reshard(store, [0])
    shards.stop(1)
    began = time.monotonic()
    assert np.array_equal(patient.read(start, np.full(256, 256)).words, before)
    assert set(patient._shards) == {0}
    late = shards.client(timeout_s=60)
    late.map = ShardMap(1, BITS, (0, 1), (0, 1))
    late.write(start, np.full((256, 8), 7, np.uint32))
    assert (late.read(start, np.full(256, 8)).words == 7).all()
    # One that was sent, and perhaps made, is not made once more.
    gone = late.shard(1)
    late.map = ShardMap(1, BITS, (0, 1), (0, 1))
    with pytest.raises(ActorError, match="was stopped before it answered, and may have made a write"):
        gone.again("write", {}, is_known=False)
    with pytest.raises(MovedError, match="shard-1 holds nothing any more"):
        gone.again("write", {})
    assert time.monotonic() - began < 30


def test_a_flipped_bit_is_mended_from_the_other_copy(shards, monkeypatch):
    monkeypatch.setattr(Scrubber, "step", lambda _: None)
    store = shards.make(0)
    shards.start(0, copy="b")
    leader = shards.running[0, "a"].store
    words, sums = leader.mapped.pages, leader.mapped.sums
    # Each in a stripe of its own, which nobody has read yet.
    for page in (32, 64, 96, 128):
        store.write([page * 256], np.full((1, 256), page, np.uint32))
    words[32, 17] ^= 1 << 9
    assert store.read([32 * 256], [256]).words.tolist() == [32] * 256
    sums[64] ^= 1
    assert store.read([64 * 256], [256]).words.tolist() == [64] * 256
    leader.checkpoint()
    words[96, 100] ^= 1
    store.write([96 * 256], np.full((1, 8), 7, np.uint32))
    assert store.read([96 * 256], [256]).words.tolist() == [7] * 8 + [96] * 248
    assert not len(leader.damaged(np.arange(256)))
    for copy in ("a", "b"):
        shards.running[0, copy].store.mapped.pages[128, 1] ^= 1
    with pytest.raises(StoreError, match="page 128"):
        leader.read([128 * 256], [4])
    with pytest.raises(StoreError, match="page 128"):
        shards.running[0, "a"]._mend([128])


def test_copies_look_for_damage_by_themselves(shards):
    store = shards.make(0)
    shards.start(0, copy="b")
    store.write([512], np.full((1, 256), 5, np.uint32))
    for copy in ("a", "b"):
        shards.running[0, copy].store.mapped.pages[2 if copy == "a" else 77, 17] ^= 1 << 9
    end = time.monotonic() + 10
    while any(len(copy.store.verify()) for copy in shards.running.values()) and time.monotonic() < end:
        time.sleep(0.05)
    assert not any(len(copy.store.verify()) for copy in shards.running.values())


def damage_the_journal(root: Path) -> None:
    """Flip a bit in the middle of the first record, so that it is no torn end."""
    (segment, *_) = sorted(path for path in (root / "journal").iterdir() if path.stat().st_size > 4096)
    with segment.open("r+b") as file:
        file.seek(600)
        byte = file.read(1)[0]
        file.seek(600)
        file.write(bytes([byte ^ 4]))


@pytest.mark.parametrize("fault", ["damaged", "gone"])
def test_a_copy_whose_files_are_of_no_use_is_made_anew_and_does_not_lead_before(shards, tmp_path, fault):
    store = shards.make(0)
    shards.start(0, copy="b")
    for page in range(16):
        store.write([page * 256], np.full((1, 256), page + 1, np.uint32))
    # As after a crash: the journal is needed.
    leader = shards.running.pop((0, "a"))
    leader.store._gate.shut("was killed")
    leader.stop()
    if fault == "gone":
        shutil.rmtree(leader.files.root)
    else:
        damage_the_journal(leader.files.root)
    shards.start(0)
    assert shards.directory.get("shard-0").leader == "b"
    assert set(shards.directory.get("shard-0").in_sync) == {"a", "b"}
    shards.stop(0, "b")
    assert store.read(np.arange(16) * 256, np.ones(16, np.int64)).words.tolist() == list(range(1, 17))
    assert bool(list(tmp_path.glob("shard-0-a.damaged-*"))) == (fault == "damaged")


def test_the_only_copy_is_not_begun_anew_where_its_files_are_not(shards):
    store = shards.make(0)
    store.write([0], np.ones((1, 8), np.uint32))
    only = shards.running.pop((0, "a"))
    only.stop()
    only.files.root.rename(only.files.root.with_name("elsewhere"))
    with pytest.raises(StoreError, match="replica a of shard-0 is not here, and it is the only one"):
        shards.start(0)
    assert not only.files.root.exists()


def test_a_map_is_as_it_was_when_it_comes_back_from_the_directory(tmp_path):
    directory = FileCoordinator(tmp_path)
    assert load_map(directory) == ShardMap()
    made = ShardMap(1, 24, (0, 1), (0, 1, 7), 5, 3)
    assert directory.store(ENTRY, 1, made.to_bytes())
    assert load_map(directory) == made
    with pytest.raises(ConfigError, match="knows no memory of several shards"):
        ShardedStore(FileCoordinator(tmp_path / "other"))
