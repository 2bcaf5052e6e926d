"""Worlds of observed trajectories: every body has its own dynamics, and memory holds transitions that were seen of it.

The stored transitions of a body are split evenly over the tables; each table keeps its share as one block of records,
at a page found by its hash of the body's characteristics. Record j of a body is row j // N of table j % N. Sequences to
be predicted are other transitions of the same bodies. Splits are by body: a test body is written to memory, and never
trained on.

States are normalised by the training bodies; errors are in units of the standard deviation of a training step's change.

Shapes:
    W: bodies.  M: stored transitions of a body.  E: sequences.  T: time steps.  N: tables.
    S: state with its action.  Y: state, the leading dimensions of S.  C: characteristics.  P: context.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from leworld.memory import Memory, Receipt, Schema
from leworld.types import Batch, Ranges, Split
from leworld.worlds import config_checks as checks
from leworld.worlds.base import Keys, Stored, WorldSpec
from leworld.worlds.draws import SPLITS, pick, stream
from leworld.worlds.page_plan import plan_ways
from leworld.worlds.trajectory_data import TrajectoryData, Units
from leworld.worlds.transition_format import TransitionFormat
from leworld.worlds.transition_records import TAG_BITS, transition_schema


@dataclass(frozen=True)
class Content:
    """The bodies of one version of a world, and their stored transitions as memory gives them back.

    ``words`` (W, N, block words); ``stored`` (W, M, ...), in the order of the records.
    """

    data: TrajectoryData
    words: NDArray[np.uint32]
    stored: Stored


class TrajectoryWorld:
    """Base of ``physics`` and ``arrays``.

    Attributes:
        format: units, record layout and placement.
        schema: the layout of a record.
        placements: one hash a table; their keys are ``placement_keys``.
        collisions: blocks that found their way in use, and lie in another way of the page.
        evictions: blocks that lost their place in a full page; their labels have length 0.

    ``Batch.keyed`` is False for the blocks that collided: their place follows from the order of writing too.
    """

    def __init__(self, name: str, data: TrajectoryData, num_tables: int, address_bits: int, seed: int) -> None:
        self.name = name
        self.seed = seed
        self.num_tables = num_tables
        assert data.stored_inputs.shape[1] % num_tables == 0, (data.stored_inputs.shape, num_tables)
        self.num_records = data.stored_inputs.shape[1]
        self._units = Units.of(data)
        normal = self._units.normalised(data)
        self.schema = _schema(normal)
        self.format = TransitionFormat(
            inputs=self._units.inputs,
            characteristics=data.characteristics_units,
            schema=self.schema,
            num_tables=num_tables,
            num_records=self.num_records,
            char_dim=data.characteristics.shape[1],
            address_bits=address_bits,
            seed=seed,
        )
        checks.fits_a_page(name, self.format.block_words, "store fewer records or use more num_tables")
        self._tags = self.format.tags(data.characteristics).numpy()
        self._adopt(self._packed(normal))
        self._sequences = {split: self._sequences_of(index) for index, split in enumerate(SPLITS)}
        self.placements = self.format.placements
        self._place()
        self.spec = self._spec(address_bits)

    def populate(self, memory: Memory, split: Split, records: int | None = None) -> list[Receipt]:
        """Write the blocks of a split's bodies; the order of the calls does not matter.

        Args:
            memory: to write to.
            split: whose bodies.
            records: only the first so many of each body; what follows in a block stays as it was. None: all.

        Raises:
            ConfigError: there are not so many.
        """
        written = self._alive & (self.data.split == SPLITS.index(split)).numpy()[:, None]
        first_of_table = self._checked(records) - np.arange(self.num_tables)
        rows = -(-first_of_table // self.num_tables)
        receipts = []
        for count in np.unique(rows[rows > 0]).tolist():
            chosen = written & (rows == count)
            if chosen.any():
                words = self._words[chosen][:, : count * self.schema.num_words]
                receipts.append(memory.write(self._start[chosen], words))
        return receipts

    def outdate(self, memory: Memory, split: Split) -> None:
        """Write under each body's characteristics the transitions of another body of the split."""
        bodies = (self.data.split == SPLITS.index(split)).nonzero().squeeze(1).numpy()
        others = self._words[np.roll(bodies, 1)]
        rows = self.schema.unpack(others.reshape(-1, self.schema.num_words))
        rows["tag"] = self._tags[bodies].repeat(self.num_records)[:, None]
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
        start = self.format.home(characteristics)
        labels = Ranges(start, torch.full_like(start, self.spec.read_words))
        tags = self.format.tags(characteristics).unsqueeze(1).expand_as(start)
        return Keys(self.data.past[chosen, step], self.data.inputs[chosen, step], characteristics, labels, tags)

    def stored(self, world: Tensor, records: int | None = None) -> Stored | None:
        """The transitions of bodies ``world`` (...,) as their records give them, 8 bits a dimension.

        Args:
            world: which bodies.
            records: only the first so many of each, as ``populate`` writes them. None: all.

        Raises:
            ConfigError: there are not so many.
        """
        count = self._checked(records)
        return Stored(self._stored.inputs[world, :count], self._stored.targets[world, :count])

    def pack(self, world: Tensor, inputs: Tensor, following: Tensor) -> NDArray[np.uint32]:
        """The records of transitions: bodies ``world`` (...,), ``inputs`` (..., S) and ``following`` (..., Y), in the
        units of ``data``, to (..., words of a record)."""
        return self.format.pack(self._tags[world.numpy()], inputs, following)

    def sample_characteristics(self, count: int, random: torch.Generator) -> Tensor:
        """(count, C) fresh characteristics, of the distribution of the bodies'."""
        raise NotImplementedError

    def _labels(self, world: Tensor) -> Ranges:
        """What the write log says of bodies ``world`` (B, T)."""
        start, alive = torch.from_numpy(self._start)[world], torch.from_numpy(self._alive)[world]
        return Ranges(start, alive.long() * self._words.shape[-1])

    def _sequences_of(self, split: int) -> Tensor:
        return (self.data.split[self.data.world] == split).nonzero().squeeze(1)

    def _checked(self, records: int | None) -> int:
        if records is None:
            return self.num_records
        checks.between(self.name, 0, self.num_records, records=records)
        return records

    def _packed(self, data: TrajectoryData) -> Content:
        """Quantise every stored transition of normalised data, and read it back."""
        inputs, following = data.stored_inputs, data.stored_next
        bodies = torch.arange(len(inputs)).unsqueeze(1).expand(inputs.shape[:2])
        words = self.pack(bodies, inputs, following).reshape(-1, self.schema.num_words)
        read = self.schema.unpack(words)
        read_inputs = torch.from_numpy(read["inputs"]).float().reshape(inputs.shape)
        read_deltas = torch.from_numpy(read["deltas"]).float().reshape(following.shape)
        read_next = read_inputs[..., : following.shape[-1]] + read_deltas
        stored = Stored(self._in_order(read_inputs), self._in_order(read_next))
        return Content(data, words.reshape(len(inputs), self.num_tables, -1), stored)

    def _in_order(self, rows: Tensor) -> Tensor:
        """(W, M, D) table by table to record by record."""
        return rows.unflatten(1, (self.num_tables, -1)).transpose(1, 2).flatten(1, 2)

    def _adopt(self, content: Content) -> None:
        """Live by a content."""
        self._content = content
        self.data, self._words, self._stored = content.data, content.words, content.stored

    def _place(self) -> None:
        """Plan every block's place, training bodies first, so that labels do not wait for ``populate``."""
        home = self.format.home(self.data.characteristics).numpy()
        order = np.argsort(self.data.split.numpy(), kind="stable")
        plan = plan_ways(home[order].reshape(-1), self._words.shape[-1])
        self._start, self._alive = np.empty_like(home), np.empty(home.shape, dtype=bool)
        self._start[order] = plan.start.reshape(home.shape)
        self._alive[order] = plan.alive.reshape(home.shape)
        # A block in another way than its own is where its hash says but for the offset, which no input tells.
        self._at_home = self._start == home
        self.collisions, self.evictions = plan.collisions, plan.evictions

    def _spec(self, address_bits: int) -> WorldSpec:
        data = self.data
        target_dim = data.following.shape[-1]
        train = self._sequences["train"]
        change = data.following[train] - data.inputs[train][..., :target_dim]
        scale = change.flatten(0, 1).std(dim=0).clamp(min=1e-6)
        decode = torch.from_numpy(self.schema.linear(("inputs", "deltas"))).float()
        decode[:, -target_dim:] /= scale
        return WorldSpec(
            name=self.name,
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
            scale=scale,
            decode=decode,
            tag=(self.schema.first_bit("tag"), TAG_BITS),
        )


def _deltas(data: TrajectoryData) -> Tensor:
    """(W, M, Y) changes of the stored transitions."""
    return data.stored_next - data.stored_inputs[..., : data.stored_next.shape[-1]]


def _schema(data: TrajectoryData) -> Schema:
    """The record that the training bodies' transitions ask for."""
    train = data.split == 0
    return transition_schema(data.stored_inputs[train].numpy(), _deltas(data)[train].numpy())
