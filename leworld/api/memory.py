"""ModelMemory: the words that a model reads. A write can be erased bit for bit.

Each write is a layer over earlier ones, and a word is that of the newest layer that covers it. Erasing a write removes
its layer. A word that a later write covers stays as it is; once that write is erased too, the word from before both
comes back.

Shapes:
    E: episodes.  L: transitions of the longest.  S: state.  A: action.  C: characteristics.  R: blocks.  W: words.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from leworld.api.results import WriteReceipt
from leworld.api.units import UserUnits
from leworld.errors import DataError
from leworld.memory import Snapshot, WordStore
from leworld.memory.word_store import as_blocks, check_blocks
from leworld.worlds.array_files import Episodes, check_episodes
from leworld.worlds.transition_format import TransitionFormat

Ints = NDArray[np.int64]
WordArray = NDArray[np.uint32]


@dataclass
class Layer:
    """A write that was not erased: ``address`` (W,) ascending, and ``under`` (W,) the words below it."""

    receipt: WriteReceipt
    address: Ints
    under: WordArray


class ModelMemory:
    """The memory of one loaded model, private to this process. ``Model.save`` stores it.

    Attributes:
        version: a number that rises with every write and erasure.
    """

    def __init__(self, store: WordStore, units: UserUnits) -> None:
        self._store, self._units = store, units
        self._layers: list[Layer] = []
        self._writes = 0
        self.version = 0

    def write(self, episodes: Mapping[str, ArrayLike]) -> WriteReceipt:
        """Write transitions of bodies; the next prediction can read them. Nothing is trained.

        A body has as many records as in training, ``Model.describe()["records_of_a_body"]``: the first transitions of
        its episodes, in order. They replace the records of the body. Their place follows from the characteristics; if
        another body shares the place, its records are covered until this write is erased.

        Args:
            episodes: ``states`` (E, L + 1, S), ``characteristics`` (E, C), and ``actions`` (E, L, A) if the world
                has actions; ``ends`` (E,), the valid transitions of each episode, if not all are. Episodes of the
                same characteristics belong to one body. An open ``.npz`` file is such a mapping.

        Raises:
            DataError: an array does not fit the world, or the world's memory does not hold transitions.
        """
        records = self._records()
        checked = self._checked(episodes)
        bodies, owner = np.unique(checked.characteristics, axis=0, return_inverse=True)
        characteristics = self._units.characteristics(bodies)
        blocks, counts = [], []
        for body, key in enumerate(characteristics):
            states, actions, following = transitions(checked, np.flatnonzero(owner.reshape(-1) == body))
            kept = slice(records.num_records)
            inputs = self._units.inputs(states[kept], actions[kept])
            blocks.append(records.block(key, inputs, self._units.model_state(following[kept])))
            counts.append(len(states))
        start = records.home(characteristics).numpy().reshape(-1)
        written = int(np.minimum(counts, records.num_records).sum())
        return self._write(start, np.concatenate(blocks), written, sum(counts) - written)

    def write_words(self, start: ArrayLike, words: WordArray) -> WriteReceipt:
        """Write R blocks of plain words.

        Args:
            start: (R,) address of each block.
            words: (R, W) uint32, W from 1 to 256; if blocks overlap, the later one wins.

        Raises:
            RangeError: a block is outside the memory; nothing was written.
            DataError: the words are not uint32.
        """
        return self._write(start, np.asarray(words), 0, 0)

    def erase(self, receipt: WriteReceipt) -> None:
        """Undo a write: the words that it covered come back bit for bit, unless a later write covers them.

        Raises:
            DataError: the receipt belongs to another model, or its write was erased already.
        """
        index = next((i for i, layer in enumerate(self._layers) if layer.receipt is receipt), None)
        if index is None:
            raise DataError(
                f"receipt of write {receipt.number}: it was erased already or is of another model; "
                "give one that this model's memory.write returned"
            )
        layer, later = self._layers.pop(index), self._layers[index:]
        covered = np.zeros(len(layer.address), bool)
        for other in later:
            covered |= _hand_down(layer, other, covered)
        bare = ~covered
        if bare.any():
            self._store.write(layer.address[bare], layer.under[bare][:, None])
        self.version += 1

    def read(self, start: ArrayLike, length: ArrayLike) -> list[WordArray]:
        """The words of R ranges, ``start`` (R,) and ``length`` (R,), each up to 256 words.

        Raises:
            RangeError: a range is outside the memory.
        """
        found = self._store.read(start, length)
        return np.split(found.words, found.offsets[1:-1]) if len(found.offsets) > 1 else []

    def transitions(self, words: WordArray) -> dict[str, NDArray[Any]]:
        """Decode words such as ``Read.words`` to transitions in the user's units.

        Args:
            words: (W,), whole records.

        Returns:
            ``states`` (M, S), ``actions`` (M, A), ``next_states`` (M, S), at the 8 bits of a stored number; ``tags``
            (M,), the same for all records of a body.

        Raises:
            DataError: these are not whole records, or the world's records are not transitions.
        """
        records = self._records()
        size = records.schema.num_words
        if np.ndim(words) != 1 or len(words) % size:
            raise DataError(f"words of shape {np.shape(words)}: give whole records of {size} words, in one row")
        rows = records.schema.unpack(np.asarray(words).reshape(-1, size))
        inputs, deltas = (torch.from_numpy(rows[name]) for name in ("inputs", "deltas"))
        state = inputs[:, : self._units.state_dim]
        raw = records.inputs.restored(inputs).numpy()
        states, actions = np.split(raw, [self._units.state_dim], axis=1)
        following = self._units.user_state(state + deltas)
        return {"states": states, "actions": actions, "next_states": following, "tags": rows["tag"][:, 0]}

    def snapshot(self) -> Snapshot:
        """A copy of every written page."""
        return self._store.snapshot()

    def _write(self, start: ArrayLike, words: WordArray, written: int, left_out: int) -> WriteReceipt:
        starts, _, _ = check_blocks(start, as_blocks(words), self._store.num_words)
        address = np.unique(starts[:, None] + np.arange(words.shape[1]))
        under = self._store.read(address, np.ones_like(address)).words
        stored = self._store.write(starts, words)
        self._writes += 1
        self.version += 1
        receipt = WriteReceipt(self._writes, stored.start, stored.length, stored.crc32, written, left_out)
        self._layers.append(Layer(receipt, address, under))
        return receipt

    def _checked(self, episodes: Mapping[str, ArrayLike]) -> Episodes:
        if not isinstance(episodes, Mapping):
            raise DataError(f"episodes is a {type(episodes).__name__}: give a mapping with states and characteristics")
        checked = check_episodes({name: np.asarray(value) for name, value in episodes.items()}, "episodes")
        wanted = {"states": self._units.state_dim, "actions": self._units.action_dim}
        for name, width in {**wanted, "characteristics": self._units.char_dim}.items():
            found = getattr(checked, name)
            if found.shape[-1] != width:
                raise DataError(
                    f"episodes[{name!r}] has shape {found.shape}: world {self._units.spec.name} needs {width} columns"
                )
        return checked

    def _records(self) -> TransitionFormat:
        if self._units.format is None:
            raise DataError(
                f"the memory of world {self._units.spec.name} does not hold transitions: "
                "write its words with memory.write_words(start, words)"
            )
        return self._units.format


def transitions(episodes: Episodes, chosen: Ints) -> tuple[NDArray[np.float64], ...]:
    """States, actions and next states of the valid transitions of some episodes, one after another."""
    parts = [(e, slice(0, int(episodes.ends[e])), slice(1, int(episodes.ends[e]) + 1)) for e in chosen]
    states, following = (np.concatenate([episodes.states[e, part[k]] for e, *part in parts]) for k in (0, 1))
    return states, np.concatenate([episodes.actions[e, now] for e, now, _ in parts]), following


def _hand_down(layer: Layer, later: Layer, done: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Give a later layer the words under this one, where no layer between covers them: (W,) which."""
    place = np.searchsorted(later.address, layer.address).clip(max=len(later.address) - 1)
    taken = (later.address[place] == layer.address) & ~done
    later.under[place[taken]] = layer.under[taken]
    return taken
