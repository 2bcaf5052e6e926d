"""Numbers as people type them, and as they are shown."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from leworld.errors import DataError, RangeError, StoreError

WORD_LIMIT = 1 << 32


def number(text: str, what: str) -> int:
    """A whole number, decimal or hex.

    Raises:
        DataError: it is not a number.
    """
    try:
        return int(text, 16 if text.strip().lower().startswith("0x") else 10)
    except ValueError:
        raise DataError(f"{what} {text!r}: a whole number is needed, decimal (16) or hex (0x10)") from None


def word(text: str, what: str = "word") -> int:
    """One word.

    Raises:
        DataError: it does not fit into 32 bits.
    """
    value = number(text, what)
    if not 0 <= value < WORD_LIMIT:
        raise DataError(f"{what} {text}: 32 bits hold 0 to 4294967295 (0xffffffff); cut it into several words")
    return value


def words(texts: Sequence[str]) -> NDArray[np.uint32]:
    """Words, one or more."""
    return np.array([word(text) for text in texts], np.uint32)


def address(text: str, num_words: int, what: str = "address") -> int:
    """The address of a word.

    Raises:
        RangeError: the memory has no such address.
    """
    value = number(text, what)
    if not 0 <= value < num_words:
        way_out = "give one of those" if num_words == WORD_LIMIT else "wider memories are made with create --bits 32"
        raise RangeError(
            f"{what} {text}: this memory has the addresses 0 to {num_words - 1} ({num_words - 1:#x}); {way_out}"
        )
    return value


def span(first: int, length: int, num_words: int) -> None:
    """Raise RangeError unless ``length`` words from ``first`` on are in the memory."""
    if length < 1:
        raise RangeError(f"length {length}: at least one word is needed")
    if first + length > num_words:
        raise RangeError(
            f"{length} words from {first:#x} on end after the last address, {num_words - 1:#x}:"
            f" at most {num_words - first} fit there"
        )


def words_of_file(name: str) -> NDArray[np.uint32]:
    """Little-endian words of a file, or of standard input ("-").

    Raises:
        DataError: it holds none, or a part of one.
    """
    raw = sys.stdin.buffer.read() if name == "-" else _read(Path(name))
    where = "standard input" if name == "-" else name
    if len(raw) % 4:
        raise DataError(f"{where}: {len(raw)} bytes are not whole words of 4 bytes; pad or cut it")
    if not raw:
        raise DataError(f"{where}: is empty; at least one word of 4 bytes is needed")
    return np.frombuffer(raw, "<u4").astype(np.uint32, copy=False)


def size(num_bytes: int) -> str:
    """``3.2 MiB``."""
    if num_bytes < 1024:
        return f"{num_bytes} B"
    value = float(num_bytes)
    for unit in ("KiB", "MiB", "GiB"):
        value /= 1024
        if value < 1024 or unit == "GiB":
            return f"{value:.1f} {unit}"
    raise AssertionError


def plural(count: int, one: str) -> str:
    """``1 word``, ``2 words``."""
    return f"{count:,} {one}" + ("" if count == 1 else "s")


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise StoreError(f"{path}: cannot be read ({error.strerror}); check the path") from None
