"""Memories as a crash leaves them, and whether they hold what they should."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from leworld.errors import LeWorldError
from leworld.memory import PAGE_WORDS
from leworld.memory.protocol import Reader
from leworld.store.durable_store import DurableStore, StoreConfig

from .counts import Counts
from .model import Model

BOOT = slice(16, 32)
"""Where ``state`` has the machine's boot."""


def content(reader: Reader) -> NDArray[np.uint32]:
    """Every word."""
    num_pages = (1 << reader.address_bits) // PAGE_WORDS
    return reader.read(np.arange(num_pages) * PAGE_WORDS, np.full(num_pages, PAGE_WORDS)).words


def version_content(store: DurableStore, name: str, now: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """Every word of a version, as ``diff`` tells it."""
    found, words = store.versions.diff(name), now.copy()
    words[found.address] = found.before
    return words


def copy_of(root: Path, to: Path) -> Path:
    """A copy of a memory as it is on the disk now; what was there is deleted."""
    shutil.rmtree(to, ignore_errors=True)
    shutil.copytree(root, to)
    return to


def let_go(store: DurableStore) -> None:
    """Leave a memory as a process leaves it that is killed, without ending this one."""
    with store._checkpoints.going_on:
        store._opened.close()


def start_anew(root: Path) -> None:
    """Pretend that the machine was started anew since a memory was written."""
    state = bytearray((root / "state").read_bytes())
    state[BOOT] = bytes(16)
    (root / "state").write_bytes(state)


def flip(path: Path, bit: int) -> None:
    """Flip one bit of a file."""
    with path.open("r+b") as file:
        file.seek(bit // 8)
        (value,) = file.read(1)
        file.seek(bit // 8)
        file.write(bytes([value ^ 1 << bit % 8]))


def check(store: DurableStore, allowed: Sequence[Model], counts: Counts, what: str) -> Model:
    """Compare a memory with the models of which it must be one, the one that was acknowledged first; count the outcome.

    Returns:
        What the memory holds.
    """
    words = content(store)
    kept = {version.name: version_content(store, version.name, words) for version in store.versions}
    found = Model(words, kept)
    if any(_same(found, model) for model in allowed) and not len(store.verify()):
        counts.right += 1
        return found
    before, after = allowed[0], allowed[-1]
    lost = (words != before.words) & (words != after.words)
    for name, right in before.kept.items():
        if name in after.kept and (name not in kept or not np.array_equal(kept[name], right)):
            counts.lost += 1
    counts.lost += int(lost.sum())
    counts.half += not lost.any()
    counts.tell(f"{what}: {int(lost.sum())} words lost, versions {sorted(kept)} of {sorted(before.kept)}")
    return found


def check_opened(
    root: Path, allowed: Sequence[Model], counts: Counts, what: str, *, may_refuse: bool = False
) -> Model | None:
    """Open a memory, ``check`` it, and close it; an error counts as refused where that is allowed."""
    counts.injected += 1
    try:
        with DurableStore(root, StoreConfig(segment_bytes=1 << 16)) as store:
            return check(store, allowed, counts, what)
    except LeWorldError as error:
        if may_refuse and "\n" not in str(error):
            counts.refused += 1
        else:
            counts.died += 1
            counts.tell(f"{what}: {error}")
    except Exception as error:
        counts.died += 1
        counts.tell(f"{what}: {type(error).__name__}: {error}")
    return None


def _same(one: Model, two: Model) -> bool:
    return (
        np.array_equal(one.words, two.words)
        and list(one.kept) == list(two.kept)
        and all(np.array_equal(one.kept[name], two.kept[name]) for name in one.kept)
    )
