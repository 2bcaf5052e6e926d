"""One tiny model of pendulums, trained once for all tests of this folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import leworld
from cluster.config.presets import load_config
from cluster.run.run_dir import RunDir
from cluster.run.runtimes import open_runtime
from leworld.worlds.bodies.classic import Pendulum
from tests.models.tiny import single_thread

SETTINGS = (
    "world={name: physics, settings: {body: pendulum, num_train: 24, num_valid: 2, num_test: 3, names: 4, char_dim: 6,"
    " address_bits: 16, horizon: 8}}",
    "phases.pretrain={steps: 60, slm_steps: 60, rule_steps: 8, slm_lr: 0.01}",
    "phases.pretrain={irrelevant: 0.1, dropped: 0.1, blind: 0.05}",
    "phases.joint.steps=2",
    "phases.refine.steps=2",
    "cluster.mode=inline",
    "output.checkpoint_every=100",
)


def train(directory: Path, *changes: str) -> RunDir:
    """A run of a few steps."""
    config = load_config("tiny", [*SETTINGS, f"output.dir={directory}", *changes])
    with single_thread(), open_runtime(config) as runtime:
        run = RunDir.create(config)
        runtime.train(run)
    return run


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    return train(tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="session")
def folder(run: RunDir, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run, exported."""
    return leworld.load(run.path).save(tmp_path_factory.mktemp("exported") / "pendulum")


@pytest.fixture
def model(folder: Path) -> Iterator[leworld.Model]:
    """A fresh one for each test, as its memory may be written."""
    with single_thread():
        yield leworld.load(folder)


@pytest.fixture
def characteristics() -> np.ndarray:
    """(6,) of a pendulum that is not in memory."""
    return np.random.default_rng(7).standard_normal(6)


@pytest.fixture
def episodes(characteristics: np.ndarray) -> dict[str, np.ndarray]:
    """40 transitions of that pendulum, in two episodes of 20; memory has room for 33."""
    body, random = Pendulum(), np.random.default_rng(3)
    body.draw(random)
    rows = [body.episode(20, random) for _ in range(2)]
    states = np.stack([np.concatenate([row[:, :3], row[-1:, 4:]]) for row in rows])
    return {
        "states": states,
        "actions": np.stack([row[:, 3:4] for row in rows]),
        "characteristics": np.stack([characteristics] * 2),
    }
