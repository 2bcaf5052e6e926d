"""Snapshots on disk: one file, checked in every byte, written whole or not at all.

Layout, all integers little-endian::

    8 bytes   magic
    4 bytes   length of the header
    4 bytes   CRC-32 of the header
    header    msgpack map: version, address_bits, sequence, pages (int64 bytes), crc32 (uint32 bytes, one a page)
    words     1,024 bytes a page, to the end of the file
"""

from __future__ import annotations

import os
import struct
import zlib
from pathlib import Path
from typing import Any, BinaryIO

import msgpack
import numpy as np
from numpy.typing import NDArray

from leworld.errors import CheckpointError, LeWorldError
from leworld.files import replace_file
from leworld.memory.protocol import PAGE_WORDS, Snapshot
from leworld.memory.word_store import check_pages

MAGIC = b"LEWORLD\x00"
VERSION = 1
PAGE_BYTES = PAGE_WORDS * 4
_PREFIX = struct.Struct("<8sII")
_HEADER_TYPES = {"version": int, "address_bits": int, "sequence": int, "pages": bytes, "crc32": bytes}


def save_snapshot(snapshot: Snapshot, path: str | os.PathLike[str]) -> None:
    """Write a snapshot; the file is on disk and complete when this returns, and the one before stays until then.

    Raises:
        CheckpointError: the snapshot is damaged.
        OSError: the disk refuses.
    """
    pages, words = check_pages(snapshot)
    words = np.ascontiguousarray(words.astype("<u4", copy=False))
    header: bytes = msgpack.Packer().pack(
        {
            "version": VERSION,
            "address_bits": int(snapshot.address_bits),
            "sequence": int(snapshot.sequence),
            "pages": pages.astype("<i8").tobytes(),
            "crc32": _page_checksums(words).astype("<u4").tobytes(),
        }
    )
    prefix = _PREFIX.pack(MAGIC, len(header), zlib.crc32(header))
    replace_file(Path(path), [prefix, header, words.reshape(-1).view(np.uint8).data])


def load_snapshot(path: str | os.PathLike[str]) -> Snapshot:
    """Read a snapshot that ``save_snapshot`` wrote.

    Raises:
        CheckpointError: the file is missing, foreign, truncated, too long or changed in any byte.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            return _load(file, os.fstat(file.fileno()).st_size)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror}); check the path") from None
    except LeWorldError as error:
        raise CheckpointError(f"{path}: {error}; restore from another snapshot") from None


def _load(file: BinaryIO, file_bytes: int) -> Snapshot:
    prefix = file.read(_PREFIX.size)
    if prefix[: len(MAGIC)] != MAGIC[: len(prefix)] or not prefix:
        raise CheckpointError("not a LeWorld snapshot")
    if len(prefix) < _PREFIX.size:
        raise CheckpointError(f"truncated after {file_bytes} bytes")
    _, header_bytes, header_crc = _PREFIX.unpack(prefix)
    # Sizes are held against the file's before anything is allocated for them.
    if header_bytes > file_bytes - _PREFIX.size:
        raise CheckpointError(f"truncated: a header of {header_bytes} bytes in a file of {file_bytes}")
    raw = file.read(header_bytes)
    if zlib.crc32(raw) != header_crc:
        raise CheckpointError("its header is damaged (checksum)")
    header = _parse(raw)
    pages, crc32 = np.frombuffer(header["pages"], "<i8"), np.frombuffer(header["crc32"], "<u4")
    expected = _PREFIX.size + header_bytes + len(pages) * PAGE_BYTES
    if len(crc32) != len(pages) or file_bytes != expected:
        raise CheckpointError(f"{file_bytes} bytes where {len(pages)} pages make {expected}: truncated or mixed up")
    words = _read_words(file, len(pages))
    _check_words(words, pages, crc32)
    snapshot = Snapshot(header["address_bits"], header["sequence"], pages.astype(np.int64), words)
    check_pages(snapshot)
    return snapshot


def _parse(raw: bytes) -> dict[str, Any]:
    try:
        header = msgpack.unpackb(raw)
    except ValueError as error:
        raise CheckpointError(f"its header cannot be read ({error})") from None
    if not isinstance(header, dict) or header.get("version") != VERSION:
        version = header.get("version") if isinstance(header, dict) else None
        raise CheckpointError(f"format version {version}, this program reads {VERSION}")
    for name, kind in _HEADER_TYPES.items():
        if type(header.get(name)) is not kind:
            raise CheckpointError(f"its header has no {name} of type {kind.__name__}")
    if header["sequence"] < 0 or len(header["pages"]) % 8 or len(header["crc32"]) % 4:
        raise CheckpointError("its header holds a sequence or page list that cannot be")
    return header


def _read_words(file: BinaryIO, num_pages: int) -> NDArray[np.uint32]:
    raw = bytearray(num_pages * PAGE_BYTES)
    if file.readinto(raw) != len(raw):  # pyright: ignore[reportAttributeAccessIssue]
        raise CheckpointError("the file shrank while it was read")
    return np.frombuffer(raw, "<u4").astype(np.uint32, copy=False).reshape(num_pages, PAGE_WORDS)


def _check_words(words: NDArray[np.uint32], pages: NDArray[np.int64], crc32: NDArray[np.uint32]) -> None:
    bad = _page_checksums(np.ascontiguousarray(words.astype("<u4", copy=False))) != crc32
    if bad.any():
        raise CheckpointError(
            f"page {pages[bad.argmax()]} is damaged (checksum), {int(bad.sum())} of {len(pages)} in all"
        )


def _page_checksums(words: NDArray[np.uint32]) -> NDArray[np.uint32]:
    return np.fromiter((zlib.crc32(page) for page in words), np.uint32, len(words))
