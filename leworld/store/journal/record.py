"""Journal records: what was written, by whom, when, and what it replaced.

Layout of a record, all integers little-endian::

    4 bytes   magic
    4 bytes   length of the header
    8 bytes   length of the body
    4 bytes   CRC-32 of the 16 bytes before, the header and the body
    header    msgpack map, see ``_FIELDS``
    body      the words written, then those of the pages before

Writes that came together are one record of kind "writes": their ranges and words one after another, and a list that
tells which are whose. So a write of a group costs little more than its words.

Shapes:
    R: ranges.  W: words written, the sum of the lengths.  P: pages.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from mmap import mmap
from typing import Any

import msgpack
import numpy as np
from numpy.typing import NDArray

from leworld.errors import DataError, StoreError
from leworld.memory.crc import crc32
from leworld.memory.protocol import PAGE_WORDS
from leworld.memory.ranges import Ints
from leworld.memory.words import as_bytes

MAGIC = b"LWJ1"
KINDS = ("write", "writes", "back", "restore", "restored", "erase", "erased")
MAX_HEADER_BYTES = 1 << 28
MAX_BODY_BYTES = 1 << 34
_FRAME = struct.Struct("<4sIQ")
_CRC = struct.Struct("<I")
PREFIX_BYTES = _FRAME.size + _CRC.size
_FIELDS = {
    "sequence": int, "group": int, "epoch": int, "time_ns": int, "kind": str, "writer": str, "note": str,
    "start": bytes, "length": bytes, "pages": bytes, "crc32": int,
}  # fmt: skip
_WRITES_KEY: bytes = msgpack.Packer().pack("writes")
_NO_WORDS = np.zeros(0, np.uint32)
_NO_INTS = np.zeros(0, np.int64)
_NO_PAGES = np.zeros((0, PAGE_WORDS), np.uint32)


@dataclass(frozen=True)
class Record:
    """One entry of the journal: one write, or several that came together.

    Attributes:
        sequence: its number, one more than that of the record before; of several writes that of the first.
        group: number of the first of the records that went to the disk together with it; 0 where it went alone.
        epoch: of the primary that wrote it.
        time_ns: since 1970.
        kind: "write"; "writes", several; "restore" and "restored", the begin and end of going back to version ``note``;
            "back", pages put back as they were after write ``note``; "erase" and "erased", the begin and end of erasing
            write ``note``.
        writer: who wrote.
        start, length: (R,) ranges.
        words: (W,) what was written; empty where only the header was kept.
        crc32: of the words as they were written; it stays where they are erased or not kept; 0 of several writes.
        pages: (P,) those that it, or one of the records that came together with it, was the first to change in its
            segment; ``before`` (P, 256) what they held.
        writes: of each of several: number of its ranges, checksum, writer and note; else empty.
    """

    sequence: int
    time_ns: int
    start: Ints = field(default_factory=lambda: _NO_INTS)
    length: Ints = field(default_factory=lambda: _NO_INTS)
    words: NDArray[np.uint32] = field(default_factory=lambda: _NO_WORDS)
    pages: Ints = field(default_factory=lambda: _NO_INTS)
    before: NDArray[np.uint32] = field(default_factory=lambda: _NO_PAGES)
    crc32: int = 0
    epoch: int = 0
    group: int = 0
    kind: str = "write"
    writer: str = ""
    note: str = ""
    writes: tuple[tuple[int, int, str, str], ...] = ()

    @property
    def last(self) -> int:
        """Number of its last write."""
        return self.sequence + max(len(self.writes), 1) - 1

    def split(self) -> list[Record]:
        """A record a write; what pages held is with the first."""
        if not self.writes:
            return [self]
        found, first, begin, kept = [], 0, 0, len(self.words) > 0
        for i, (num_ranges, crc, writer, note) in enumerate(self.writes):
            start, length = self.start[first : first + num_ranges], self.length[first : first + num_ranges]
            end = begin + int(length.sum()) if kept else begin
            found.append(
                Record(
                    self.sequence + i, self.time_ns, start, length, self.words[begin:end],
                    _NO_INTS if i else self.pages, _NO_PAGES if i else self.before,
                    crc, self.epoch, self.group, "write", writer, note,
                )
            )  # fmt: skip
            first, begin = first + num_ranges, end
        return found


@dataclass(frozen=True)
class Frame:
    """Where a record lies in a file: ``offset`` of its first byte, of its ``body``, and of the byte after it."""

    offset: int
    body: int
    end: int


def encode(record: Record) -> list[bytes | memoryview]:
    """The parts of a record's bytes, one after another.

    Raises:
        DataError: it is too long to be read again.
    """
    fields = {
        "sequence": record.sequence,
        "group": record.group or record.sequence,
        "epoch": record.epoch,
        "time_ns": record.time_ns,
        "kind": record.kind,
        "writer": record.writer,
        "note": record.note,
        "start": record.start.astype("<u4").tobytes(),
        "length": record.length.astype("<u2").tobytes(),
        "pages": record.pages.astype("<u4").tobytes(),
        "crc32": record.crc32,
    }
    header: bytes = msgpack.Packer().pack(fields | {"writes": record.writes} if record.writes else fields)
    body = [as_bytes(record.words), as_bytes(record.before)]
    body_bytes = sum(len(part) for part in body)
    if len(header) > MAX_HEADER_BYTES or body_bytes > MAX_BODY_BYTES:
        raise DataError(f"a write of {len(record.start)} ranges, {body_bytes} bytes: cut it into several writes")
    frame = _FRAME.pack(MAGIC, len(header), body_bytes)
    crc = crc32(header, crc32(frame))
    for part in body:
        crc = crc32(part, crc)
    return [frame + _CRC.pack(crc) + header, *body]


def decode_at(data: memoryview | bytes, offset: int, *, words: bool = True) -> tuple[Record, Frame] | None:
    """The record at an offset of a file's bytes, or None where there is no whole and undamaged one.

    Args:
        data: of the file.
        offset: of the record.
        words: False leaves words out of the record; the checksum is over all of it even so.
    """
    data = memoryview(data)
    if len(data) - offset < PREFIX_BYTES or data[offset : offset + len(MAGIC)] != MAGIC:
        return None
    _, header_bytes, body_bytes = _FRAME.unpack_from(data, offset)
    body = offset + PREFIX_BYTES + header_bytes
    if header_bytes > MAX_HEADER_BYTES or body_bytes > MAX_BODY_BYTES or body + body_bytes > len(data):
        return None
    (crc,) = _CRC.unpack_from(data, offset + _FRAME.size)
    if crc32(data[offset + PREFIX_BYTES : body + body_bytes], crc32(data[offset : offset + 16])) != crc:
        return None
    frame = Frame(offset, body, body + body_bytes)
    return _parse(bytes(data[offset + PREFIX_BYTES : body]), data[body : frame.end], words), frame


def to_header_only(data: memoryview | bytes | mmap, first: int, after: int) -> tuple[bytes, int]:
    """The frames of whole records without their bodies, as far as they go on from each other.

    Args:
        data: frames, one after another.
        first: number of the first record.
        after: number of a record; those up to it are left out.

    Returns:
        them, and the offset in ``data`` at which they end: that of its end, unless it is damaged.
    """
    data, parts, offset, sequence = memoryview(data), [], 0, first
    while len(data) - offset >= PREFIX_BYTES:
        magic, header_bytes, body_bytes = _FRAME.unpack_from(data, offset)
        end = offset + PREFIX_BYTES + header_bytes + body_bytes
        (crc,) = _CRC.unpack_from(data, offset + _FRAME.size)
        whole = data[offset + PREFIX_BYTES : end]
        if magic != MAGIC or end > len(data) or crc32(whole, crc32(data[offset : offset + 16])) != crc:
            break
        header = bytes(whole[:header_bytes])
        sequence += _num_writes(header)
        if sequence > after + 1:
            frame = _FRAME.pack(MAGIC, header_bytes, 0)
            parts += [frame, _CRC.pack(crc32(header, crc32(frame))), header]
        offset = end
    return b"".join(parts), offset


def _parse(raw: bytes, body: memoryview, words: bool) -> Record:
    """A record of a header and a body that are as they were written; the body may have been left out.

    Raises:
        StoreError: another program wrote them.
    """
    header = _checked_header(raw)
    start = np.frombuffer(header["start"], "<u4").astype(np.int64)
    length = np.frombuffer(header["length"], "<u2").astype(np.int64)
    pages = np.frombuffer(header["pages"], "<u4").astype(np.int64)
    if len(start) != len(length) or length.max(initial=0) > PAGE_WORDS:
        raise StoreError(f"record {header['sequence']} has ranges that cannot be: it is of another program")
    num_words = int(length.sum())
    if len(body) and len(body) != 4 * (num_words + len(pages) * PAGE_WORDS):
        raise StoreError(f"record {header['sequence']} has words for other ranges: it is of another program")
    there = words and len(body) > 0
    held = np.frombuffer(body, "<u4") if there else _NO_WORDS
    return Record(
        sequence=header["sequence"],
        time_ns=header["time_ns"],
        start=start,
        length=length,
        words=held[:num_words] if there else _NO_WORDS,
        pages=pages if there else _NO_INTS,
        before=held[num_words:].reshape(-1, PAGE_WORDS) if there else _NO_PAGES,
        crc32=header["crc32"],
        epoch=header["epoch"],
        group=header["group"],
        kind=header["kind"],
        writer=header["writer"],
        note=header["note"],
        writes=_writes(header, len(start)),
    )


def _writes(header: dict[str, Any], num_ranges: int) -> tuple[tuple[int, int, str, str], ...]:
    """Those of a record of several.

    Raises:
        StoreError: another program wrote them.
    """
    if header["kind"] != "writes":
        return ()
    rows = header.get("writes")
    if isinstance(rows, list) and rows and all(map(_is_write, rows)) and sum(row[0] for row in rows) == num_ranges:
        return tuple((count, crc, writer, note) for count, crc, writer, note in rows)
    raise StoreError(f"record {header['sequence']} has a broken list of writes: it is of another program")


def _is_write(row: object) -> bool:
    return isinstance(row, list) and [type(value) for value in row] == [int, int, str, str] and min(row[:2]) >= 0


def _num_writes(header: bytes) -> int:
    """How many writes a whole record is of."""
    if _WRITES_KEY not in header:
        return 1
    record = _parse(header, memoryview(b""), False)
    return record.last - record.sequence + 1


_ARRAYS = {"start": "<u4", "length": "<u2", "pages": "<u4"}


def _checked_header(raw: bytes) -> dict[str, Any]:
    try:
        header = msgpack.unpackb(raw)
    except ValueError as error:
        raise StoreError(f"a journal record cannot be read ({error}): it is of another program") from None
    if not isinstance(header, dict):
        raise StoreError("a journal record without a map: it is of another program")
    for name, kind in _FIELDS.items():
        if type(header.get(name)) is not kind:
            raise StoreError(f"a journal record without {name} of type {kind.__name__}: it is of another program")
    for name, kind in _ARRAYS.items():
        if len(header[name]) % np.dtype(kind).itemsize:
            raise StoreError(f"a journal record with a broken list of {name}: it is of another program")
    if header["kind"] not in KINDS:
        raise StoreError(f"a journal record of kind {header['kind']!r}: a newer program wrote it; use that one")
    return header
