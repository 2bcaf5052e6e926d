"""What a memory should hold: random operations, drawn anew from a seed by whoever needs to know them.

Shapes:
    R: blocks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from leworld.memory import PAGE_WORDS, Words
from leworld.store.durable_store import DurableStore, Write

ADDRESS_BITS = 16
NUM_WORDS = 1 << ADDRESS_BITS
MAX_KEPT = 3


@dataclass(frozen=True)
class Operation:
    """One thing to do with a memory.

    ``kind`` is write, create_version, drop_version, rollback_to or checkpoint; ``name`` is that of a version.
    """

    kind: str
    name: str = ""
    writes: tuple[Write, ...] = ()

    def do(self, store: DurableStore) -> None:
        """Do it."""
        if self.kind == "write":
            store.write_many(self.writes)
        elif self.kind == "checkpoint":
            store.checkpoint()
        else:
            getattr(store, self.kind)(self.name)


@dataclass(frozen=True)
class Model:
    """What a memory holds: all words, and all words of every version."""

    words: NDArray[np.uint32]
    kept: dict[str, NDArray[np.uint32]]

    @classmethod
    def empty(cls) -> Model:
        """Of a memory that was just made."""
        return cls(np.zeros(NUM_WORDS, np.uint32), {})

    def after(self, operation: Operation) -> Model:
        """The model when an operation was done."""
        if operation.kind == "write":
            words = self.words.copy()
            for write in operation.writes:
                _put(words, write)
            return replace(self, words=words)
        if operation.kind == "create_version":
            return replace(self, kept={**self.kept, operation.name: self.words})
        if operation.kind == "drop_version":
            return replace(self, kept={name: words for name, words in self.kept.items() if name != operation.name})
        if operation.kind == "rollback_to":
            return replace(self, words=self.kept[operation.name])
        return self

    def cut_off_in(self, operation: Operation) -> list[Model]:
        """The models that an operation may leave which is cut off: nothing, all, or the first writes of a group."""
        found = [self]
        if operation.kind == "write":
            for write in operation.writes:
                found.append(found[-1].after(Operation("write", writes=(write,))))
            return found
        return [self, self.after(operation)]


def operations(seed: int, names: Sequence[str] = ()) -> Iterator[Operation]:
    """Random operations on a memory that keeps versions of these names, oldest first; always the same for a seed."""
    random, kept, number = np.random.default_rng(seed), list(names), 0
    while True:
        number += 1
        draw = random.random()
        if draw < 0.06 and len(kept) < MAX_KEPT:
            kept.append(f"{seed}-{number}")
            yield Operation("create_version", kept[-1])
        elif draw < 0.1 and len(kept) == MAX_KEPT:
            yield Operation("drop_version", kept.pop(0))
        elif draw < 0.16 and kept:
            yield Operation("rollback_to", kept[int(random.integers(0, len(kept)))])
        elif draw < 0.18:
            yield Operation("checkpoint")
        else:
            group = 1 if random.random() < 0.7 else int(random.integers(2, 5))
            yield Operation("write", writes=tuple(_some_write(random) for _ in range(group)))


def _some_write(random: np.random.Generator) -> Write:
    """A few blocks of any length, some of them close to others."""
    count = int(random.integers(1, 12))
    length = random.integers(1, PAGE_WORDS + 1, count)
    reach = 3000 if random.random() < 0.5 else NUM_WORDS - PAGE_WORDS
    start = random.integers(0, reach, count)
    words = random.integers(0, 1 << 32, int(length.sum()), dtype=np.uint32)
    return Write(start, Words(words, np.concatenate([np.zeros(1, np.int64), np.cumsum(length)])))


def _put(words: NDArray[np.uint32], write: Write) -> None:
    start, offsets = np.asarray(write.start), write.blocks.offsets
    for first, begin, end in zip(start.tolist(), offsets[:-1].tolist(), offsets[1:].tolist(), strict=True):
        words[first : first + end - begin] = write.blocks.words[begin:end]
