import numpy as np
import pytest
import torch

from leworld.errors import ConfigError
from leworld.memory import unpack_bits
from leworld.worlds import SeedConfig, SeedWorld
from tests.worlds.reading import generator, linear_residual, plain_tile, populated, read_one


@pytest.fixture(scope="module")
def world() -> SeedWorld:
    return SeedWorld(SeedConfig(num_train=400), 0)


def test_known_figures_come_out(world):
    """As measured with the original generator: over its evaluation's 5 steps, and over all 9."""
    batch = world.batch("train", 2000, generator())
    for steps, zero, copy in ((5, 0.407, 0.0363), (9, 0.341, 0.0265)):
        target, current = batch.target[:, :steps], batch.current[:, :steps]
        assert target.square().mean().item() == pytest.approx(zero, rel=0.05)
        assert (target - current).square().mean().item() == pytest.approx(copy, rel=0.05)
    assert linear_residual(batch, 0.8).square().mean().item() == pytest.approx(world.spec.floor, rel=0.03)
    assert world.spec.floor == pytest.approx(0.01)


def test_only_the_last_range_matters(world):
    memory, batch = populated(world), world.batch("test", 8, generator())
    assert torch.equal(batch.relevant, torch.tensor([False, True, False]).expand(8, 9, 3))
    for b in range(8):
        start, length = int(batch.labels.start[b, 0, 1]), int(batch.labels.length[b, 0, 1])
        mean = torch.from_numpy(unpack_bits(read_one(memory, start, length)).astype(np.float64).mean(0))
        assert torch.allclose(batch.context[b, 0].double(), 0.15 * plain_tile(2 * mean - 1, 64), atol=1e-6)


def test_ranges_are_as_the_original_draws_them(world):
    labels = world.batch("train", 500, generator()).labels
    assert labels.length[..., :2].min() >= 16
    assert labels.length[..., :2].max() <= 128 == world.spec.read_words
    assert (labels.start + labels.length).max() <= 2**16
    assert not labels.length[..., 2].any()


def test_no_address_follows_from_the_input(world):
    assert not world.batch("train", 4, generator()).keyed.any()


def test_memory_holds_the_four_regions(world):
    memory = populated(world)
    quarter = 2**14
    words = [read_one(memory, region * quarter + 5, 1)[0] for region in range(4)]
    assert words[0] == 1 << 5
    assert words[2] == 5
    assert words[3] == words[0] ^ words[1]


def test_splits_hold_different_sequences(world):
    first = {split: world.batch(split, 500, generator()).current[:, 0, 0].tolist() for split in ("train", "test")}
    assert not set(first["train"]) & set(first["test"])
    assert len(set(first["test"])) == world.config.num_test


def test_other_widths_are_refused():
    with pytest.raises(ConfigError, match="use 16"):
        SeedConfig(address_bits=24)
