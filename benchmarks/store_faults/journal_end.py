"""The journal's last record cut off and changed at every byte, and damage before it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from leworld.memory import Words
from leworld.store.durable_store import DurableStore, StoreConfig, Write
from leworld.store.journal.segment import scan, segment_paths
from leworld.store.journal.write_batch import make_batch

from .counts import Counts
from .model import ADDRESS_BITS, Model, Operation
from .stores import check_opened, copy_of, let_go, start_anew

WRITES = 5


def damage_the_end(directory: Path, every: int = 1) -> list[Counts]:
    """Cut off and change records of a journal at every byte, or at some."""
    with_last, without, before, after = _prepared(directory)
    rows = []
    for name, root, anew, allowed in (
        ("last record, visible", with_last, False, [after]),
        ("last record, visible, machine started anew", with_last, True, [before, after]),
        ("last record, not visible", without, False, [before, after]),
    ):
        cut, changed = Counts(f"{name}: cut off"), Counts(f"{name}: changed")
        begin, end = _last_record(root)
        for byte in range(begin, end, every):
            for counts, flipped in ((cut, False), (changed, True)):
                # Nothing but the journal tells of what was visible before the machine was started anew.
                _check_damaged(directory, root, byte, allowed, counts, flipped=flipped, anew=anew, may_refuse=anew)
        rows += [cut, changed]
    middle = Counts("record in the middle: changed")
    for byte in range(0, _last_record(with_last)[0], 7 * every):
        for anew in (False, True):
            _check_damaged(directory, with_last, byte, [after], middle, flipped=True, anew=anew, may_refuse=True)
    middle.lost += middle.right
    return [*rows, middle]


def _prepared(directory: Path) -> tuple[Path, Path, Model, Model]:
    """Memories that were not closed: the last write is visible in one of them, and only in the journal in the other."""
    model, store = Model.empty(), DurableStore.create(directory / "end", ADDRESS_BITS, StoreConfig("group"))
    for number in range(WRITES):
        model = model.after(_do(store, number))
    before = copy_of(store.root, directory / "before")
    after = model.after(_do(store, WRITES))
    with_last = copy_of(store.root, directory / "with-last")
    let_go(store)
    other = DurableStore(before)
    batch = make_batch([_write(WRITES)], other.num_words)
    other._journal.append([other._committer.record(batch, batch.checksums())])
    let_go(other)
    return with_last, before, model, after


def _write(number: int) -> Write:
    """The last one is short and changes one page that others did, too, and one that they did not."""
    start = np.array([20, 300]) if number < WRITES else np.array([25, 5000])
    return Write(start + number, Words(np.full(12, number + 1, np.uint32), np.array([0, 6, 12])))


def _do(store: DurableStore, number: int) -> Operation:
    operation = Operation("write", writes=(_write(number),))
    operation.do(store)
    return operation


def _last_record(root: Path) -> tuple[int, int]:
    """The bytes of it in its segment."""
    (_, frame) = list(scan(segment_paths(root / "journal")[-1]))[-1]
    return frame.offset, frame.end


def _check_damaged(
    directory: Path, root: Path, byte: int, allowed: Sequence[Model], counts: Counts, *,
    flipped: bool, anew: bool, may_refuse: bool = False,
) -> None:  # fmt: skip
    copy = copy_of(root, directory / "copy")
    path = segment_paths(copy / "journal")[-1]
    raw = bytearray(path.read_bytes())
    if flipped:
        raw[byte] ^= 1 << byte % 8
    path.write_bytes(raw if flipped else raw[:byte])
    if anew:
        start_anew(copy)
    check_opened(copy, allowed, counts, f"byte {byte}", may_refuse=may_refuse)
