"""World ``physics``: a real simulator whose masses, lengths, gravity and the like are hidden.

The bodies are Gymnasium's, see ``leworld.worlds.bodies``. A body's characteristics are a random code: they say which
body it is, and nothing of its physics. That can only be seen in the body's stored transitions.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from leworld.memory import Memory, Receipt, check_address_bits
from leworld.rng import derive_seed
from leworld.worlds import config_checks as checks
from leworld.worlds.bodies import BODIES, Body
from leworld.worlds.bodies.base import Floats
from leworld.worlds.draws import SPLITS
from leworld.worlds.trajectories import Content, TrajectoryWorld
from leworld.worlds.trajectory_data import TrajectoryData


@dataclass(frozen=True)
class PhysicsConfig:
    """Settings of ``physics``.

    Attributes:
        body: "cartpole", "pendulum", "acrobot"; with MuJoCo "hopper", "swimmer", "halfcheetah".
        num_train: bodies trained on; ``num_valid`` and ``num_test`` bodies are only ever written to memory.
        names: codes that each training body goes by. A code says nothing of the physics; with one code a body, a model
            learns its training bodies by their codes instead of by what is stored of them.
        records: stored transitions a body, rounded down to a multiple of ``num_tables``.
        sequences_per_body: sequences to predict, of ``horizon`` transitions each.
        char_dim: length of a body's code.
    """

    body: str = "pendulum"
    num_train: int = 1200
    names: int = 8
    num_valid: int = 48
    num_test: int = 64
    records: int = 33
    sequences_per_body: int = 2
    horizon: int = 20
    char_dim: int = 32
    num_tables: int = 3
    address_bits: int = 32

    def __post_init__(self) -> None:
        checks.one_of("physics", "body", self.body, tuple(BODIES))
        checks.at_least("physics", 1, num_train=self.num_train, num_valid=self.num_valid, num_test=self.num_test)
        checks.at_least("physics", 1, names=self.names, sequences_per_body=self.sequences_per_body)
        checks.at_least("physics", 1, horizon=self.horizon, num_tables=self.num_tables, char_dim=self.char_dim)
        checks.at_least("physics", self.num_tables, records=self.records)
        check_address_bits(self.address_bits)
        checks.at_least("physics", 16, address_bits=self.address_bits)


class PhysicsWorld(TrajectoryWorld):
    """See the module. ``Batch.context`` is what the body's class says, standardised."""

    def __init__(self, config: PhysicsConfig, seed: int) -> None:
        self.config = config
        super().__init__("physics", simulate(config, seed), config.num_tables, config.address_bits, seed)
        self._first = self._content

    def rewrite(self, memory: Memory, version: int) -> Receipt:
        """Deal the physics of each split out anew, and write all transitions at the same addresses.

        What one body was, its codes say of the body ``version`` places on; version 0 is the first deal. Sequences stay,
        under another code, so that errors before and after are of the same samples.
        """
        self._adopt(self._first if version == 0 else self._dealt(version))
        return memory.write(self._start[self._alive], self._words[self._alive])

    def _dealt(self, version: int) -> Content:
        data = self._first.data
        source = torch.arange(len(data.split))
        for split in range(len(SPLITS)):
            bodies = (data.split == split).nonzero().squeeze(1)
            source[bodies] = bodies.roll(version)
        assert data.context is not None
        changed = replace(
            data,
            stored_inputs=data.stored_inputs[source],
            stored_next=data.stored_next[source],
            context=data.context[source],
            world=source.argsort()[data.world],
        )
        return self._packed(changed)

    def sample_characteristics(self, count: int, random: torch.Generator) -> Tensor:
        """Codes of bodies that do not exist."""
        return torch.randn(count, self.config.char_dim, generator=random)


def simulate(config: PhysicsConfig, seed: int) -> TrajectoryData:
    """Draw the bodies of each split and run them.

    Raises:
        ConfigError: the body's simulator is not installed.
        DataError: a simulation did not stay finite.
    """
    counts = (config.num_train, config.num_valid, config.num_test)
    names = (config.names, 1, 1)
    body = BODIES[config.body]()
    codes, parts = [], []
    for split, count, named in zip(SPLITS, counts, names, strict=True):
        known = np.random.default_rng(derive_seed(seed, "physics", split))
        codes.append(known.standard_normal((named * count, config.char_dim)))
        random = np.random.default_rng(derive_seed(seed, "physics", split, 0))
        parts.extend([_observed(body, config, random) for _ in range(count)] * named)
    contexts, stored, sequences = (np.stack(column) for column in zip(*parts, strict=True))
    inputs, following = _columns(sequences.reshape(-1, *sequences.shape[2:]), body.state_dim)
    stored_inputs, stored_next = _columns(stored.reshape(len(parts), -1, stored.shape[-1]), body.state_dim)
    return TrajectoryData(
        characteristics=_float32(np.concatenate(codes)),
        stored_inputs=stored_inputs,
        stored_next=stored_next,
        inputs=inputs,
        past=torch.cat([inputs[:, :1], inputs[:, :-1]], dim=1),
        following=following,
        world=torch.arange(len(parts)).repeat_interleave(config.sequences_per_body),
        split=torch.arange(len(SPLITS)).repeat_interleave(torch.tensor(counts) * torch.tensor(names)),
        context=_float32(contexts),
    )


def _observed(body: Body, config: PhysicsConfig, random: np.random.Generator) -> tuple[Floats, Floats, Floats]:
    """Of a new body: its context, an episode for each table (N, M / N, .) and its sequences (E, T, .)."""
    context = body.draw(random)
    per_table = config.records // config.num_tables
    stored = [body.episode(per_table, random) for _ in range(config.num_tables)]
    sequences = [body.episode(config.horizon, random) for _ in range(config.sequences_per_body)]
    return context, np.stack(stored), np.stack(sequences)


def _columns(transitions: Floats, state_dim: int) -> tuple[Tensor, Tensor]:
    """(..., Y + A + Y) to inputs (..., Y + A) and next states (..., Y)."""
    values = _float32(transitions)
    return values[..., :-state_dim], values[..., -state_dim:]


def _float32(values: Floats) -> Tensor:
    return torch.tensor(values.astype(np.float32))
