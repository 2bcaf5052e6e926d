"""Copying a memory that goes on being written: files that do not change any more, then pages, then what came meanwhile.

Pages are copied as they are found. Some hold later writes already; these are made once more from their records, in
order, and as a record says what the words become and not how they change, the copy ends up like the original.

Shapes:
    P: pages.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from leworld.errors import StoreError
from leworld.files import sync
from leworld.memory.protocol import PAGE_WORDS
from leworld.memory.ranges import Ints
from leworld.store.journal.segment import segment_path
from leworld.store.layout import Identity, Layout, make, read_identity, write_map
from leworld.store.mapped_memory import MappedMemory
from leworld.store.mapped_writer import MappedWriter
from leworld.store.replication.replica_store import ReplicaStore

PART_BYTES = 4 << 20
PART_PAGES = 4096


class Source:
    """The original's side. Each method answers one question of the copy's; arguments come from outside."""

    def __init__(self, store: ReplicaStore) -> None:
        self._store = store

    def begin(self, name: str) -> dict[str, Any]:
        """Keep all records from now on for copy ``name``; what there is to copy."""
        store = self._store
        upto = store.pin(name)
        return {
            "sequence": upto,
            "identity": vars(read_identity(store.root)),
            "files": [[path.name, path.stat().st_size] for path in self._files(upto)],
            "versions": [vars(version) for version in store.versions],
        }

    def part(self, name: str, offset: int) -> bytes:
        """Some bytes of a file.

        Raises:
            StoreError: it is none of those to copy.
        """
        for path in self._files(self._store.sequence):
            if path.name == name:
                with path.open("rb") as file:
                    file.seek(offset)
                    return file.read(PART_BYTES)
        raise StoreError(f"{name!r} is no file of this memory to copy; begin anew")

    def pages(self, after: int) -> tuple[Ints, NDArray[np.uint32]]:
        """The next (P,) written pages after one, and their (P, 256) words."""
        written = self._store.written_pages()
        pages = written[written > after][:PART_PAGES]
        found = self._store.read(pages * PAGE_WORDS, np.full(len(pages), PAGE_WORDS))
        return pages, found.words.reshape(-1, PAGE_WORDS)

    def _files(self, upto: int) -> list[Path]:
        """Files that do not change any more: old segments, the ledger up to its size of now, and the rights."""
        layout = self._store.layout
        closed = [path for path in self._store.closed_segments() if int(path.stem) <= upto]
        return [*closed, *(path for path in (layout.ledger, layout.rights) if path.exists())]


def copy_begin(root: Path, plan: dict[str, Any], fetch: Callable[[str, int], bytes]) -> None:
    """Make the directory of a copy, with all files.

    Args:
        root: an empty directory, or none.
        plan: what ``Source.begin`` said.
        fetch: the bytes of a file from an offset on, see ``Source.part``.
    """
    identity = Identity(**plan["identity"])
    make(root, identity.address_bits, identity)
    layout = Layout(root)
    for name, size in plan["files"]:
        path = _place_of(layout, name)
        with path.open("wb") as file:
            while file.tell() < size:
                data = fetch(name, file.tell())
                if not data:
                    raise StoreError(f"{name}: ended after {file.tell()} of {size} bytes; begin anew")
                file.write(data[: size - file.tell()])
            os.fsync(file.fileno())
    segment_path(layout.journal, plan["sequence"] + 1).touch()
    sync(layout.journal)
    write_map(layout.checkpoint, {"sequence": plan["sequence"]})


def copy_pages(root: Path, sequence: int, fetch: Callable[[int], tuple[Ints, NDArray[np.uint32]]]) -> None:
    """Put every page of the original into a copy; ``fetch`` gives the pages after one, see ``Source.pages``."""
    writer, after = MappedWriter(MappedMemory(root, writable=True)), -1
    # Nobody may read it beside the copy before it leads.
    writer.state.lease_until(0.0)
    while True:
        pages, words = fetch(after)
        if not len(pages):
            break
        writer.reserve(pages)
        writer.apply_pages(sequence, pages, words)
        after = int(pages[-1])
    writer.state.settle_at(sequence)


def _place_of(layout: Layout, name: str) -> Path:
    """Where a file of a copy goes; its name came from outside."""
    if name in (layout.ledger.name, layout.rights.name):
        return layout.root / name
    stem = name.removesuffix(".log")
    if not (stem.isdigit() and len(stem) == 20):
        raise StoreError(f"{name!r} is no file of a memory")
    return layout.journal / name
