"""Disks without room: a small file system that is filled up, and a limit on the length of files."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path

import numpy as np

from leworld.errors import StoreError
from leworld.store import committer
from leworld.store.durable_store import DurableStore, StoreConfig

from .counts import Counts
from .model import ADDRESS_BITS, Model, operations
from .processes import outcome
from .stores import check

DISK_BYTES = 16 << 20
LEFT_BYTES = 1 << 17
OPERATIONS_A_ROUND = 30
SECONDS_A_ROUND = 10.0
CONFIG = StoreConfig("os", 1 << 15)


def fill_disks(directory: Path, rounds: int, seed: int) -> list[Counts]:
    """Operations on a file system without room, where one can be made, and where no file may grow beyond a length."""
    rows = []
    with small_disk(directory) as disk:
        if disk is not None:
            rows.append(_in_a_process("disk full", on_a_small_disk, disk, rounds, seed))
    rows.append(_in_a_process("files limited", with_limited_files, directory, rounds, seed))
    return rows


def on_a_small_disk(disk: Path, rounds: int, seed: int) -> Counts:
    """Rounds with a file that takes the room."""
    filler = disk / "filler"

    def fill(left: int) -> None:
        with filler.open("wb", buffering=0) as file, suppress(OSError):
            while file.write(bytes(1 << 16)):
                pass
        os.truncate(filler, max(0, filler.stat().st_size - left))

    return _Rounds(disk / "full", seed, fill, lambda: filler.unlink(missing_ok=True)).run("disk full", rounds)


def with_limited_files(directory: Path, rounds: int, seed: int) -> Counts:
    """Rounds with a limit of this process."""
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]

    def fill(left: int) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (left, hard))

    return _Rounds(directory / "limited", seed, fill, lambda: fill(hard)).run("files limited", rounds)


class _Rounds:
    """Random operations on a disk that is full now and then: each is done, or refused and changes nothing."""

    def __init__(self, root: Path, seed: int, fill: Callable[[int], None], make_room: Callable[[], None]) -> None:
        committer.CHUNK_PAGES = 16
        self._fill, self._make_room, self._seed = fill, make_room, seed
        self._random = np.random.default_rng(seed)
        self._store, self._model = DurableStore.create(root, ADDRESS_BITS, CONFIG), Model.empty()

    def run(self, name: str, rounds: int) -> Counts:
        """All of them; each refusal counts as a fault that was injected."""
        counts = Counts(name)
        for number in range(rounds):
            self._fill(int(self._random.integers(0, LEFT_BYTES)))
            allowed = self._operate(number, counts)
            if number % 3 == 0:
                self._close_and_open(counts)
            self._make_room()
            if len(allowed) > 1 and number % 3:
                self._store.close()
                self._store = DurableStore(self._store.root, CONFIG)
            counts.injected += 1
            self._model = check(self._store, allowed, counts, f"round {number}, room again")
            if self._store.stat()["journal_bytes"] > DISK_BYTES // 4:
                self._let_versions_go()
        self._store.close()
        return counts

    def _operate(self, number: int, counts: Counts) -> list[Model]:
        """Operate until one is refused; what the memory may hold then."""
        for operation in islice(operations(self._seed + 7919 * number, list(self._model.kept)), OPERATIONS_A_ROUND):
            try:
                operation.do(self._store)
            except StoreError as error:
                counts.injected += 1
                counts.refused += "\n" not in str(error)
                if operation.kind == "rollback_to":
                    # It may be half done, and is finished when the memory is opened again.
                    return [self._model, self._model.after(operation)]
                counts.injected += 1
                check(self._store, [self._model], counts, f"round {number}, {operation.kind} refused")
                return [self._model]
            self._model = self._model.after(operation)
        return [self._model]

    def _close_and_open(self, counts: Counts) -> None:
        """On the full disk, if that can be; else when there is room."""
        for act in (self._store.close, self._open):
            try:
                act()
            except StoreError as error:
                counts.injected += 1
                counts.refused += "\n" not in str(error)
                self._make_room()
                if act == self._open:
                    self._open()

    def _let_versions_go(self) -> None:
        for name in self._model.kept:
            self._store.drop_version(name)
        self._store.checkpoint()
        self._model = Model(self._model.words, {})

    def _open(self) -> None:
        self._store = DurableStore(self._store.root, CONFIG)


def _in_a_process(name: str, rounds: Callable[..., Counts], at: Path, count: int, seed: int) -> Counts:
    """Rounds in a process of its own, as a store into a page without room would end it."""
    counts, line = outcome(rounds, at, count, seed, seconds=SECONDS_A_ROUND * (count + 1))
    return Counts(name, injected=1, died=1, lines=[line]) if counts is None else counts


@contextmanager
def small_disk(directory: Path, kind: str = "ext4") -> Iterator[Path | None]:
    """A file system of its own, which only root can make; None where it cannot be made."""
    image, at = directory / "image", directory / "disk"
    at.mkdir()
    if kind == "tmpfs":
        done = _run("mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", at)
    else:
        image.touch()
        os.truncate(image, DISK_BYTES)
        done = _run(f"mkfs.{kind}", "-q", "-F", image) and _run("mount", "-o", "loop", image, at)
    try:
        yield at if done else None
    finally:
        if done:
            _run("umount", "--lazy", at)


def _run(*command: object) -> bool:
    """Whether a command is there and does what it should."""
    words = [str(word) for word in command]
    return shutil.which(words[0]) is not None and not subprocess.run(words, capture_output=True, check=False).returncode
