"""Worlds of observed trajectories: every body has its own dynamics, and memory holds transitions that were seen of it.

The stored transitions of a body are split evenly over the tables; each table keeps its share as one block of records,
at a page found by its hash of the body's characteristics. Sequences to be predicted are other transitions of the same
bodies. Splits are by body: a test body is written to memory, and never trained on.

States are normalised by the training bodies; errors are in units of the standard deviation of a training step's change.

Shapes:
    W: bodies.  M: stored transitions of a body.  E: sequences.  T: time steps.  N: tables.
    S: state with its action.  Y: state, the leading dimensions of S.  C: characteristics.  P: context.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from leworld.memory import HashPlacement, Memory, Receipt
from leworld.types import Batch, Ranges, Split
from leworld.worlds import checks
from leworld.worlds.base import Keys, Stored, WorldSpec
from leworld.worlds.draws import SPLITS, pick, stream
from leworld.worlds.pages import plan_ways, way_words
from leworld.worlds.records import TAG_BITS, transition_schema
from leworld.worlds.slots import table_addresses


@dataclass(frozen=True)
class TrajectoryData:
    """What was observed, in the source's own units; float32 or float64.

    Attributes:
        characteristics: (W, C), of mean 0 and unit size.
        stored_inputs: (W, M, S).
        stored_next: (W, M, Y).
        inputs: (E, T, S) state and action.
        past: (E, T, S) the inputs one step earlier; equal to ``inputs`` where there is no such step.
        following: (E, T, Y) the next state.
        world: (E,) int64, which body.
        split: (W,) int64, index into ``SPLITS``.
        context: (W, P) the true physics, where known.
    """

    characteristics: Tensor
    stored_inputs: Tensor
    stored_next: Tensor
    inputs: Tensor
    past: Tensor
    following: Tensor
    world: Tensor
    split: Tensor
    context: Tensor | None = None


class TrajectoryWorld:
    """Base of ``physics`` and ``arrays``.

    Attributes:
        schema: the layout of a record.
        placements: one hash a table; their keys are ``placement_keys``.
        collisions: blocks that found their way in use, and lie in another way of the page.
        evictions: blocks that lost their place in a full page; their labels have length 0.

    ``Batch.keyed`` is False for the blocks that collided: their place follows from the order of writing too.
    """

    def __init__(self, name: str, data: TrajectoryData, num_tables: int, address_bits: int, seed: int) -> None:
        self.seed = seed
        self.num_tables = num_tables
        assert data.stored_inputs.shape[1] % num_tables == 0, (data.stored_inputs.shape, num_tables)
        self.per_table = data.stored_inputs.shape[1] // num_tables
        self.data = _normalised(data)
        self._train_worlds = (data.split == 0).nonzero().squeeze(1)
        self._sequences = {split: self._sequences_of(index) for index, split in enumerate(SPLITS)}
        self._pack(name)
        self.placements = tuple(self._placement(address_bits, table) for table in range(num_tables))
        self._place()
        self.spec = self._spec(name, address_bits)

    def populate(self, memory: Memory, split: Split) -> list[Receipt]:
        """Write the blocks of a split's bodies; the order of the calls does not matter."""
        written = self._alive & (self.data.split == SPLITS.index(split)).numpy()[:, None]
        if not written.any():
            return []
        return [memory.write(self._start[written], self._words[written])]

    def outdate(self, memory: Memory, split: Split) -> None:
        """Write under each body's characteristics the transitions of another body of the split."""
        bodies = (self.data.split == SPLITS.index(split)).nonzero().squeeze(1).numpy()
        others = self._words[np.roll(bodies, 1)]
        rows = self.schema.unpack(others.reshape(-1, self.schema.num_words))
        rows["tag"] = self._tags[bodies].repeat(self.per_table * self.num_tables)[:, None]
        blocks = self.schema.pack(rows).reshape(others.shape)
        alive = self._alive[bodies]
        memory.write(self._start[bodies][alive], blocks[alive])

    def batch(self, split: Split, batch_size: int, generator: torch.Generator) -> Batch:
        """Draw sequences of the split's bodies uniformly."""
        data = self.data
        chosen = pick(self._sequences[split], batch_size, stream(generator, split, self.seed))
        world = data.world[chosen].unsqueeze(1).repeat(1, self.spec.horizon)
        return Batch(
            past=data.past[chosen],
            current=data.inputs[chosen],
            target=data.following[chosen],
            characteristics=data.characteristics[world],
            labels=self._labels(world),
            keyed=torch.from_numpy(self._at_home)[world],
            context=None if data.context is None else data.context[world],
            world=world,
        )

    def keys(self, batch_size: int, generator: torch.Generator) -> Keys:
        """Draw characteristics of bodies that do not exist, where their blocks would go, and training states."""
        random = stream(generator, "keys", self.seed)
        characteristics = self.sample_characteristics(batch_size, random)
        chosen = pick(self._sequences["train"], batch_size, random)
        step = torch.randint(self.spec.horizon, (batch_size,), generator=random)
        start = table_addresses(self.placements, placement_keys(characteristics))
        labels = Ranges(start, torch.full_like(start, self.spec.read_words))
        return Keys(self.data.past[chosen, step], self.data.inputs[chosen, step], characteristics, labels)

    def stored(self, world: Tensor) -> Stored | None:
        """The transitions of bodies ``world`` (...,) as their records give them, 8 bits a dimension."""
        return Stored(self._stored_inputs[world], self._stored_next[world])

    def sample_characteristics(self, count: int, random: torch.Generator) -> Tensor:
        """(count, C) fresh characteristics, of the distribution of the bodies'."""
        raise NotImplementedError

    def _labels(self, world: Tensor) -> Ranges:
        """What the write log says of bodies ``world`` (B, T)."""
        start, alive = torch.from_numpy(self._start)[world], torch.from_numpy(self._alive)[world]
        return Ranges(start, alive.long() * self._words.shape[-1])

    def _sequences_of(self, split: int) -> Tensor:
        return (self.data.split[self.data.world] == split).nonzero().squeeze(1)

    def _placement(self, address_bits: int, table: int) -> HashPlacement:
        way = way_words(self._words.shape[-1])
        return HashPlacement(
            key_dim=self.data.characteristics.shape[1] + 1,
            hash_bits=address_bits - (way.bit_length() - 1),
            align_words=way,
            address_bits=address_bits,
            seed=self.seed,
            table=table,
        )

    def _pack(self, name: str) -> None:
        """Quantise every stored transition: ``_words`` (W, N, block words), and back, as memory gives it."""
        inputs, following = self.data.stored_inputs, self.data.stored_next
        deltas = following - inputs[..., : following.shape[-1]]
        train = self._train_worlds
        self.schema = transition_schema(inputs[train].numpy(), deltas[train].numpy())
        keys = placement_keys(self.data.characteristics)
        self._tags = HashPlacement(keys.shape[1], 1, 1, 8, self.seed).tag(keys, TAG_BITS).numpy()
        rows = {
            "inputs": inputs.flatten(0, 1).numpy(),
            "deltas": deltas.flatten(0, 1).numpy(),
            "tag": self._tags.repeat(inputs.shape[1])[:, None],
        }
        words = self.schema.pack(rows)
        checks.fits_a_page(name, self.per_table * words.shape[1], "store fewer records or use more num_tables")
        self._words: NDArray[np.uint32] = words.reshape(len(inputs), self.num_tables, -1)
        read = self.schema.unpack(words)
        self._stored_inputs = torch.from_numpy(read["inputs"]).float().reshape(inputs.shape)
        stored_deltas = torch.from_numpy(read["deltas"]).float().reshape(following.shape)
        self._stored_next = self._stored_inputs[..., : following.shape[-1]] + stored_deltas

    def _place(self) -> None:
        """Plan every block's place, training bodies first, so that labels do not wait for ``populate``."""
        home = table_addresses(self.placements, placement_keys(self.data.characteristics)).numpy()
        order = np.argsort(self.data.split.numpy(), kind="stable")
        plan = plan_ways(home[order].reshape(-1), self._words.shape[-1])
        self._start, self._alive = np.empty_like(home), np.empty(home.shape, dtype=bool)
        self._start[order] = plan.start.reshape(home.shape)
        self._alive[order] = plan.alive.reshape(home.shape)
        # A block in another way than its own is where its hash says but for the offset, which no input tells.
        self._at_home = self._start == home
        self.collisions, self.evictions = plan.collisions, plan.evictions

    def _spec(self, name: str, address_bits: int) -> WorldSpec:
        data = self.data
        target_dim = data.following.shape[-1]
        train = self._sequences["train"]
        change = data.following[train] - data.inputs[train][..., :target_dim]
        return WorldSpec(
            name=name,
            state_dim=data.inputs.shape[-1],
            target_dim=target_dim,
            char_dim=data.characteristics.shape[1],
            context_dim=0 if data.context is None else data.context.shape[1],
            num_tables=self.num_tables,
            address_bits=address_bits,
            record_words=self.schema.num_words,
            read_words=self._words.shape[-1],
            horizon=data.inputs.shape[1],
            residual=True,
            scale=change.flatten(0, 1).std(dim=0).clamp(min=1e-6),
        )


def placement_keys(characteristics: Tensor) -> Tensor:
    """(..., C) to (..., C + 1): with a constant added, few characteristics still reach many pages.

    Planes through the origin cut a line into two parts, whatever their number; planes off it make one part more than
    there are planes.
    """
    return functional.pad(characteristics, (0, 1), value=1.0)


def _normalised(data: TrajectoryData) -> TrajectoryData:
    """States, actions and context, standardised by the training bodies; float32."""
    train = data.inputs[data.split[data.world] == 0].flatten(0, 1).double()
    std, mean = torch.std_mean(train, dim=0, correction=0)
    std = torch.where(std > 1e-6, std, 1.0)
    changed: dict[str, Tensor] = {}
    for name in ("inputs", "past", "stored_inputs", "following", "stored_next"):
        values = getattr(data, name)
        changed[name] = ((values - mean[: values.shape[-1]]) / std[: values.shape[-1]]).float()
    context = None if data.context is None else standardised(data.context, data.split == 0).float()
    return replace(data, **changed, context=context)


def standardised(values: Tensor, train: Tensor) -> Tensor:
    """``values`` (W, D) by the mean and deviation of the rows where ``train`` (W,) is True."""
    std, mean = torch.std_mean(values[train], dim=0, correction=0)
    return (values - mean) / torch.where(std > 1e-6, std, 1.0)
