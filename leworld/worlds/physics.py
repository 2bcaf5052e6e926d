"""World ``physics``: a real simulator whose mass, length and gravity are hidden.

The body is Gymnasium's Pendulum-v1, https://gymnasium.farama.org/environments/classic_control/pendulum/ . Its
characteristics are a random code: they say which body it is, and nothing of its physics. That can only be seen in the
body's stored transitions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from leworld.errors import ConfigError
from leworld.memory import check_address_bits
from leworld.rng import derive_seed
from leworld.worlds import checks
from leworld.worlds.draws import SPLITS
from leworld.worlds.trajectories import TrajectoryData, TrajectoryWorld

Floats = NDArray[np.float64]
LOG_MASS, LOG_LENGTH, GRAVITY = (np.log(0.5), np.log(2.0)), (np.log(0.5), np.log(1.5)), (5.0, 15.0)
MAX_START_SPEED, MAX_TORQUE = 4.0, 2.0
INPUT_DIM, TARGET_DIM = 4, 3


@dataclass(frozen=True)
class PhysicsConfig:
    """Settings of ``physics``.

    Attributes:
        num_train: bodies trained on; ``num_valid`` and ``num_test`` bodies are only ever written to memory.
        records: stored transitions a body, rounded down to a multiple of ``num_tables``.
        sequences_per_body: sequences to predict, of ``horizon`` transitions each.
        char_dim: length of a body's code.
    """

    body: str = "pendulum"
    num_train: int = 1200
    num_valid: int = 48
    num_test: int = 64
    records: int = 33
    sequences_per_body: int = 2
    horizon: int = 16
    char_dim: int = 32
    num_tables: int = 3
    address_bits: int = 24

    def __post_init__(self) -> None:
        if self.body != "pendulum":
            raise ConfigError(f"physics: body {self.body!r} is not known: use 'pendulum' (MuJoCo bodies come later).")
        checks.at_least("physics", 1, num_train=self.num_train, num_valid=self.num_valid, num_test=self.num_test)
        checks.at_least("physics", 1, sequences_per_body=self.sequences_per_body, horizon=self.horizon)
        checks.at_least("physics", 1, num_tables=self.num_tables, char_dim=self.char_dim)
        checks.at_least("physics", self.num_tables, records=self.records)
        check_address_bits(self.address_bits)
        checks.at_least("physics", 16, address_bits=self.address_bits)


class PhysicsWorld(TrajectoryWorld):
    """See the module. ``context`` is log m, log l, g, log 3g / (2l) and log 3 / (m l^2), standardised."""

    def __init__(self, config: PhysicsConfig, seed: int) -> None:
        self.config = config
        super().__init__("physics", simulate(config, seed), config.num_tables, config.address_bits, seed)

    def sample_characteristics(self, count: int, random: torch.Generator) -> Tensor:
        """Codes of bodies that do not exist."""
        return torch.randn(count, self.config.char_dim, generator=random)


def simulate(config: PhysicsConfig, seed: int) -> TrajectoryData:
    """Draw the bodies of each split and run them; a split's bodies depend on the seed and the split alone."""
    counts = (config.num_train, config.num_valid, config.num_test)
    simulator = _make_simulator()
    parts = []
    for split, count in zip(SPLITS, counts, strict=True):
        random = np.random.default_rng(derive_seed(seed, "physics", split))
        parts.extend(_body(simulator, config, random) for _ in range(count))
    codes, contexts, stored, sequences = (np.stack(column) for column in zip(*parts, strict=True))
    per_body = config.sequences_per_body
    inputs, following = _split_columns(sequences.reshape(-1, *sequences.shape[2:]))
    stored_inputs, stored_next = _split_columns(stored.reshape(len(parts), -1, stored.shape[-1]))
    return TrajectoryData(
        characteristics=_float32(codes),
        stored_inputs=stored_inputs,
        stored_next=stored_next,
        inputs=inputs,
        past=torch.cat([inputs[:, :1], inputs[:, :-1]], dim=1),
        following=following,
        world=torch.arange(len(parts)).repeat_interleave(per_body),
        split=torch.arange(len(SPLITS)).repeat_interleave(torch.tensor(counts)),
        context=_float32(contexts),
    )


def _make_simulator() -> Any:
    """Gymnasium's pendulum without its wrappers: they only check and count."""
    import gymnasium  # Kept out of module scope: only a process that builds this world needs the simulator.

    return gymnasium.make("Pendulum-v1").unwrapped


def _body(simulator: Any, config: PhysicsConfig, random: np.random.Generator) -> tuple[Floats, Floats, Floats, Floats]:
    """One body: its code, its physics, its stored episodes (N, M / N, 7) and its sequences (E, T, 7)."""
    code = random.standard_normal(config.char_dim)
    mass, length = np.exp(random.uniform(*LOG_MASS)), np.exp(random.uniform(*LOG_LENGTH))
    gravity = random.uniform(*GRAVITY)
    simulator.m, simulator.l, simulator.g = float(mass), float(length), float(gravity)
    pull, push = 3 * gravity / (2 * length), 3 / (mass * length**2)
    context = np.array([np.log(mass), np.log(length), gravity, np.log(pull), np.log(push)])
    per_table = config.records // config.num_tables
    stored = [_episode(simulator, per_table, random) for _ in range(config.num_tables)]
    sequences = [_episode(simulator, config.horizon, random) for _ in range(config.sequences_per_body)]
    return code, context, np.stack(stored), np.stack(sequences)


def _episode(simulator: Any, num_steps: int, random: np.random.Generator) -> Floats:
    """(num_steps, 7) from a random start: cos, sin, speed, a random torque; then the cos, sin and speed that follow."""
    theta, speed = random.uniform(-np.pi, np.pi), random.uniform(-MAX_START_SPEED, MAX_START_SPEED)
    torques = random.uniform(-MAX_TORQUE, MAX_TORQUE, size=(num_steps, 1))
    simulator.state = np.array([theta, speed])
    states = [np.array([np.cos(theta), np.sin(theta), speed])]
    states.extend(simulator.step(torque)[0] for torque in torques)
    states = np.stack(states)
    return np.concatenate([states[:-1], torques, states[1:]], axis=1)


def _split_columns(transitions: Floats) -> tuple[Tensor, Tensor]:
    """(..., 7) to inputs (..., 4) and next states (..., 3)."""
    values = _float32(transitions)
    return values[..., :INPUT_DIM], values[..., INPUT_DIM:]


def _float32(values: Floats) -> Tensor:
    return torch.tensor(values.astype(np.float32))
