"""TrainState: the BLM, its optimiser, and access to SLMs and memory. All three phases use it.

Shapes: see ``leworld.types``.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from leworld.errors import ConfigError
from leworld.memory import Memory
from leworld.models.blm import BLM
from leworld.models.forward_pass import ForwardPass, of_shortlist
from leworld.models.membership import asking, join, leave, set_asking, tables_of
from leworld.models.router import logistic_noise
from leworld.models.system import System, to_change
from leworld.optim import Optimizer
from leworld.rng import generator
from leworld.training.data_parallel import ALONE, BatchPart, LearnerGroup
from leworld.training.read_noise import NoisyReads, ReadNoise, add_read_noise
from leworld.training.slm_training import Metrics, TrainableFleet
from leworld.types import Batch, Query, Ranges
from leworld.worlds.base import World

ASKING = "asking"


@dataclass(frozen=True)
class Samples:
    """Single transitions: ``batch`` (n, ...) of the (B, T, ...) ``episodes``; ``rows`` (n,) int64 in [0, B * T).

    They are this learner's ``part`` of its group's samples.
    """

    batch: Batch
    episodes: Batch
    rows: Tensor
    part: BatchPart


@dataclass(frozen=True)
class TrainOptions:
    """How a BLM is trained.

    Attributes:
        seed: of everything random.
        weight_decay, grad_clip: of its optimiser.
        labels: whether phases use the addresses in batches.
        device: of the computation.
    """

    seed: int
    weight_decay: float
    grad_clip: float
    labels: bool = True
    device: str = "cpu"


class TrainState:
    """The state that a phase works on. It owns the BLM and its optimiser; fleet and memory may be remote."""

    def __init__(
        self,
        blm: BLM,
        fleet: TrainableFleet,
        memory: Memory,
        world: World,
        options: TrainOptions,
        group: LearnerGroup = ALONE,
    ) -> None:
        self.group = group
        self.blm = blm.to(options.device)
        self.fleet = fleet
        self.memory = memory
        self.world = world
        self.seed, self.labels, self.device = options.seed, options.labels, options.device
        self.optimizer = Optimizer(self.blm, options.weight_decay, options.grad_clip)

    @property
    def system(self) -> System:
        """A system of the same parts, ready to predict."""
        return System(self.blm, self.fleet, self.memory, self.world.spec, self.device)

    def samples(self, sequences: int, count: int, generator: torch.Generator, *, keyed: bool = False) -> Samples:
        """This learner's part of ``count`` single transitions of ``sequences`` training sequences.

        With ``keyed``, keep only those whose addresses all follow from the inputs, if there are any.
        """
        episodes = self.world.batch("train", sequences, generator)
        batch = episodes.fold_time().at(0)
        rows = torch.randperm(len(batch.current), generator=generator)
        if keyed and self.labels:
            known = rows[batch.keyed.all(1)[rows]]
            rows = known if len(known) else rows
        part = self.group.part(len(rows[:count]))
        rows = part.of(rows[:count])
        chosen = batch.map(lambda tensor: tensor[rows]).to(self.device)
        return Samples(chosen, episodes.to(self.device), rows, part)

    def seen(self, samples: Samples, forgotten: float, generator: torch.Generator) -> Tensor | None:
        """(n, .) what each sample knows of its episode, for a part of them nothing; see ``BLM.observe``."""
        seen = self.blm.observe(samples.episodes.past, samples.episodes.current)
        if seen is None:
            return None
        kept = samples.part.of(torch.rand(samples.part.total, 1, generator=generator)) >= forgotten
        return seen.flatten(0, 1)[samples.rows.to(self.device)] * kept.to(self.device)

    def forward(self, query: Query, shortlist: Tensor | None) -> ForwardPass:
        """A pass of the BLM, the SLMs and the memory over the samples of a query."""
        return ForwardPass(self.system, query, shortlist)

    def to_request(self, samples: Samples, shortlist: Tensor | None = None) -> Ranges:
        """(n, N) the records that the next step needs, if they differ and only a request can find them.

        Elsewhere start and length are 0, so that those are read as one range.
        """
        labels, keyed = samples.episodes.labels.map(self.of_all), self.of_all(samples.episodes.keyed)
        needed = torch.zeros_like(keyed)
        if self.labels and self.blm.tags is not None:
            needed[:, :-1] = ~keyed[:, 1:] & (labels.start[:, 1:] != labels.start[:, :-1])
        rows = samples.rows.to(self.device)
        requested = labels.map(lambda x: (x.roll(-1, dims=1) * needed).flatten(0, 1)[rows])
        return requested.map(lambda x: of_shortlist(x, shortlist))

    def add_read_noise(
        self, ranges: Ranges, read_noise: ReadNoise, generator: torch.Generator, part: BatchPart
    ) -> NoisyReads:
        """Add noise to this learner's part of a step's (B, N) reads; see ``leworld.training.read_noise``."""
        everyone = add_read_noise(self.group.gather(ranges, part), read_noise, generator, self.world.spec.record_words)
        return NoisyReads(everyone.ranges.map(part.of), part.of(everyone.wrong), part.of(everyone.kept))

    def optimise(self, lr: float) -> float:
        """Make one step of the BLM's optimiser on the group's gradients; return their norm."""
        self.group.sum_gradients(self.blm)
        return self.optimizer.step(lr)

    @property
    def tables(self) -> Tensor | None:
        """(N,) the table of each SLM; None: SLM n has table n."""
        tables = tables_of(self.fleet.members, self.world.spec.num_tables)
        return None if tables is None else tables.to(self.device)

    def of_all(self, x: Tensor) -> Tensor:
        """(..., T) of all tables to (..., N) of all SLMs."""
        return x if self.tables is None else x[..., self.tables]

    def concern(self, batch: Batch, shortlist: Tensor | None) -> Batch:
        """A (B, ...) batch with columns for the (B, A) SLMs on the shortlist, or for all."""
        return batch.columns(self.tables).of(shortlist)

    def join(self, slm_id: int, steps: int) -> None:
        """Add an SLM, pre-trained for some steps; see ``leworld.models.membership``.

        Raises:
            ConfigError: its number is not above those of the others.
        """
        members, num_tables = self.fleet.members, self.world.spec.num_tables
        if slm_id <= max(members):
            raise ConfigError(f"SLM {slm_id} cannot join: numbers up to {max(members)} were given; take a higher one")
        alike = [place for place, other in enumerate(members) if (other - slm_id) % num_tables == 0]
        self.fleet.join(slm_id, steps)
        join(self.blm, self.optimizer, alike[0] if alike else 0, generator(self.seed, "join", slm_id))

    def leave(self, slm_id: int) -> None:
        """Remove an SLM.

        Raises:
            ConfigError: the SLM is not there, or is the only one.
        """
        members = self.fleet.members
        if slm_id not in members or len(members) == 1:
            there = ", ".join(map(str, members))
            raise ConfigError(f"SLM {slm_id} cannot leave: there are {there}; name one of several")
        place = list(members).index(slm_id)
        self.fleet.leave(slm_id)
        leave(self.blm, self.optimizer, place)

    def shortlist(self, query: Query, temperature: float, part: BatchPart, *moment: str | int) -> Tensor | None:
        """The shortlist of this learner's samples, with logistic noise times a temperature.

        See ``BLM.shortlist``.
        """
        if self.blm.shortlist(query.map(lambda x: x[:1])) is None:
            return None
        draw = generator(self.seed, "shortlist", *moment)
        noise = part.of(logistic_noise(torch.Size((part.total, self.blm.num_slms)), draw))
        return self.blm.shortlist(query, temperature * noise.to(self.device))

    def query(self, batch: Batch, info_query: Tensor | None = None) -> Query:
        """The query at a step of a (B, ...) batch; no request means zeros."""
        if info_query is None:
            info_query = batch.current.new_zeros(len(batch.current), self.blm.config.query_dim)
        return Query(batch.past, batch.current, batch.characteristics, info_query)

    def change(self, batch: Batch) -> Tensor:
        """(B, Y) the true change, in the BLM's units."""
        return to_change(self.world.spec, batch.current, batch.target)

    def state(self) -> dict[str, Tensor]:
        """Weights and optimiser state of the BLM, by name, and its shortlist settings, on the CPU."""
        return {**self.optimizer.state(self.blm), ASKING: asking(self.blm)}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Inverse of ``state``, for the same number of SLMs."""
        self.optimizer.load_state(self.blm, {name: tensor for name, tensor in state.items() if name != ASKING})
        # Checkpoints from before SLMs could join have none.
        if (given := state.get(ASKING)) is not None:
            set_asking(self.blm, given)


def recall(shortlist: Tensor | None, relevant: Tensor | None) -> Metrics:
    """How often the shortlist (B, A) holds all SLMs that matter, (B, N) bool."""
    if shortlist is None or relevant is None:
        return {}
    return {"recall": (relevant.gather(1, shortlist).sum(1) == relevant.sum(1)).float().mean().item()}
