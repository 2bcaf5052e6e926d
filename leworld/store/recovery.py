"""Recovery: the words become those of the journal's end, whatever a crash left of them."""

from __future__ import annotations

from collections.abc import Sequence

from leworld.store.checkpointer import Checkpointer
from leworld.store.journal.journal import Journal
from leworld.store.journal.record import Record
from leworld.store.journal.segment import Segment, missing
from leworld.store.journal.write_batch import join
from leworld.store.journal.write_log import WriteLog
from leworld.store.mapped_memory import MappedMemory
from leworld.store.versions.versions import changed_pages

REPLAYED_RECORDS = 1024
"""Made again at a time."""


def recover(
    mapped: MappedMemory, journal: Journal, history: WriteLog, checkpoints: Checkpointer, *, is_copy: bool
) -> Record | None:
    """Make the words those of the journal's end, and let readers in.

    Args:
        mapped: the words.
        journal: just opened.
        history: of the journal.
        checkpoints: of the memory.
        is_copy: whether nobody may read before it leads.

    Returns:
        the mark of what was begun and is to be finished, or finished already.

    Raises:
        DamageError: a record is missing that was visible.
    """
    # Where the journal is damaged the words stay as they are, and can be read if they were closed.
    last = history.last_mark()
    since = journal.since(checkpoints.upto)
    pages = changed_pages(since)
    intact = mapped.is_whole and mapped.sequence >= journal.sequence and not len(mapped.damaged(pages))
    if intact and mapped.sequence > journal.sequence:
        # The words were made visible, so that they were acknowledged; the end of the journal was lost later.
        journal.skip_to(mapped.sequence)
        # The words are the only ones that know what was lost: the journal must not be needed for them any more.
        checkpoints.take(mapped.sequence)
    if not intact:
        if mapped.shown > journal.sequence:
            raise missing(journal.directory, journal.sequence + 1)
        mapped.begin_mending()
        mapped.reserve(pages)
        for segment in since:
            _replay(mapped, history, segment)
    if is_copy:
        mapped.lease_until(0.0)
    else:
        mapped.end_lease()
    mapped.settle_at(journal.sequence)
    mapped.open()
    for segment in journal.segments:
        # What is appended from here on is not among them.
        segment.records = None
    return last


def _replay(mapped: MappedMemory, history: WriteLog, segment: Segment) -> None:
    """Put the pages of a segment back as they were before it, and make its writes again, many at a time."""
    pages = changed_pages([segment])
    mapped.pages[pages] = segment.read_before(pages)
    some: list[Record] = []
    for record in history.records(segment):
        some.append(record)
        if len(some) == REPLAYED_RECORDS:
            _redo(mapped, some)
            some = []
    _redo(mapped, some)
    mapped.sum_up(pages)


def _redo(mapped: MappedMemory, records: Sequence[Record]) -> None:
    batch = join(records)
    mapped.arena.scatter(batch.start, batch.length, batch.words)
