"""MappedMemory: the words of a memory on disk, mapped and verified, read without a copy through other processes.

A reader never sees half a write, and never waits for one that touches other words. The writer says in ``state`` which
write it has begun and which it has finished, and for each stripe which write touched it last. A reader copies, looks
again, and copies again what was touched meanwhile. This needs stores that reach other processes in order, as on x86-64.

Source: sequence locks, https://docs.kernel.org/locking/seqlock.html

Shapes:
    R: ranges.  W: words.  P: pages.  S: stripes.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from leworld.errors import ConfigError, DamageError, StoreError
from leworld.memory.crc import crc32
from leworld.memory.protocol import PAGE_WORDS, Words
from leworld.memory.ranges import Ints, check_ranges, expand, pages_of
from leworld.store.forks.parent_pages import ParentPages, inherited_by
from leworld.store.layout import Layout, read_identity, way_out
from leworld.store.mapped_files import map_array, map_words
from leworld.store.shared_state import STRIPE_PAGES, SharedState, make_state

VERIFY = ("touch", "always", "never")
STRIPE_WORDS = STRIPE_PAGES * PAGE_WORDS
_TRIES = 1000
_PARENT_PAGES = 1 << 14
_VERIFIED_PAGES = 1 << 10
_PAUSE_S = 0.001
_ZERO_SUM = crc32(bytes(PAGE_WORDS * 4))
_NO_ZERO_SUM = 0xFFFFFFFF


class MappedMemory:
    """A ``Reader`` of a memory on disk; with ``writable``, it is mapped for a ``MappedWriter``.

    Attributes:
        address_bits: of the memory.
        arena, pages, sums: the words, the same as pages (num_pages, 256), and their checksums (num_pages,).
        state: what the writer tells.
        verify: "touch": a page's checksum is looked at when it is first read by this process; "always": at every
            read; "never".
        inherited: of a fork, what it does not hold yet, as far as this process knows; else None.
    """

    def __init__(self, root: str | Path, *, writable: bool = False, verify: str = "touch") -> None:
        """Map a memory.

        Raises:
            StoreError: there is none, or it is to be mended first.
            ConfigError: there is no such way to verify.
        """
        if verify not in VERIFY:
            raise ConfigError(f"verify {verify!r} is unknown: use one of {', '.join(VERIFY)}")
        self.layout, self.verify, self._writable = Layout(Path(root)), verify, writable
        self.address_bits = read_identity(self.layout.root).address_bits
        self.num_words = 1 << self.address_bits
        num_pages = self.num_words // PAGE_WORDS
        self.arena = map_words(self.layout.words, self.address_bits, writable)
        self.pages = self.arena.pages
        self.sums = map_array(self.layout.sums, num_pages * 4, "<u4", writable)
        self.state = SharedState(self.layout.state, num_pages, writable)
        if not writable and not self.state.is_readable:
            raise StoreError(f"{root}: the machine was restarted since it was written: open it for writing once")
        self.inherited: ParentPages | None = inherited_by(
            self.layout, MappedMemory, lambda path, size: map_array(path, size, "u1", writable), num_pages
        )
        self._ready = np.zeros(num_pages, np.bool_)
        self._all_ready = verify == "never"

    @property
    def sequence(self) -> int:
        """Number of the last write that is wholly visible."""
        return self.state.finished

    @property
    def begun(self) -> int:
        """Number of the last write of which something may be visible."""
        return self.state.begun

    def read(self, start: ArrayLike, length: ArrayLike) -> Words:
        """Read R ranges; see ``Reader.read``. Each is as it was at one moment, if it is within a stripe.

        Raises:
            RangeError: a range is outside the memory.
            DamageError: a page is not what was written.
            StoreError: a writer ended in the middle of a write.
            NotPrimaryError: it is a copy that does not lead.
        """
        start, length = check_ranges(start, length, self.num_words)
        inherited = self._inherits()
        return self._read(start, length) if inherited is None else inherited.read(self._read, start, length)

    def _read(self, start: Ints, length: Ints) -> Words:
        """The words that are in this memory's own file."""
        if not self._all_ready:
            self._make_ready(start, length)
        state = self.state
        era, seen = state.era, state.finished
        found = self.arena.gather(start, length)
        if not (state.begun == seen and state.era == era and not era % 2):
            found = self._settle(start, length, found, era, seen)
        if not self._writable:
            state.check_lease()
        return found

    def whole(self, pages: Ints) -> NDArray[np.uint32]:
        """(P, 256) copy of (P,) pages.

        Raises:
            DamageError: one of them is not what was written.
        """
        words = self.pages[pages]
        wrong = pages[page_sums(words) != self.sums[pages]]
        # Of a fork that does not hold them they are not.
        if len(wrong) and len(damaged := self.damaged(wrong)):
            raise damage(self.layout.root, damaged)
        return words

    def damaged(self, pages: Ints) -> Ints:
        """Those of (P,) pages whose words are not what their checksums say."""
        inherited = self._inherits()
        if inherited is not None:
            # The others are being filled, or their filling was cut off.
            pages = pages[inherited.held[pages] != 0]
        return pages[page_sums(self.pages[pages]) != self.sums[pages]]

    def written_pages(self, first: int = 0, stop: int | None = None) -> Ints:
        """Pages that are not all zeros, ascending; of those in ``[first, stop)``."""
        stop, inherited = len(self.sums) if stop is None else stop, self._inherits()

        def own() -> Ints:
            return first + np.flatnonzero(self.sums[first:stop])

        return own() if inherited is None else inherited.written(own, first, stop)

    def _inherits(self) -> ParentPages | None:
        """What there is to be read through to; None where this memory holds everything."""
        if self.inherited is not None and self.inherited.is_over:
            self.inherited = None
        return self.inherited

    def _settle(self, start: Ints, length: Ints, found: Words, era: int, seen: int) -> Words:
        """Copy anew what a write touched since ``seen``, until there is nothing of the kind."""
        first, last = _stripes_of(start, length)
        pending = np.arange(len(start))
        for attempt in range(_TRIES):
            late = np.maximum(self.state.touched[first[pending]], self.state.touched[last[pending]]) > seen
            settled = self.state.era == era and not era % 2
            pending = pending[late] if settled else np.arange(len(start))
            if not len(pending):
                return found
            if attempt > 1:
                time.sleep(_PAUSE_S)
            era, seen = self.state.era, self.state.finished
            again = self.arena.gather(start[pending], length[pending])
            found.words[expand(found.offsets[:-1][pending], length[pending])[0]] = again.words
        raise self._stuck()

    def _make_ready(self, start: Ints, length: Ints) -> None:
        """Look at the checksums of the pages that the ranges touch, where this was not done yet."""
        # No range is longer than a page.
        first, last = start // PAGE_WORDS, np.maximum(start + length - 1, start) // PAGE_WORDS
        new = np.unique(np.concatenate([first[~self._ready[first]], last[~self._ready[last]]]))
        wrong = self._verify_pages(new) if len(new) else new
        if len(wrong) and len(wrong := np.intersect1d(wrong, pages_of(start, length))):
            raise damage(self.layout.root, wrong)

    def _verify_pages(self, pages: Ints) -> Ints:
        """Those of (P,) pages that are damaged; the others are ready from now on."""
        pending, wrong = pages, [pages[:0]]
        for attempt in range(_TRIES):
            if attempt > 1:
                time.sleep(_PAUSE_S)
            era, seen = self.state.era, self.state.finished
            pending = self.damaged(pending)
            # A write may have come between the words and their checksums.
            sure = self.state.touched[pending // STRIPE_PAGES] <= seen
            if not era % 2 and self.state.era == era:
                wrong.append(pending[sure])
                pending = pending[~sure]
            if not len(pending):
                damaged = np.concatenate(wrong)
                self._ready[pages] = self.verify == "touch"
                self._ready[damaged] = False
                return damaged
        raise self._stuck()

    def _stuck(self) -> StoreError:
        return StoreError(f"{self.layout.root}: write {self.state.begun} does not end; open the memory to mend it")

    def verify_all(self) -> Ints:
        """Look at every page that holds anything; the damaged ones, ascending. The others are ready then."""
        found = [np.array(self._damaged_in_parent(), np.int64)]
        pages = np.union1d(np.flatnonzero(self.sums), self._pages_on_disk())
        for first in range(0, len(pages), _VERIFIED_PAGES):
            some = pages[first : first + _VERIFIED_PAGES]
            if some[-1] - some[0] < 2 * len(some):
                self.arena.soon(int(some[0]) * PAGE_WORDS, int(some[-1] + 1) * PAGE_WORDS)
            found.append(self._verify_pages(some))
        damaged = np.unique(np.concatenate(found))
        if self.verify == "touch":
            self._all_ready = not len(damaged)
        return damaged

    def _damaged_in_parent(self) -> list[int]:
        """Pages that a fork does not hold yet and that are damaged where they are, ascending."""
        found, inherited = [], self._inherits()
        for first in range(0, len(self.pages) if inherited is not None else 0, _PARENT_PAGES):
            assert inherited is not None
            found.extend(inherited.damaged(first, min(first + _PARENT_PAGES, len(self.pages))))
        return found

    def _pages_on_disk(self) -> Ints:
        """Those for which the file of words has more than a hole: what should hold nothing may hold something."""
        found, stop, page_bytes = [np.zeros(0, np.int64)], 0, PAGE_WORDS * 4
        with self.layout.words.open("rb") as file, suppress(OSError):
            while True:
                # Raises where there is no more.
                begin = os.lseek(file.fileno(), stop, os.SEEK_DATA)
                stop = os.lseek(file.fileno(), begin, os.SEEK_HOLE)
                found.append(np.arange(begin // page_bytes, -(-stop // page_bytes)))
        pages = np.unique(np.concatenate(found))
        return pages[pages < len(self._ready)]


def make_mappable(layout: Layout, address_bits: int) -> None:
    """Give the files of a new memory their sizes (sparse), as one has that was written and closed."""
    num_pages = (1 << address_bits) // PAGE_WORDS
    os.truncate(layout.words, 4 << address_bits)
    os.truncate(layout.sums, num_pages * 4)
    make_state(layout.state, num_pages)


def damage(root: Path, pages: Ints) -> DamageError:
    """What is said of damaged pages."""
    names = ", ".join(str(page) for page in pages[:4]) + (", ..." if len(pages) > 4 else "")
    return DamageError(f"{root}: page {names}: not what was written; {way_out(root)}", tuple(pages.tolist()))


def page_sums(words: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """(P,) checksums of (P, 256) words; 0 for a page of zeros, and only for that, as a file has where it is a hole."""
    raw = np.ascontiguousarray(words.astype("<u4", copy=False)).view(np.uint8)
    sums = np.fromiter(map(crc32, raw), np.uint32, len(raw)) ^ np.uint32(_ZERO_SUM)
    if not sums.all():
        zero = np.flatnonzero(sums == 0)
        sums[zero[raw[zero].any(1)]] = _NO_ZERO_SUM
    return sums


def _stripes_of(start: Ints, length: Ints) -> tuple[Ints, Ints]:
    """(R,) stripes of the first and the last word of ranges."""
    return start // STRIPE_WORDS, np.maximum(start + length - 1, start) // STRIPE_WORDS
