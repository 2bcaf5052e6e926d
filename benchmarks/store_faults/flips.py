"""Single bits flipped in every file of a memory, closed or left by a crash."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from leworld.errors import DamageError, LeWorldError
from leworld.memory import PAGE_WORDS
from leworld.store.durable_store import DurableStore, StoreConfig
from leworld.store.journal.segment import segment_paths

from .counts import Counts
from .model import ADDRESS_BITS, Model, Operation, operations
from .stores import copy_of, flip

SMALL = ("versions", "checkpoint", "identity", "ledger")
LARGE = ("words", "sums", "journal", "state")
OPERATIONS = 30
STATE_BYTES = 4096 + 16 * 8


@dataclass(frozen=True)
class Memories:
    """The same memory twice: ``closed``, and ``crashed``; each holds what its model says."""

    closed: Path
    crashed: Path
    closed_model: Model
    crashed_model: Model


def prepare(directory: Path, seed: int) -> Memories:
    """Make a memory with two versions, a ledger, and a journal that a crash needs."""
    config, model = StoreConfig("group", 1 << 15), Model.empty()
    root = directory / "flipped"
    with DurableStore.create(root, ADDRESS_BITS, config) as store:
        for operation in islice(operations(seed), OPERATIONS):
            operation.do(store)
            model = model.after(operation)
        for name in list(model.kept):
            model = _do(store, Operation("drop_version", name), model)
        store.checkpoint()
        for operation in _last_operations(seed):
            model = _do(store, operation, model)
    closed, closed_model = copy_of(root, directory / "closed"), model
    with DurableStore(root, StoreConfig("group")) as store:
        for operation in islice((op for op in operations(seed + 2) if op.kind == "write"), 3):
            model = _do(store, operation, model)
        crashed = copy_of(root, directory / "crashed")
    return Memories(closed, crashed, closed_model, model)


def _last_operations(seed: int) -> list[Operation]:
    writes = (operation for operation in operations(seed + 1) if operation.kind == "write")
    keep_a, keep_b = Operation("create_version", "a"), Operation("create_version", "b")
    return [keep_a, next(writes), next(writes), keep_b, next(writes)]


def _do(store: DurableStore, operation: Operation, model: Model) -> Model:
    operation.do(store)
    return model.after(operation)


def flip_bits(directory: Path, count: int, seed: int) -> list[Counts]:
    """Flip one bit at a time, so many in each large file, and in each small one as many as it has, at most so many."""
    memories, random, rows = prepare(directory, seed), np.random.default_rng(seed), []
    for state, root, model in (
        ("closed", memories.closed, memories.closed_model),
        ("crashed", memories.crashed, memories.crashed_model),
    ):
        for name in (*LARGE, *SMALL):
            counts = Counts(f"bit flipped, {state}: {name}")
            for _ in range(count):
                copy = copy_of(root, directory / "copy")
                path = copy / name if name != "journal" else _some_segment(copy, random)
                flip(path, _some_bit(path, model, random))
                _look(copy, model, counts)
            rows.append(counts)
    return rows


def _some_segment(root: Path, random: np.random.Generator) -> Path:
    paths = [path for path in segment_paths(root / "journal") if path.stat().st_size]
    return paths[int(random.integers(0, len(paths)))]


def _some_bit(path: Path, model: Model, random: np.random.Generator) -> int:
    """A bit of a file; of words mostly one that was written."""
    if path.name == "words" and random.random() < 0.8:
        written = np.flatnonzero(model.words)
        return int(written[random.integers(0, len(written))]) * 32 + int(random.integers(0, 32))
    size = path.stat().st_size if path.name != "state" else STATE_BYTES
    return int(random.integers(0, size * 8))


def _look(root: Path, model: Model, counts: Counts) -> None:
    """Open a memory, and read every page and version of it."""
    counts.injected += 1
    try:
        store = DurableStore(root)
    except LeWorldError as error:
        counts.refused += "\n" not in str(error)
        return
    except Exception as error:
        counts.died += 1
        counts.tell(f"{type(error).__name__}: {error}")
        return
    damaged, wrong = set(), 0
    for page in range(len(model.words) // PAGE_WORDS):
        right = model.words[page * PAGE_WORDS : (page + 1) * PAGE_WORDS]
        try:
            wrong += int((store.read([page * PAGE_WORDS], [PAGE_WORDS]).words != right).sum())
        except DamageError as error:
            damaged.update(error.pages)
    refused = len(damaged) + _wrong_versions(store, model, counts)
    if len(damaged) > 1 or damaged != set(store.verify().tolist()):
        counts.died += 1
        counts.tell(f"pages {sorted(damaged)} cannot be read, verify finds {store.verify().tolist()}")
    counts.lost += wrong
    counts.right += not refused and not wrong
    counts.refused += bool(refused) and not wrong
    try:
        snapshot = store.snapshot()
    except DamageError:
        snapshot = None
    if snapshot is not None and not np.array_equal(snapshot.words, model.words.reshape(-1, PAGE_WORDS)[snapshot.pages]):
        counts.lost += 1
    store.close()


def _wrong_versions(store: DurableStore, model: Model, counts: Counts) -> int:
    """How many versions are refused; wrong words are counted."""
    refused = 0
    for name, right in model.kept.items():
        try:
            found = store.versions.diff(name)
        except LeWorldError:
            refused += 1
            continue
        changed = np.flatnonzero(right != model.words)
        same = np.array_equal(found.address, changed) and np.array_equal(found.before, right[changed])
        counts.lost += not same
    return refused
