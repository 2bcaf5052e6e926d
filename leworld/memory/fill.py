"""Filling a memory: with random words, with the seed's structured patterns, or with records of experience.

Shapes:
    N: records.  C: elements of a field.  P: pages.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from leworld.errors import ConfigError, RangeError
from leworld.memory.protocol import PAGE_WORDS, WORD_BITS, Memory, Receipt
from leworld.memory.ranges import Ints, as_integers
from leworld.memory.schema import Schema

PAGES_PER_WRITE = 4096
MAX_WHOLE_BITS = 24
"""Up to here a whole memory is filled: 64 MiB of words."""


def fill_random(memory: Memory, generator: np.random.Generator, pages: ArrayLike | None = None) -> list[Receipt]:
    """Write uniformly random words.

    Args:
        memory: any memory.
        generator: same state, same words.
        pages: (P,) page numbers to fill; None fills the whole memory, up to 24 address bits.

    Returns:
        One receipt a write, of at most 4,096 pages each.

    Raises:
        ConfigError: the memory is too wide to be filled whole.
        RangeError: a page is outside the memory.
    """
    numbers = _all_pages(memory) if pages is None else _checked_pages(memory, pages)
    receipts = []
    for begin in range(0, len(numbers), PAGES_PER_WRITE):
        part = numbers[begin : begin + PAGES_PER_WRITE]
        words = generator.integers(0, 1 << WORD_BITS, size=(len(part), PAGE_WORDS), dtype=np.uint32)
        receipts.append(memory.write(part * PAGE_WORDS, words))
    return receipts


def fill_structured(memory: Memory, generator: np.random.Generator) -> list[Receipt]:
    """Write the seed's four regions over the whole memory, a quarter each.

    Dynamics: word i has bit ``i % 32`` set. Context: random words. History: word i is the number i.
    Associations: word i is the exclusive or of words i of the first two.

    Args:
        memory: of at most 24 address bits.
        generator: of the context.

    Returns:
        One receipt a write, of at most 4,096 pages each.

    Raises:
        ConfigError: the memory is too wide to be filled whole.
    """
    pages = _all_pages(memory)
    words = structured_words(1 << memory.address_bits, generator).reshape(-1, PAGE_WORDS)
    parts = [slice(begin, begin + PAGES_PER_WRITE) for begin in range(0, len(pages), PAGES_PER_WRITE)]
    return [memory.write(pages[part] * PAGE_WORDS, words[part]) for part in parts]


def structured_words(num_words: int, generator: np.random.Generator) -> NDArray[np.uint32]:
    """(num_words,) words of the four regions; ``num_words`` is a multiple of 4."""
    assert num_words % 4 == 0, num_words
    count = np.arange(num_words // 4, dtype=np.uint32)
    dynamics = np.uint32(1) << (count % np.uint32(WORD_BITS))
    context = generator.integers(0, 1 << WORD_BITS, size=len(count), dtype=np.uint32)
    return np.concatenate([dynamics, context, count, dynamics ^ context])


def fill_experience(memory: Memory, schema: Schema, fields: Mapping[str, ArrayLike], start: int = 0) -> Receipt:
    """Write records one after another, nothing lost but what the schema's fields round.

    Args:
        memory: any memory.
        schema: how a record is laid out.
        fields: (N, C) of each field of the schema.
        start: address of the first record.

    Returns:
        The receipt of the one write; record i is at ``start + i * schema.num_words``.

    Raises:
        DataError: the fields do not fit the schema.
        RangeError: the records do not fit in the memory; nothing is written then.
    """
    words = schema.pack(fields)
    return memory.write(start + np.arange(len(words), dtype=np.int64) * schema.num_words, words)


def read_experience(memory: Memory, schema: Schema, num_records: int, start: int = 0) -> dict[str, NDArray[Any]]:
    """Read back what ``fill_experience`` wrote: (N, C) of each field, of the types that ``Schema.unpack`` gives."""
    addresses = start + np.arange(num_records, dtype=np.int64) * schema.num_words
    words = memory.read(addresses, np.full(num_records, schema.num_words, np.int64)).words
    return schema.unpack(words.reshape(num_records, schema.num_words))


def _all_pages(memory: Memory) -> Ints:
    if memory.address_bits > MAX_WHOLE_BITS:
        raise ConfigError(
            f"filling all of {memory.address_bits} address bits takes {4 << memory.address_bits} bytes:"
            f" the limit is {MAX_WHOLE_BITS} bits; give the pages to fill, or write records"
        )
    return np.arange((1 << memory.address_bits) // PAGE_WORDS)


def _checked_pages(memory: Memory, pages: ArrayLike) -> Ints:
    numbers, num_pages = as_integers(pages, "pages"), (1 << memory.address_bits) // PAGE_WORDS
    bad = (numbers < 0) | (numbers >= num_pages)
    if bad.any():
        raise RangeError(f"page {numbers[bad][0]} is outside the memory of {num_pages} pages; use 0 to {num_pages - 1}")
    return numbers
