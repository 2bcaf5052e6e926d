"""What follows in a file after the place at which there is no record: looked through once, whatever stands there.

Words may look like records, and each may claim to reach to the end of the file. So the checksums of all that they claim
are computed from those of the file's beginnings: that of A and B together is that of A, carried over the length of B,
xor that of B.

Source: crc32_combine of zlib, https://github.com/madler/zlib/blob/master/crc32.c

Shapes:
    N: places.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from functools import cache

import numpy as np
from numpy.typing import NDArray

from leworld.memory.crc import crc32
from leworld.memory.ranges import Ints
from leworld.store.journal.record import MAGIC, MAX_BODY_BYTES, MAX_HEADER_BYTES, PREFIX_BYTES, Frame, Record, decode_at

_LENGTHS = struct.Struct("<IQ")
_HEAD_BYTES = len(MAGIC) + _LENGTHS.size


def whole_records(data: bytes, offset: int) -> Iterator[tuple[Record, Frame]]:
    """The whole and undamaged records after a place in a file's bytes, without words, but for those within others."""
    done = offset
    for at in _whole(data, offset).tolist():
        if at >= done and (found := decode_at(data, at, words=False)) is not None:
            yield found
            done = found[1].end


def _whole(data: bytes, offset: int) -> Ints:
    """(N,) where something stands after a place whose checksum is right."""
    begin, end = _claims(data, offset)
    if not len(begin):
        return begin
    body = begin + PREFIX_BYTES
    points = np.unique(np.concatenate([body, end]))
    sums = _sums_up_to(data, points)
    of_head = [crc32(data[at : at + _HEAD_BYTES]) for at in begin.tolist()]
    said = [int.from_bytes(data[at + _HEAD_BYTES : at + PREFIX_BYTES], "little") for at in begin.tolist()]
    before, upto = sums[np.searchsorted(points, body)], sums[np.searchsorted(points, end)]
    computed = _carried(np.array(of_head, np.uint32) ^ before, end - body) ^ upto
    return begin[computed == np.array(said, np.uint32)]


def _claims(data: bytes, offset: int) -> tuple[Ints, Ints]:
    """(N,) where what looks like a record begins, and ends."""
    found = []
    for match in re.compile(re.escape(MAGIC)).finditer(data, offset + 1, len(data) - PREFIX_BYTES + len(MAGIC)):
        header_bytes, body_bytes = _LENGTHS.unpack_from(data, match.end())
        end = match.start() + PREFIX_BYTES + header_bytes + body_bytes
        if header_bytes <= MAX_HEADER_BYTES and body_bytes <= MAX_BODY_BYTES and end <= len(data):
            found.append((match.start(), end))
    begin, end = np.array(found, np.int64).reshape(-1, 2).T
    return begin, end


def _sums_up_to(data: bytes, points: Ints) -> NDArray[np.uint32]:
    """(N,) checksums of what lies between the first of (N,) places, which ascend, and each of them."""
    view, out, total, before = memoryview(data), np.zeros(len(points), np.uint32), 0, int(points[0])
    for row, point in enumerate(points.tolist()):
        total, before = crc32(view[before:point], total), point
        out[row] = total
    return out


def _carried(sums: NDArray[np.uint32], length: Ints) -> NDArray[np.uint32]:
    """(N,) checksums carried over (N,) bytes."""
    sums = sums.copy()
    for power, tables in enumerate(_tables()):
        rows = np.flatnonzero(length >> power & 1)
        if len(rows):
            sums[rows] = _look_up(tables, sums[rows])
    return sums


def _look_up(tables: NDArray[np.uint32], sums: NDArray[np.uint32]) -> NDArray[np.uint32]:
    parts = (tables[byte][sums >> np.uint32(8 * byte) & np.uint32(255)] for byte in range(4))
    return np.bitwise_xor.reduce(list(parts))


@cache
def _tables() -> list[NDArray[np.uint32]]:
    """(4, 256) what a checksum with one byte set becomes over 1, 2, 4, 8, ... bytes."""
    values = np.arange(256, dtype=np.uint32)
    # Over one byte of zeros, from what the checksum of one byte is.
    step = np.array([crc32(bytes([value ^ 255])) for value in range(256)], np.uint32) ^ np.uint32(0xFF000000)
    found = [np.stack([step, *(values << np.uint32(shift) for shift in (0, 8, 16))])]
    while 1 << len(found) <= MAX_HEADER_BYTES + MAX_BODY_BYTES:
        found.append(np.stack([_look_up(found[-1], row) for row in found[-1]]))
    return found
