"""Recovery: the words become those of the journal's end, whatever a crash left of them."""

from __future__ import annotations

from itertools import islice

from leworld.store.checkpointer import Checkpointer
from leworld.store.journal.journal import Journal
from leworld.store.journal.record import Record
from leworld.store.journal.segment import Segment, missing
from leworld.store.journal.write_batch import join
from leworld.store.journal.write_log import WriteLog
from leworld.store.mapped_writer import MappedWriter
from leworld.store.versions.versions import changed_pages

REPLAYED_RECORDS = 1024
"""Made again at a time."""


def recover(
    writer: MappedWriter, journal: Journal, log: WriteLog, checkpoints: Checkpointer, *, is_replica: bool
) -> Record | None:
    """Make the words those of the journal's end, and let readers in.

    Args:
        writer: of the words.
        journal: just opened.
        log: of the journal.
        checkpoints: of the memory.
        is_replica: whether nobody may read before it leads.

    Returns:
        the mark of what was begun and is to be finished, or finished already.

    Raises:
        DamageError: a record is missing that was visible.
    """
    # Where the journal is damaged the words stay as they are, and can be read if they were closed.
    last = log.last_mark()
    mapped, state = writer.memory, writer.state
    since = journal.since(checkpoints.upto)
    pages = changed_pages(since)
    intact = state.is_whole and mapped.sequence >= journal.sequence and not len(mapped.damaged(pages))
    if intact and mapped.sequence > journal.sequence:
        # The words were made visible, so that they were acknowledged; the end of the journal was lost later.
        journal.skip_to(mapped.sequence)
        # The words are the only ones that know what was lost: the journal must not be needed for them any more.
        checkpoints.take(mapped.sequence)
    if not intact:
        if state.shown > journal.sequence:
            raise missing(journal.directory, journal.sequence + 1)
        state.begin_mending()
        writer.reserve(pages)
        for segment in since:
            _replay(writer, log, segment)
    if is_replica:
        state.lease_until(0.0)
    else:
        state.end_lease()
    state.settle_at(journal.sequence)
    state.set_closed(False)
    for segment in journal.segments:
        # What is appended from here on is not among them.
        segment.records = None
    return last


def _replay(writer: MappedWriter, log: WriteLog, segment: Segment) -> None:
    """Put the pages of a segment back as they were before it, and make its writes again, many at a time."""
    pages, mapped = changed_pages([segment]), writer.memory
    mapped.pages[pages] = segment.read_before(pages)
    records = log.records(segment)
    while some := list(islice(records, REPLAYED_RECORDS)):
        batch = join(some)
        mapped.arena.scatter(batch.start, batch.length, batch.words)
    writer.sum_up(pages)
