"""Histories of readers and writers, disturbed on purpose, could have happened one operation after another."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks.linear.checker import NEVER, History, check, search, zones

PROGRAM = Path(__file__).parents[2] / "benchmarks" / "store_histories.py"


@pytest.mark.parametrize(("mode", "operations"), [("mapped", 15_000), ("server", 8000), ("replicas", 5000)])
def test_words_read_and_written_by_many_are_linearizable(tmp_path, mode, operations):
    out = tmp_path / "histories.json"
    arguments = ["--mode", mode, "--operations", str(operations), "--seed", "4", "--out", str(out)]
    done = subprocess.run([sys.executable, str(PROGRAM), *arguments], capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stdout + done.stderr
    (found,) = json.loads(out.read_text(encoding="utf-8"))["results"]
    assert found["violations"] == 0
    assert found["operations"] >= operations
    assert found["kills"] + found["pauses"] + found["cuts"] > 0


def history(*operations) -> History:
    """Of one register: ("w" or "r", value, begin, end) each."""
    kinds, values, begins, ends = zip(*operations, strict=True)
    numbers = (np.array(column, np.int64) for column in (values, begins, ends))
    return History(np.zeros(len(kinds), np.int64), np.array([kind == "w" for kind in kinds]), *numbers)


@pytest.mark.parametrize(
    ("operations", "right"),
    [
        ([("w", 1, 0, 1), ("r", 1, 2, 3)], True),
        ([("w", 1, 0, 1), ("r", 0, 2, 3)], False),
        ([("w", 1, 0, 9), ("r", 1, 2, 3), ("r", 0, 4, 5)], False),
        ([("w", 1, 0, 9), ("r", 0, 2, 3), ("r", 1, 4, 5)], True),
        ([("w", 1, 0, 1), ("w", 2, 2, 3), ("r", 1, 4, 5)], False),
        ([("w", 1, 0, 3), ("w", 2, 2, 4), ("r", 1, 5, 6)], True),
        ([("w", 1, 0, NEVER), ("r", 0, 2, 3), ("r", 1, 8, 9)], True),
        ([("r", 1, 0, 1), ("w", 1, 2, 3)], False),
        ([("w", 1, 0, 1), ("r", -1, 2, 3)], False),
    ],
)
def test_stale_lost_torn_and_early_words_are_found(operations, right):
    assert (not check(history(*operations))) == right


def test_the_quick_way_agrees_with_trying_all_orders():
    random, outcomes = np.random.default_rng(0), set()
    for _ in range(400):
        operations = []
        for value in range(1, int(random.integers(2, 5))):
            begin = int(random.integers(0, 12))
            operations.append(("w", value, begin, begin + int(random.integers(1, 6))))
        for _ in range(int(random.integers(1, 5))):
            begin = int(random.integers(0, 16))
            operations.append(("r", int(random.integers(0, len(operations) + 1)), begin, begin + 3))
        one = history(*operations)
        known = set(one.value[one.write].tolist()) | {0}
        if set(one.value.tolist()) <= known:
            quick = not zones(one)
            assert quick == search(one), operations
            outcomes.add(quick)
    assert outcomes == {True, False}
