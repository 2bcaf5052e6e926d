"""The words of a memory on disk, mapped: read without a copy through other processes, whole and verified.

A reader never sees half a write, and never waits for one that touches other words. The writer says in ``state`` which
write it has begun and which it has finished, and for each stripe which write touched it last; a reader copies, looks
again, and copies anew what was touched meanwhile. Stores reach other processes in order on x86-64, which this needs.

``state``, 64-bit little-endian integers::

    0    number of the write that was begun last
    8    number of the write that was finished last
    16   16 bytes: the machine's boot
    32   odd while a crash is being mended, and another number after it
    40   1 where the memory was closed and all of it is on the disk
    48   of a copy: the moment, in nanoseconds of the monotonic clock, up to which it may be read; else 0
    56   of a shard: the version of the map by which it holds words
    4096 of each stripe the number of the write that touched it last

Source: sequence locks, https://docs.kernel.org/locking/seqlock.html

Shapes:
    R: ranges.  W: words.  P: pages.  S: stripes.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from leworld.errors import ConfigError, DamageError, NotPrimaryError, StoreError
from leworld.files import sync
from leworld.memory.crc import crc32
from leworld.memory.pages import WordPages, map_file
from leworld.memory.protocol import PAGE_WORDS, Words
from leworld.memory.ranges import Ints, check_ranges, expand, pages_of
from leworld.store.forks.parent_pages import ParentPages, inherited_by
from leworld.store.layout import Layout, read_identity, refused, way_out

VERIFY = ("touch", "always", "never")
STRIPE_PAGES = 16
STRIPE_WORDS = STRIPE_PAGES * PAGE_WORDS
_HEAD_BYTES = 4096
_TRIES = 1000
_PARENT_PAGES = 1 << 14
_VERIFIED_PAGES = 1 << 10
_PAUSE_S = 0.001
_ZERO_SUM = crc32(bytes(PAGE_WORDS * 4))
_NO_ZERO_SUM = 0xFFFFFFFF


class MappedMemory:
    """A ``Reader`` of a memory on disk; with ``writable``, the hands of its writer too.

    Attributes:
        address_bits: of the memory.
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
        num_stripes = -(-num_pages // STRIPE_PAGES)
        self.arena = _map_words(self.layout.words, self.address_bits, writable)
        self.pages = self.arena.pages
        self.sums = _map_array(self.layout.sums, num_pages * 4, "<u4", writable)
        state = _map_array(self.layout.state, _HEAD_BYTES + num_stripes * 8, "<u8", writable)
        self._head, self._touched = state[: _HEAD_BYTES // 8], state[_HEAD_BYTES // 8 :]
        if not writable and not self._head[5] and not self._of_this_boot():
            raise StoreError(f"{root}: the machine was started anew since it was written: open it for writing once")
        self.inherited: ParentPages | None = inherited_by(
            self.layout, MappedMemory, lambda path, size: _map_array(path, size, "u1", writable), num_pages
        )
        self._ready = np.zeros(num_pages, np.bool_)
        self._all_ready = verify == "never"
        self._reserved = np.zeros(num_stripes, np.bool_)

    @property
    def sequence(self) -> int:
        """Number of the last write that is wholly visible."""
        return int(self._head[1])

    @property
    def begun(self) -> int:
        """Number of the last write of which something may be visible."""
        return int(self._head[0])

    @property
    def is_whole(self) -> bool:
        """Whether no write was cut off, nor a mending, and the machine has run since the last one."""
        return self._of_this_boot() and int(self._head[0]) == int(self._head[1]) and not int(self._head[4]) % 2

    @property
    def shown(self) -> int:
        """Number of the last write that was wholly visible, as far as the disk tells; 0 where it does not."""
        begun, finished = int(self._head[0]), int(self._head[1])
        return finished if finished <= begun and not int(self._head[4]) % 2 else 0

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
        era, seen = int(self._head[4]), int(self._head[1])
        found = self.arena.gather(start, length)
        if not (int(self._head[0]) == seen and int(self._head[4]) == era and not era % 2):
            found = self._settle(start, length, found, era, seen)
        if not self._writable:
            self._check_lease()
        return found

    @property
    def map_version(self) -> int:
        """Of the map by which a shard holds words; what is read before this changes was there still."""
        return int(self._head[7])

    def go_by(self, map_version: int) -> None:
        """Tell readers of another map."""
        self._head[7] = map_version

    def lease_until(self, moment: float) -> None:
        """Have every reader refuse from a moment of ``time.monotonic`` on, which all processes of a machine share."""
        self._head[6] = max(1, int(moment * 1e9))

    def end_lease(self) -> None:
        """Have readers ask for no lease."""
        self._head[6] = 0

    def _check_lease(self) -> None:
        lease = int(self._head[6])
        if lease and time.monotonic_ns() >= lease:
            raise NotPrimaryError(f"{self.layout.root}: does not lead, so that it may be out of date: ask who does")

    def reserve(self, pages: Ints) -> None:
        """Have room on the disk for pages that are about to be written.

        Raises:
            StoreError: there is none.
        """
        stripes = pages // STRIPE_PAGES
        if self._reserved[stripes].all():
            return
        new = np.unique(stripes[~self._reserved[stripes]])
        file = os.open(self.layout.words, os.O_RDWR)
        try:
            for stripe in new.tolist():
                # Storing into a mapped page for which the disk has no room would end the process.
                os.posix_fallocate(file, stripe * STRIPE_WORDS * 4, min(STRIPE_WORDS, self.num_words) * 4)
        except OSError as error:
            raise refused(self.layout.words, error) from error
        finally:
            os.close(file)
        self._reserved[new] = True

    def apply(
        self, sequence: int, start: Ints, length: Ints, words: NDArray[np.uint32], pages: Ints | None = None
    ) -> None:
        """Make writes up to ``sequence``, which are in the journal, visible at once, checksums too.

        Args:
            sequence: of the last one.
            start, length: (R,) ranges, in the order of the writes.
            words: (W,) of the ranges.
            pages: that they lie in, where that is known.
        """
        pages = pages_of(start, length) if pages is None else pages
        self._begin(sequence, pages)
        self.arena.scatter(start, length, words)
        self.sums[pages] = page_sums(self.pages[pages])
        self._head[1] = sequence

    def apply_pages(self, sequence: int, pages: Ints, words: NDArray[np.uint32]) -> None:
        """The same for (P,) whole pages (P, 256), each once."""
        self._begin(sequence, pages)
        self.pages[pages] = words
        self.sums[pages] = page_sums(words)
        self._head[1] = sequence

    def sum_up(self, pages: Ints) -> None:
        """Take the words of (P,) pages for right."""
        self.sums[pages] = page_sums(self.pages[pages])

    def settle_at(self, sequence: int) -> None:
        """Say that all writes up to one are visible, and no other."""
        self._head[2:4] = np.frombuffer(boot_id(), "<u8")
        self._head[0] = self._head[1] = sequence
        self._head[4] += self._head[4] % 2

    def begin_mending(self) -> None:
        """Keep readers waiting until ``settle_at``."""
        self._head[4] += 1 - self._head[4] % 2

    def open(self) -> None:
        """Say that there is a writer; on the disk, too, before the first word changes."""
        self._head[5] = 0
        sync(self.layout.state)

    def close(self) -> None:
        """Say that all is on the disk, and that nobody writes."""
        self._head[5] = 1
        sync(self.layout.state)

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

    def mend(self, pages: Ints, words: NDArray[np.uint32]) -> Ints:
        """Put the (P, 256) words that another copy has, whole, into (P,) damaged pages; those that are right now.

        They are right if they are what the page's checksum says, or if they are what is here: then that is damaged.
        """
        sums = page_sums(words)
        is_right = (sums == self.sums[pages]) | (words == self.pages[pages]).all(1)
        self.pages[pages[is_right]] = words[is_right]
        self.sums[pages[is_right]] = sums[is_right]
        return pages[is_right]

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

    def _of_this_boot(self) -> bool:
        return self._head[2:4].tobytes() == boot_id()

    def _begin(self, sequence: int, pages: Ints) -> None:
        self._touched[pages // STRIPE_PAGES] = sequence
        self._head[0] = sequence

    def _settle(self, start: Ints, length: Ints, found: Words, era: int, seen: int) -> Words:
        """Copy anew what a write touched since ``seen``, until there is nothing of the kind."""
        first, last = _stripes_of(start, length)
        pending = np.arange(len(start))
        for attempt in range(_TRIES):
            late = np.maximum(self._touched[first[pending]], self._touched[last[pending]]) > seen
            settled = int(self._head[4]) == era and not era % 2
            pending = pending[late] if settled else np.arange(len(start))
            if not len(pending):
                return found
            if attempt > 1:
                time.sleep(_PAUSE_S)
            era, seen = int(self._head[4]), int(self._head[1])
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
            era, seen = int(self._head[4]), int(self._head[1])
            pending = self.damaged(pending)
            # A write may have come between the words and their checksums.
            sure = self._touched[pending // STRIPE_PAGES] <= seen
            if not era % 2 and int(self._head[4]) == era:
                wrong.append(pending[sure])
                pending = pending[~sure]
            if not len(pending):
                damaged = np.concatenate(wrong)
                self._ready[pages] = self.verify == "touch"
                self._ready[damaged] = False
                return damaged
        raise self._stuck()

    def _stuck(self) -> StoreError:
        return StoreError(f"{self.layout.root}: write {int(self._head[0])} does not end; open the memory to mend it")

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
    os.truncate(layout.state, _HEAD_BYTES + -(-num_pages // STRIPE_PAGES) * 8)
    with layout.state.open("r+b") as file:
        file.seek(5 * 8)
        file.write((1).to_bytes(8, "little"))


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


def boot_id() -> bytes:
    """16 bytes that differ each time that the machine is started."""
    text = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii")
    return bytes.fromhex(text.strip().replace("-", ""))


def _stripes_of(start: Ints, length: Ints) -> tuple[Ints, Ints]:
    """(R,) stripes of the first and the last word of ranges."""
    return start // STRIPE_WORDS, np.maximum(start + length - 1, start) // STRIPE_WORDS


def _map_words(path: Path, address_bits: int, writable: bool) -> WordPages:
    with _opened(path, 4 << address_bits, writable) as file:
        return WordPages(address_bits, file, writable=writable)


def _map_array(path: Path, num_bytes: int, kind: str, writable: bool) -> NDArray:
    with _opened(path, num_bytes, writable) as file:
        if writable:
            # All of it is there, so that no store into it can fail where the disk is full.
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
