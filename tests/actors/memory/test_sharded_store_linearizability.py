"""Memories that many use while processes are killed and links are cut: as if one operation came after another.

Ten thousand operations over the three ways to keep a memory; ``benchmarks/store_histories.py`` does a million.
"""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks.linearizability.checker import INITIAL, NEVER, TORN, History, check, search
from benchmarks.linearizability.records import LENGTHS, Keys, Recorder, block, history_of, load, value_of

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"
NOT_LOOKING = """
import sys
import time
sys.path.insert(0, {path!r})
from leworld.memory.ranges import check_ranges
from leworld.store.mapped_memory import MappedMemory


def read(self, start, length):
    # The odd words half a millisecond after the even ones.
    ranges = check_ranges(start, length, self.num_words)
    found = self.arena.gather(*ranges)
    time.sleep(0.0005)
    found.words[1::2] = self.arena.gather(*ranges).words[1::2]
    return found


MappedMemory.read = read
import store_histories
sys.exit(store_histories.main(sys.argv[1:]))
"""


def history(*operations: tuple[str, int, int, int]) -> History:
    """Of one register: ("w" or "r", value, begin, end) each."""
    kinds, values, begins, ends = zip(*operations, strict=True)
    arrays = [np.array(each, np.int64) for each in (values, begins, ends)]
    return History(np.zeros(len(kinds), np.int64), np.array([kind == "w" for kind in kinds]), *arrays)


def brute_force(one: History) -> bool:
    """Whether there is an order, by trying all."""
    answered = [i for i in range(len(one.key)) if one.end[i] != NEVER]

    def found(done: frozenset[int], state: int) -> bool:
        if done.issuperset(answered):
            return True
        for i in set(range(len(one.key))) - done:
            if any(j not in done and one.end[j] < one.begin[i] for j in answered):
                continue
            value = int(one.value[i])
            if (one.write[i] or value == state) and found(done | {i}, value):
                return True
        return False

    return found(frozenset(), INITIAL)


def some_history(random: np.random.Generator, *, unique: bool) -> History:
    count, span = int(random.integers(1, 8)), int(random.integers(2, 22))
    write, begin = random.random(count) < 0.5, random.integers(0, span, count)
    end = begin + random.integers(0, int(random.integers(1, 12)), count)
    value, writes = np.zeros(count, np.int64), int(write.sum())
    value[write] = np.arange(1, writes + 1) if unique else random.integers(1, 3, writes)
    value[~write] = random.choice(np.append(value[write], INITIAL), count - writes)
    end[write & (random.random(count) < 0.3)] = NEVER
    return History(np.zeros(count, np.int64), write, value, begin, end)


@pytest.mark.parametrize("unique", [True, False])
def test_the_checker_agrees_with_trying_all_orders(unique):
    random, right = np.random.default_rng(0), 0
    for _ in range(2500):
        one = some_history(random, unique=unique)
        expected = brute_force(one)
        violations = check(one)
        assert (not violations) == search(one) == expected, one
        for each in violations:
            assert not search(one.take(np.array(each.rows)))
        right += expected
    assert 500 < right < 2000


@pytest.mark.parametrize(
    ("what", "operations"),
    [
        ("stale read", [("w", 1, 0, 1), ("w", 2, 2, 3), ("r", 1, 4, 5)]),
        ("lost write", [("w", 1, 0, 1), ("r", INITIAL, 2, 3)]),
        ("half of a write", [("w", 1, 0, 9), ("r", TORN, 2, 3)]),
        ("back in time", [("w", 1, 0, 1), ("w", 2, 2, 9), ("r", 2, 3, 4), ("r", 1, 5, 6)]),
        ("back before an unknown write", [("w", 1, 0, 1), ("w", 2, 2, NEVER), ("r", 2, 3, 4), ("r", 1, 5, 6)]),
        ("written twice", [("w", 1, 0, 1), ("w", 2, 2, 3), ("r", 2, 4, 5), ("r", 1, 6, 7)]),
        ("nobody's value", [("w", 1, 0, 1), ("r", 7, 2, 3)]),
        ("read before it was written", [("r", 1, 0, 1), ("w", 1, 2, 3)]),
        ("an answered write overtaken", [("w", 1, 0, 9), ("r", 1, 1, 2), ("w", 2, 3, 4), ("r", 1, 5, 6)]),
    ],
)
def test_histories_with_no_order_are_found(what, operations):
    one = history(*operations)
    (violation,) = check(one)
    assert not search(one)
    assert set(violation.rows) <= set(range(len(operations)))


@pytest.mark.parametrize(
    "operations",
    [
        [("w", 1, 0, NEVER), ("r", INITIAL, 1, 2), ("r", INITIAL, 50, 60), ("r", 1, 99, 100)],
        [("w", 1, 0, NEVER), ("w", 2, 5, 6), ("r", 2, 7, 8), ("r", 2, 9, 10)],
        [("w", 1, 0, NEVER), ("w", 2, 5, 6), ("r", 2, 7, 8), ("r", 1, 9, 10)],
        [("w", 1, 0, 9), ("w", 2, 0, 9), ("r", 2, 1, 2), ("r", 1, 3, 4), ("r", 1, 10, 11)],
        [("w", 1, 0, 4), ("r", INITIAL, 4, 5), ("r", 1, 4, 6)],
        [("w", 1, 0, 9), ("r", INITIAL, 2, 3), ("r", 1, 4, 5)],
        [("w", 1, 0, 3), ("w", 2, 2, 4), ("r", 1, 5, 6)],
    ],
)
def test_an_unknown_write_is_made_at_any_time_or_never_and_what_overlaps_comes_in_any_order(operations):
    assert check(history(*operations)) == []


def test_registers_are_checked_one_by_one_and_long_histories_at_once():
    random, count = np.random.default_rng(1), 200_000
    moment = np.sort(random.integers(0, 1 << 40, count))
    key, write = random.integers(0, 50, count), random.random(count) < 0.3
    value, state = np.zeros(count, np.int64), np.zeros(50, np.int64)
    for i in range(count):
        if write[i]:
            state[key[i]] = i + 1
        value[i] = state[key[i]]
    begin, end = moment - random.integers(0, 1 << 26, count), moment + random.integers(0, 1 << 26, count)
    one = History(key, write, value, begin, end)
    assert check(one) == []
    wrong = int(np.flatnonzero(~write & (key == 7))[-1])
    value[wrong] = value[np.flatnonzero(write & (key == 7))[3]]
    assert {violation.key for violation in check(one)} == {7}


def test_half_of_a_value_is_no_value():
    for length in LENGTHS:
        words = block(77, length)
        assert value_of(words) == 77
        assert value_of(np.zeros(length, np.uint32)) == INITIAL
        if length > 1:
            for other in (np.zeros(length, np.uint32), block(78, length)):
                other[: length // 2] = words[: length // 2]
                assert value_of(other) == TORN
    keys = Keys.some(48)
    assert (keys.start[1:] == (keys.start + keys.length)[:-1]).all()
    assert (keys.start // 4096 != (keys.start + keys.length - 1) // 4096).any()


def test_what_was_asked_is_known_though_its_client_is_killed(tmp_path):
    recorder = Recorder(tmp_path / "1.rows", 1)
    recorder.done(recorder.begin([3], [8], write=True), recorder.begin([4], [0], write=False).start * 10**18, [8])
    recorder.unknown(recorder.begin([5], [9], write=True))
    recorder.forget(recorder.begin([6], [0], write=False))
    found, _ = history_of(load(tmp_path))
    assert found.key.tolist() == [3, 5]
    assert found.value.tolist() == [8, 9]
    assert found.end.tolist() == [2 * 10**18, NEVER]


def run(program: list[str], tmp_path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    given = [*arguments, "--dir", str(tmp_path), "--wrong", str(tmp_path / "wrong")]
    return subprocess.run([sys.executable, *program, *given], capture_output=True, text=True, timeout=100, check=False)


@pytest.mark.parametrize(("mode", "operations", "rate"), [("mapped", 5000, 2000), ("server", 3000, 1000),
                                                          ("replicas", 2000, 500)])  # fmt: skip
def test_word_ranges_are_linearizable(tmp_path, mode, operations, rate):
    program = str(BENCHMARKS / "store_histories.py")
    done = run([program], tmp_path, "--mode", mode, "--operations", str(operations), "--rate", str(rate))
    story = "".join(path.read_text()[:20000] for path in tmp_path.glob("wrong/*/story.txt"))
    assert done.returncode == 0, done.stdout + done.stderr + story
    assert f"| {mode} | {operations // 1000}" in done.stdout


def test_a_reader_that_does_not_look_again_is_found_out(tmp_path):
    program = ["-c", NOT_LOOKING.format(path=str(BENCHMARKS))]
    done = run(program, tmp_path, "--mode", "mapped", "--operations", "10000", "--rate", "5000")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "half of a write was read" in (tmp_path / "wrong" / "mapped-0" / "story.txt").read_text()
