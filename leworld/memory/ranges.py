"""Exact ranges ``[start, start + length)``: check, clip, cut at page borders, and spread into addresses.

Shapes:
    R: ranges.  W: words, the sum of the lengths.  F: fragments, each within one page.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from leworld.errors import ConfigError, DataError, RangeError
from leworld.memory.protocol import PAGE_WORDS

DIGIT_BITS = 8
MAX_ADDRESS_BITS = 32

Ints = NDArray[np.int64]


def check_address_bits(bits: int) -> int:
    """Return ``bits`` if it is a whole number of 8-bit digits up to 32 bits.

    Raises:
        ConfigError: it is not.
    """
    if bits not in range(DIGIT_BITS, MAX_ADDRESS_BITS + 1, DIGIT_BITS):
        raise ConfigError(f"address_bits {bits} is not a whole number of 8-bit digits up to 32; use 8, 16, 24 or 32")
    return int(bits)


def as_integers(values: ArrayLike, name: str) -> Ints:
    """(R,) int64 from any integers; DataError for other types and shapes."""
    array = np.asarray(values)
    if array.dtype == np.int64 and array.ndim == 1:
        return array
    if array.size == 0:
        array = array.astype(np.int64)
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise DataError(f"{name} of type {array.dtype} and shape {array.shape}: one axis of integers is needed")
    return array.astype(np.int64, copy=False)


def check_ranges(start: ArrayLike, length: ArrayLike, num_words: int) -> tuple[Ints, Ints]:
    """Return ranges as int64 if all of them lie in the memory.

    Args:
        start: (R,) in ``[0, num_words)``.
        length: (R,) in ``[0, 256]``.
        num_words: of the memory.

    Raises:
        RangeError: the first range that does not, by number and value.
        DataError: not two integer arrays of one length.
    """
    start, length = as_integers(start, "start"), as_integers(length, "length")
    if start.shape != length.shape:
        raise DataError(f"{len(start)} starts but {len(length)} lengths: one length a range is needed")
    if not len(start) or _all_inside(start, length, num_words):
        return start, length
    bad = (start < 0) | (start >= num_words) | (length < 0) | (length > PAGE_WORDS) | (length > num_words - start)
    first = int(bad.argmax())
    raise RangeError(
        f"range {first} (start {start[first]}, length {length[first]}) is outside the memory:"
        f" it has {num_words} words, a range 0 to {PAGE_WORDS}; cut it with memory.clip or widen address_bits"
    )


def _all_inside(start: Ints, length: Ints, num_words: int) -> bool:
    """Whether no range leaves the memory: extremes are found several times faster than the ranges that are wrong."""
    fits = start.min() >= 0 and start.max() < num_words and length.min() >= 0 and length.max() <= PAGE_WORDS
    return bool(fits and (start + length).max() <= num_words)


def clip(start: Ints, length: Ints, num_words: int) -> tuple[Ints, NDArray[np.bool_]]:
    """Cut proposed ranges at the end of the memory.

    Args:
        start: (...) in ``[0, num_words)``.
        length: (...).

    Returns:
        The length that is left, and True where it is less than was asked.
    """
    room = np.maximum(num_words - start, 0)
    return np.minimum(length, room), length > room


def expand(start: Ints, length: Ints) -> tuple[Ints, Ints]:
    """Spread ranges into the addresses of their words.

    Returns:
        ``addresses`` (W,), range after range, and ``offsets`` (R + 1,): those of range r are
        ``addresses[offsets[r]:offsets[r + 1]]``.
    """
    offsets = np.zeros(len(length) + 1, np.int64)
    np.cumsum(length, out=offsets[1:])
    addresses = np.repeat(start - offsets[:-1], length)
    addresses += np.arange(offsets[-1])
    return addresses, offsets


def split_at_pages(start: Ints, length: Ints, page_words: int = PAGE_WORDS) -> tuple[Ints, Ints, Ints]:
    """Cut ranges at page borders, or those of larger parts, in order; a range of length 0 leaves no fragment.

    Returns:
        ``range_index`` (F,) the range a fragment is of, ``start`` (F,) and ``length`` (F,) of the fragments.
    """
    first_page, end = start // page_words, start + length
    pieces = np.where(length > 0, (end - 1) // page_words - first_page + 1, 0)
    range_index = np.repeat(np.arange(len(start)), pieces)
    page = expand(first_page, pieces)[0]
    fragment_start = np.maximum(start[range_index], page * page_words)
    fragment_end = np.minimum(end[range_index], (page + 1) * page_words)
    return range_index, fragment_start, fragment_end - fragment_start


def pages_of(start: Ints, length: Ints) -> Ints:
    """The pages that hold a word of the ranges, ascending, each once."""
    if not length.all():
        start, length = start[length > 0], length[length > 0]
    # A range is at most a page long, so that it lies in two pages at most.
    first, last = start // PAGE_WORDS, (start + length - 1) // PAGE_WORDS
    pages = np.concatenate([first, last[last != first]])
    pages.sort()
    new = np.ones(len(pages), np.bool_)
    np.not_equal(pages[1:], pages[:-1], out=new[1:])
    return pages[new]
