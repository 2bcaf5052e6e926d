"""Files of a memory, mapped for one process or for all of them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from leworld.errors import StoreError
from leworld.memory.pages import WordPages, map_file
from leworld.store.layout import refused


def map_words(path: Path, address_bits: int, writable: bool) -> WordPages:
    """Map the words; the file stays sparse."""
    with _opened(path, 4 << address_bits, writable) as file:
        return WordPages(address_bits, file, writable=writable)


def map_array(path: Path, num_bytes: int, kind: str, writable: bool) -> NDArray:
    """Map a file as an array; a writer allocates all of it first, so that no store into it fails on a full disk.

    Raises:
        StoreError: the file cannot be opened, is too short to be read, or the disk is full.
    """
    with _opened(path, num_bytes, writable) as file:
        if writable:
            try:
                os.posix_fallocate(file, 0, num_bytes)
            except OSError as error:
                raise refused(path, error) from error
        return np.frombuffer(map_file(file, num_bytes, writable), kind)


@contextmanager
def _opened(path: Path, num_bytes: int, writable: bool) -> Iterator[int]:
    """An open file of at least a length, to which it grows (sparse) where it can be written."""
    try:
        file = os.open(path, os.O_RDWR if writable else os.O_RDONLY)
    except OSError as error:
        raise StoreError(f"{path}: cannot be opened ({error.strerror})") from None
    try:
        if os.fstat(file).st_size < num_bytes:
            if not writable:
                raise StoreError(f"{path}: is too short: open the memory for writing once")
            try:
                os.ftruncate(file, num_bytes)
            except OSError as error:
                raise refused(path, error) from error
        yield file
    finally:
        os.close(file)
