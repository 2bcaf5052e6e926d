"""A segment of the journal: one file of records, and where in it each page's content of before lies."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from leworld.errors import DamageError
from leworld.memory.protocol import PAGE_WORDS
from leworld.memory.ranges import Ints
from leworld.store.journal.record import Frame, Record, decode_at
from leworld.store.journal.tail_scan import whole_records

PAGE_BYTES = PAGE_WORDS * 4
SUFFIX = ".log"
_ASIDE = ".damaged"


@dataclass
class Segment:
    """Records ``first`` to ``last`` in one file.

    Attributes:
        path: of the file, whose name is the number of its first record.
        first: number of its first record; ``last`` of its last, ``first - 1`` while it has none.
        size: bytes of whole records.
        records: those of the file, as long as they are needed by whoever opens the journal; else None.
    """

    path: Path
    first: int
    last: int
    size: int = 0
    records: list[Record] | None = None
    _before: dict[int, int] | None = None

    @property
    def before(self) -> dict[int, int]:
        """Page to the offset in the file at which its content lies as it was before the segment.

        Raises:
            DamageError: the file has lost its end, or see ``scan``.
        """
        if self._before is None:
            found = load_segment(self.path)
            if found.last < self.last:
                raise missing(self.path.parent, found.last + 1)
            self._before = found.before
        return self._before

    def add(self, record: Record, frame: Frame) -> None:
        """Take note of a record at the end of the file."""
        self.last, self.size = record.last, frame.end
        if not len(record.pages):
            return
        at = frame.end - len(record.pages) * PAGE_BYTES
        self.before.update(zip(record.pages.tolist(), range(at, frame.end, PAGE_BYTES), strict=True))

    def read_before(self, pages: Ints) -> NDArray[np.uint32]:
        """(P, 256) what (P,) pages held before the segment."""
        out = np.empty((len(pages), PAGE_WORDS), np.uint32)
        with self.path.open("rb", buffering=0) as file:
            for row, page in enumerate(pages.tolist()):
                file.seek(self.before[page])
                out[row] = np.frombuffer(file.read(PAGE_BYTES), "<u4")
        return out


def segment_path(directory: Path, first: int) -> Path:
    """Where the segment that begins with a record lies."""
    return directory / f"{first:020d}{SUFFIX}"


def segment_paths(directory: Path) -> list[Path]:
    """The segments of a journal, oldest first."""
    return sorted(path for path in directory.glob(f"*{SUFFIX}") if path.stem.isdigit())


def set_aside(path: Path) -> Path:
    """Where a damaged segment lies that is needed only for who wrote what; nobody but a person looks into it."""
    return path.with_name(f"{path.name}{_ASIDE}")


def set_aside_segments(directory: Path) -> list[Path]:
    """The damaged segments of a journal that are needed only for who wrote what."""
    return sorted(directory.glob(f"*{SUFFIX}{_ASIDE}"))


def scan(path: Path, *, words: bool = True) -> Iterator[tuple[Record, Frame]]:
    """The whole and undamaged records of a segment, up to where there is no more.

    Raises:
        DamageError: one that cannot be read is followed by one that can, so that it was not cut off by a crash; or
            numbers are missing.
    """
    expected, offset, data = int(path.stem), 0, path.read_bytes()
    while offset < len(data):
        found = decode_at(data, offset, words=words)
        if found is None:
            check_tail(path, data, offset, expected)
            return
        record, frame = found
        if record.sequence != expected:
            raise DamageError(f"{path}: record {record.sequence} where {expected} was due; {_WAY_OUT}")
        yield found
        expected, offset = record.last + 1, frame.end


_WAY_OUT = (
    "make a new memory with leworld memory import NEW FILE; FILE is what leworld memory export writes of this one,"
    " if it was closed, or an older snapshot"
)


def missing(directory: Path, sequence: int) -> DamageError:
    """What is said where a journal lacks a record that it had."""
    return DamageError(f"{directory}: record {sequence} is missing; {_WAY_OUT}")


def check_joined(directory: Path, segments: Sequence[Segment], due: int) -> None:
    """Raise DamageError unless segments go on from one to the next, the first one with record ``due``."""
    for segment in segments:
        if segment.first != due:
            raise missing(directory, due)
        due = segment.last + 1


def check_tail(path: Path, data: bytes, offset: int, due: int = 0) -> None:
    """Raise DamageError where a whole record follows after the place at which there is none.

    Not if it went to the disk together with record ``due``, which is missing there: a machine that failed may have
    written any part of what nobody was told of.
    """
    for record, frame in whole_records(data, offset):
        if not due or record.group > due:
            raise DamageError(f"{path}: damaged at byte {offset}, before byte {frame.offset}; {_WAY_OUT}")


def load_segment(path: Path, *, keep: bool = False) -> Segment:
    """A segment as its file has it, with ``keep`` with its records.

    Raises:
        DamageError: see ``scan``.
    """
    first = int(path.stem)
    segment = Segment(path, first, first - 1, records=[] if keep else None, _before={})
    for record, frame in scan(path):
        segment.add(record, frame)
        if segment.records is not None:
            segment.records.append(record)
    return segment


def load_segments(directory: Path, checkpoint: int) -> list[Segment]:
    """The segments of a journal, oldest first; those up to a checkpoint are looked into only when they are needed.

    Raises:
        DamageError: one of them, or the end of one, is missing; or see ``scan``.
    """
    paths = segment_paths(directory)
    following = [int(path.stem) for path in paths[1:]]
    old = [
        Segment(path, int(path.stem), end - 1, path.stat().st_size)
        for path, end in zip(paths, following, strict=False)
        if end - 1 <= checkpoint
    ]
    new = [load_segment(path, keep=True) for path in paths[len(old) :]]
    check_joined(directory, new, checkpoint + 1)
    if checkpoint and not new:
        raise missing(directory, checkpoint + 1)
    return [*old, *new]
