"""Restoring of a snapshot that is too long for one record: it is finished when the memory is opened again.

The snapshot lies in a file of the memory's directory until all of it is written; as its number the file has that of the
last record before the first of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np

from leworld.errors import CheckpointError, DamageError
from leworld.files import sync
from leworld.memory.protocol import PAGE_WORDS, Snapshot
from leworld.memory.snapshot_file import load_snapshot, save_snapshot
from leworld.memory.word_store import check_pages
from leworld.store import committer as committing
from leworld.store.committer import Committer
from leworld.store.journal.write_log import WriteLog
from leworld.store.layout import Layout, refused

NOTE = "restore of a snapshot"
"""Of the records that write it."""


def restore(committer: Committer, layout: Layout, snapshot: Snapshot) -> None:
    """Replace the whole content of a memory; see ``DurableStore.restore``."""
    pages, words = check_pages(snapshot)
    memory = committer.mapped.memory
    with committer.gate.lock:
        gone = np.setdiff1d(np.union1d(memory.written_pages(), memory.verify_all()), pages)
        committer.images.check_replaceable(np.union1d(gone, pages))
        zeros = np.broadcast_to(np.uint32(0), (len(gone), PAGE_WORDS))
        if len(gone) + len(pages) <= committing.CHUNK_PAGES:
            # As one record it is there or not.
            committer.write_pages(np.concatenate([gone, pages]), np.concatenate([zeros, words]), NOTE)
            return
        with finished_later(layout, snapshot, lambda: committer.sequence):
            committer.write_pages(gone, zeros, NOTE)
            committer.write_pages(pages, words, NOTE)
            committer.journal.sync()


@contextmanager
def finished_later(layout: Layout, snapshot: Snapshot, sequence: Callable[[], int]) -> Iterator[None]:
    """Have a snapshot on the disk while it is written, and after that if only a part of it was.

    Args:
        layout: of the memory.
        snapshot: that is written within.
        sequence: the number of the last record.

    Raises:
        StoreError: the disk refuses; nothing is begun then.
    """
    begun_at = sequence()
    try:
        save_snapshot(replace(snapshot, sequence=begun_at), layout.restoring)
    except OSError as error:
        raise refused(layout.restoring, error) from error
    try:
        yield
    except BaseException:
        if sequence() == begun_at:
            end(layout)
        raise
    end(layout)


def end(layout: Layout) -> None:
    """Say that there is nothing to be finished; on the disk, too."""
    if layout.restoring.exists():
        layout.restoring.unlink()
        sync(layout.root)


def begun(layout: Layout, log: WriteLog) -> Snapshot | None:
    """The snapshot that a crash left half written; None where there is none, or something else was written after.

    Raises:
        DamageError: its file is damaged.
    """
    if not layout.restoring.exists():
        return None
    try:
        snapshot = load_snapshot(layout.restoring)
    except CheckpointError as error:
        raise DamageError(
            f"{error}; a part of it was written: delete that file to go on with this, then import the snapshot anew"
        ) from None
    for record in log.newest_first():
        if record.sequence <= snapshot.sequence:
            break
        if (record.kind, record.note) != ("write", NOTE):
            # It had failed, and must not undo what came then.
            return None
    return snapshot
