"""What the rows of the table share: how long, how large, where; and memories that are filled once.

Shapes:
    B: batches.  R: ranges a batch.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from io import FileIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from leworld.memory import PAGE_WORDS, Words
from leworld.store.durable_store import DurableStore, StoreConfig, Write

RANGE_WORDS = 256
RANGE_BYTES = 4 * RANGE_WORDS
SMALL_WORDS = 1 << 16
FILL_PAGES = 1 << 14


class MissingRivalError(Exception):
    """A rival cannot be run; the message says why, and the way out."""


@dataclass
class Setting:
    """How the rows are measured.

    Attributes:
        directory: of everything that is written.
        rounds: that are counted.
        seconds: of a rival's turn.
        large_words: of the large memory.
        keep_words: of the memory whose versions are kept.
        reverb: a Python that has dm-reverb.
        redis_benchmark: Redis' own client.
    """

    directory: Path
    rounds: int
    seconds: float
    large_words: int
    keep_words: int
    reverb: str | None = None
    redis_benchmark: str | None = None
    _filled: dict[tuple[int, float], Path] = field(default_factory=dict)

    def filled(self, num_words: int, share: float = 1.0) -> Path:
        """A closed memory of ``num_words`` words, of whose pages a share is written, all in all once."""
        key = (num_words, share)
        if key not in self._filled:
            root = self.directory / f"memory-{num_words}-{share:g}"
            fill(root, num_words, share)
            self._filled[key] = root
        return self._filled[key]


def fill(root: Path, num_words: int, share: float) -> None:
    """Make a memory with random words in a share of its pages."""
    say(f"filling {share:.0%} of {size_name(num_words)}")
    generator = np.random.default_rng(0)
    num_pages = num_words // PAGE_WORDS
    pages = np.sort(generator.permutation(num_pages)[: max(1, round(num_pages * share))])
    content = generator.integers(1, 1 << 32, (FILL_PAGES, PAGE_WORDS), np.uint32)
    with DurableStore.create(root, bits_for(num_words), StoreConfig(policy="os")) as store:
        for first in range(0, len(pages), FILL_PAGES):
            chunk = pages[first : first + FILL_PAGES]
            write_pages(store, chunk, content[: len(chunk)] ^ np.uint32(first))


def write_pages(store: DurableStore, pages: NDArray[np.int64], content: NDArray[np.uint32]) -> None:
    """Write (P, 256) words into pages, as one write."""
    blocks = Words(content.reshape(-1), np.arange(len(content) + 1) * PAGE_WORDS)
    store.write_many([Write(pages * PAGE_WORDS, blocks)])


def warm(directory: Path) -> None:
    """Have the files of a directory in the page cache: some systems empty it of what nobody has mapped."""
    buffer = bytearray(FILL_PAGES * RANGE_BYTES)
    for path in directory.rglob("*"):
        if path.is_file():
            with path.open("rb", buffering=0) as file:
                _read_all(file, buffer)


def _read_all(file: FileIO, buffer: bytearray) -> None:
    """Read what a sparse file has; its holes are skipped."""
    size, at = os.fstat(file.fileno()).st_size, 0
    while at < size:
        try:
            at = file.seek(at, os.SEEK_DATA)
        except OSError:
            return
        at += file.readinto(buffer)


def bits_for(num_words: int) -> int:
    """The narrowest width with so many addresses."""
    return next(bits for bits in (8, 16, 24, 32) if 1 << bits >= num_words)


def starts(num_words: int, batches: int, ranges: int, *, aligned: bool = False, seed: int = 1) -> NDArray[np.int64]:
    """(B, R) random starts of ranges of 1 KiB; ``aligned`` to pages, else to nothing."""
    generator = np.random.default_rng(seed)
    if aligned:
        return generator.integers(0, num_words // PAGE_WORDS, (batches, ranges)) * PAGE_WORDS
    return generator.integers(0, num_words - RANGE_WORDS + 1, (batches, ranges))


def size_name(num_words: int) -> str:
    """Words in words: 64 K words, 16 MiB, 1 GiB."""
    for num_bytes, name in ((1 << 30, "GiB"), (1 << 20, "MiB")):
        if num_words * 4 >= num_bytes:
            return f"{num_words * 4 / num_bytes:g} {name}"
    return f"{num_words // 1024} K words"


def need(module: str) -> Any:
    """A module that only benchmarks use.

    Raises:
        MissingRivalError: it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError:
        raise MissingRivalError(f"{module} is not installed: pip install -r benchmarks/requirements.txt") from None


def say(text: str) -> None:
    """Progress, beside the table."""
    print(f"  {text} ...", file=sys.stderr, flush=True)


def python_module(name: str, *arguments: object, python: str | None = None) -> Sequence[str]:
    """The command line of a module of this package in a fresh process."""
    path = Path(__file__).parent / f"{name}.py"
    return [python or sys.executable, str(path), *(str(argument) for argument in arguments)]
