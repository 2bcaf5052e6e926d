"""Rows of starting: from opening a memory to the first read, in a fresh process."""

from __future__ import annotations

import json
import os
import subprocess
import time
from pathlib import Path

from leworld.store.layout import Layout
from store_speed.rounds import Comparison, compare_times, settle_disk
from store_speed.setting import Setting, python_module, say, size_name, warm

GOAL_S = 2.0
JOURNAL_BYTES = 64 << 20
RIVAL, LIMIT = "numpy.fromfile of all of it", f"goal of {GOAL_S:g} s"
_CACHES = Path("/proc/sys/vm/drop_caches")
_BOOT_AT, _BOOT_BYTES = 16, 16


def start_rows(setting: Setting) -> list[Comparison]:
    """Closed memories with and without the page cache, and memories that a crash left."""
    num_words = setting.large_words
    root, row = setting.filled(num_words), f"start, {size_name(num_words)}"
    say(row)
    rounds = max(2, min(5, setting.rounds))
    lines = _closed(f"{row}, cached", root, num_words, rounds, cold=False)
    if os.access(_CACHES, os.W_OK):
        lines += _closed(f"{row}, from the disk", root, num_words, rounds, cold=True)
    else:
        lines.append(
            Comparison(f"{row}, from the disk", "DurableStore", RIVAL, note="only root can empty the page cache")
        )
    for name, failed in (("killed", False), ("the machine failed", True)):
        lines += _crashed(f"{row}, {name}", root, num_words, rounds, failed=failed)
    return lines


def _closed(row: str, root: Path, num_words: int, rounds: int, *, cold: bool) -> list[Comparison]:
    own, whole, other = [], [], []
    for _ in range(rounds):
        seconds, process = _open(root, num_words, cold=cold)
        own.append(seconds)
        whole.append(process)
        other.append(_bare(root, num_words, cold=cold))
    return [_against_limit(row, own), compare_times(row, whole, other, "DurableStore, the whole process", RIVAL)]


def _crashed(row: str, root: Path, num_words: int, rounds: int, *, failed: bool) -> list[Comparison]:
    """After 64 MiB of journal; where the machine ``failed`` nothing says that the words are whole."""
    own, whole, other = [], [], []
    for _ in range(rounds):
        subprocess.run(python_module("opening", "crash", root, JOURNAL_BYTES), check=False)
        if failed:
            _forget_boot(root)
        seconds, process = _open(root, num_words, cold=False)
        own.append(seconds)
        whole.append(process)
        other.append(_bare(root, num_words, cold=False))
    return [_against_limit(row, own), compare_times(row, whole, other, "DurableStore, the whole process", RIVAL)]


def _against_limit(row: str, own: list[float]) -> Comparison:
    return compare_times(row, own, [GOAL_S] * len(own), "DurableStore, open and read", LIMIT, goal=1.0)


def _open(root: Path, num_words: int, *, cold: bool) -> tuple[float, float]:
    """Seconds from opening to the first read, and of the process up to there."""
    said, process = _run("open", root, num_words, cold=cold)
    return said["seconds"], process


def _bare(root: Path, num_words: int, *, cold: bool) -> float:
    return _run("bare", Layout(root).words, num_words, cold=cold)[1]


def _run(what: str, path: Path, number: int, *, cold: bool) -> tuple[dict[str, float], float]:
    settle_disk()
    if cold:
        _CACHES.write_text("1")
    else:
        warm(path if path.is_dir() else path.parent)
    begin = time.time()
    done = subprocess.run(python_module("opening", what, path, number), check=True, capture_output=True, text=True)
    said = json.loads(done.stdout)
    return said, said["end"] - begin


def _forget_boot(root: Path) -> None:
    """What is left when the machine is started anew: the state names another boot."""
    with Layout(root).state.open("r+b") as file:
        file.seek(_BOOT_AT)
        file.write(bytes(_BOOT_BYTES))
