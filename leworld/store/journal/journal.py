"""Journal: every write is here, on the disk as the policy says, before it is acknowledged or seen.

A journal is a directory of segments. A new one begins where a version is kept and where a checkpoint is taken; within
a segment the first record that changes a page carries what the page held, so that a segment tells what was before it.

Source: write-ahead logging with full page images, as in PostgreSQL,
https://www.postgresql.org/docs/current/runtime-config-wal.html#GUC-FULL-PAGE-WRITES
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from leworld.errors import ConfigError, StoreError
from leworld.files import sync
from leworld.store.journal.record import Frame, Record, encode
from leworld.store.journal.segment import Segment, load_segments, segment_path, set_aside
from leworld.store.journal.synced_file import SyncedFile
from leworld.store.layout import refused

POLICIES = ("always", "group", "os")
"""On the disk before the acknowledgement of a write; of a batch of writes that came together; within a second, so that
only a machine that fails can lose a write."""


class Journal:
    """The segments of one memory, and the file to which records are appended.

    Attributes:
        policy: one of ``POLICIES``.
        segments: oldest first; the last one grows.
    """

    def __init__(self, directory: Path, policy: str, checkpoint: int) -> None:
        """Open a journal; what a crash left of a record at its end is cut off.

        Args:
            directory: of the segments, which exists.
            policy: one of ``POLICIES``.
            checkpoint: the record after which an empty journal goes on.

        Raises:
            DamageError: a record in the middle is damaged, or one is missing.
            ConfigError: there is no such policy.
        """
        if policy not in POLICIES:
            raise ConfigError(f"policy {policy!r} is unknown: use one of {', '.join(POLICIES)}")
        self.directory, self.policy = directory, policy
        self.segments = load_segments(directory, checkpoint)
        self._in_hand = False
        if not self.segments:
            self.segments.append(self._new_segment(checkpoint + 1))
        self._file = SyncedFile(self.last.path, self.last.size, policy)

    @property
    def last(self) -> Segment:
        """The segment that grows."""
        return self.segments[-1]

    @property
    def sequence(self) -> int:
        """Number of the last record."""
        return self.last.last

    @property
    def is_closed(self) -> bool:
        """Whether ``close`` was called."""
        return self._file.is_closed

    @property
    def was_interrupted(self) -> bool:
        """Whether an exception left the journal in a state that only opening it again repairs."""
        return self._in_hand

    def append(self, records: Sequence[Record], meanwhile: Callable[[], None] | None = None) -> None:
        """Write records, all of them or none, as durable as the policy says.

        Args:
            records: numbered on from the last one.
            meanwhile: is called when they are in the file and before they are on the disk.

        Raises:
            StoreError: the disk refuses; nothing is written then.
            DataError: a record is too long; nothing is written then.
        """
        self._check()
        frames, parts, end = [], [], self.last.size
        for record in records:
            encoded = encode(record)
            begin, end = end, end + sum(len(part) for part in encoded)
            frames.append(Frame(begin, end, end))
            parts.extend(encoded)
        self._in_hand = True
        try:
            self._file.append(b"".join(parts), meanwhile)
        except BaseException:
            # Where it was cut off again, the file ends with the last record.
            self._in_hand = self._file.end != self.last.size
            raise
        for record, frame in zip(records, frames, strict=True):
            self.last.add(record, frame)
        self._in_hand = False

    def roll(self) -> None:
        """Begin a new segment; nothing happens where the last one is still empty."""
        if not self.last.size:
            return
        self.sync()
        self._grow_from(self.sequence + 1)

    def sync(self) -> None:
        """Return once all that was appended is on the disk."""
        self._check()
        self._file.sync()

    def since(self, sequence: int) -> list[Segment]:
        """The segments after the one that ends with a record, oldest first."""
        return [segment for segment in self.segments if segment.first > sequence]

    def skip_to(self, sequence: int) -> None:
        """Go on after record ``sequence``: those up to it are lost, but not what they wrote."""
        assert sequence > self.sequence
        short = self.last
        self._grow_from(sequence + 1)
        # What the lost ones changed is not known, so that it cannot tell of versions before them.
        short.last, short._before = sequence, None

    def drop(self, segment: Segment, *, aside: bool = False) -> None:
        """Delete a segment that is not the last, or put a damaged one ``aside``, under another name."""
        assert segment is not self.last
        self.segments.remove(segment)
        if aside:
            segment.path.rename(set_aside(segment.path))
        else:
            segment.path.unlink()
        sync(self.directory)

    def close(self) -> None:
        """Bring everything to the disk, and close the file."""
        if not self.is_closed:
            self._file.close(sync=not self._in_hand)

    def _grow_from(self, first: int) -> None:
        self._in_hand = True
        try:
            segment = self._new_segment(first)
        except StoreError:
            self._in_hand = False
            raise
        self._file.go_on_in(segment.path)
        self.segments.append(segment)
        self._in_hand = False

    def _new_segment(self, first: int) -> Segment:
        path = segment_path(self.directory, first)
        try:
            path.touch()
            sync(self.directory)
        except OSError as error:
            path.unlink(missing_ok=True)
            raise refused(path, error) from error
        return Segment(path, first, first - 1)

    def _check(self) -> None:
        if self.is_closed:
            raise StoreError(f"{self.directory}: is closed: open the memory again")
        self._file.check_disk()
        if self._in_hand:
            raise StoreError(f"{self.directory}: was interrupted: close the memory and open it again")
