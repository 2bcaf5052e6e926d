"""World ``arrays``: the user's own trajectories, from an ``.npz`` file.

The file holds ``states`` (E, L + 1, S) and ``characteristics`` (E, C), and may hold ``actions`` (E, L, A) and ``ends``
(E,), the number of transitions that are valid in each episode (all L where it is left out). Transition t of an episode
leads from ``states[t]`` by ``actions[t]`` to ``states[t + 1]``.

Episodes of identical characteristics are one world. The first ``records`` transitions of a world, in the file's order,
go to memory; the others are cut into sequences of ``horizon`` transitions, each within one episode.
Splits are by world.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from leworld.errors import ConfigError, DataError
from leworld.memory import check_address_bits
from leworld.rng import derive_seed
from leworld.worlds import config_checks as checks
from leworld.worlds.array_files import Episodes, read_episodes
from leworld.worlds.trajectories import TrajectoryWorld
from leworld.worlds.trajectory_data import Moments, TrajectoryData

KEY_JITTER = 0.3
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class ArraysConfig:
    """Settings of ``arrays``.

    Attributes:
        path: the ``.npz`` file.
        records: stored transitions a world, rounded down to a multiple of ``num_tables``.
        test_fraction: share of the worlds that are only tested on, at least one world; ``valid_fraction`` likewise.
    """

    path: str = ""
    records: int = 32
    horizon: int = 16
    num_tables: int = 3
    address_bits: int = 24
    test_fraction: float = 0.2
    valid_fraction: float = 0.1

    def __post_init__(self) -> None:
        if not self.path:
            raise ConfigError("arrays: path is empty: give the path of an .npz file.")
        checks.at_least("arrays", 1, horizon=self.horizon, num_tables=self.num_tables)
        checks.at_least("arrays", self.num_tables, records=self.records)
        checks.between("arrays", 0, 1, test_fraction=self.test_fraction, valid_fraction=self.valid_fraction)
        check_address_bits(self.address_bits)
        checks.at_least("arrays", 16, address_bits=self.address_bits)

    @property
    def used_records(self) -> int:
        """``records``, a whole number for each table."""
        return self.records // self.num_tables * self.num_tables


class ArraysWorld(TrajectoryWorld):
    """See the module. Characteristics are standardised by the training worlds."""

    def __init__(self, config: ArraysConfig, seed: int) -> None:
        self.config = config
        data = _cut(read_episodes(config.path), config, seed)
        super().__init__("arrays", data, config.num_tables, config.address_bits, seed)

    def sample_characteristics(self, count: int, random: torch.Generator) -> Tensor:
        """Those of training worlds with Gaussian noise of 0.3 deviations: placement is learnt around them."""
        known = self.data.characteristics[self.data.split == 0]
        chosen = known[torch.randint(len(known), (count,), generator=random)]
        jitter = torch.randn(chosen.shape, generator=random) * known.std(dim=0, correction=0)
        return chosen + KEY_JITTER * jitter


def _cut(episodes: Episodes, config: ArraysConfig, seed: int) -> TrajectoryData:
    characteristics, world_of = np.unique(episodes.characteristics, axis=0, return_inverse=True)
    world_of = world_of.reshape(-1)
    split = _splits(len(characteristics), config, seed)
    unit = Moments.of(torch.from_numpy(characteristics)[split == 0])
    stored, windows = _index(episodes.ends, world_of, config)
    inputs, following = _transitions(episodes, windows)
    past, _ = _transitions(episodes, np.stack([windows[..., 0], np.maximum(windows[..., 1] - 1, 0)], axis=-1))
    stored_inputs, stored_next = _transitions(episodes, stored)
    return TrajectoryData(
        characteristics=unit.standardised(torch.from_numpy(characteristics)).float(),
        stored_inputs=stored_inputs,
        stored_next=stored_next,
        inputs=inputs,
        past=past,
        following=following,
        world=torch.from_numpy(world_of[windows[:, 0, 0]]),
        split=split,
        characteristics_units=unit,
    )


def _splits(count: int, config: ArraysConfig, seed: int) -> Tensor:
    """(W,) the split of each world, drawn by the seed."""
    num_test = max(1, round(config.test_fraction * count))
    num_valid = max(1, round(config.valid_fraction * count))
    if num_test + num_valid >= count:
        raise DataError(
            f"{config.path}: {count} worlds (different characteristics) leave none to train on beside {num_valid} for "
            f"valid and {num_test} for test: give 3 worlds or more, or lower the fractions."
        )
    order = np.random.default_rng(derive_seed(seed, "arrays", "split")).permutation(count)
    split = np.zeros(count, dtype=np.int64)
    split[order[:num_test]] = 2
    split[order[num_test : num_test + num_valid]] = 1
    return torch.from_numpy(split)


def _index(ends: Ints, world_of: Ints, config: ArraysConfig) -> tuple[Ints, Ints]:
    """Which (episode, step) goes to memory, (W, M, 2), and which to each sequence, (sequences, T, 2)."""
    stored, windows = [], []
    for world in range(world_of.max() + 1):
        members = np.flatnonzero(world_of == world)
        room, used, starts = config.used_records, [], []
        for episode in members:
            taken = min(room, int(ends[episode]))
            room -= taken
            used.extend((episode, step) for step in range(taken))
            last = int(ends[episode]) - config.horizon
            starts.extend((episode, step) for step in range(taken, last + 1, config.horizon))
        if not starts or room:
            raise _too_short(members, ends, config)
        stored.append(used)
        windows.extend(starts)
    steps = np.arange(config.horizon)[:, None] * np.array([0, 1])
    return np.array(stored), np.array(windows)[:, None] + steps


def _too_short(members: Ints, ends: Ints, config: ArraysConfig) -> DataError:
    return DataError(
        f"{config.path}: the world of episode {members[0]} has {ends[members].sum()} transitions in {len(members)} "
        f"episode(s), but {config.used_records} records and an unbroken sequence of {config.horizon} need "
        f"{config.used_records + config.horizon}: lower records or horizon, or give longer episodes."
    )


def _transitions(episodes: Episodes, index: Ints) -> tuple[Tensor, Tensor]:
    """(..., 2) indices of (episode, step) to states with actions (..., S + A) and next states (..., S)."""
    episode, step = index[..., 0], index[..., 1]
    inputs = np.concatenate([episodes.states[episode, step], episodes.actions[episode, step]], axis=-1)
    return torch.from_numpy(inputs), torch.from_numpy(episodes.states[episode, step + 1])
