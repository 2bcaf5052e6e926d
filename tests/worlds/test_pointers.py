import numpy as np
import pytest
import torch

from leworld.errors import ConfigError
from leworld.worlds import PointersConfig, PointersWorld
from tests.worlds.reading import generator, linear_residual, plain_signs, populated, read_one


@pytest.fixture(scope="module")
def world() -> PointersWorld:
    return PointersWorld(PointersConfig(), 3)


def test_chain_follows_the_memory(world):
    memory, batch = populated(world), world.batch("test", 16, generator())
    for chain, drives in zip(batch.labels.start[..., 0].tolist(), batch.context, strict=True):
        assert len(set(chain)) == world.config.depth
        for t, start in enumerate(chain):
            payload, link = (int(word) for word in read_one(memory, start, 2))
            assert link & 0xFFFF == start // 2
            assert torch.allclose(drives[t], 0.25 * plain_signs(payload))
            if t + 1 < len(chain):
                assert (link >> 16) * 2 == chain[t + 1]


def test_every_record_is_named_by_exactly_one(world):
    following = world.slots.words(np.arange(2**15))[:, -1] >> 16
    assert sorted(following.tolist()) == list(range(2**15))


def test_first_address_alone_follows_from_the_inputs(world):
    batch = world.batch("train", 4, generator())
    assert torch.equal(batch.labels.start[:, 0, 0], world.placements[0].address(batch.characteristics[:, 0]))
    for table in (1, 2):
        expected = world.placements[table].address(batch.characteristics[:, 0]).unsqueeze(1).expand(-1, 8)
        assert torch.equal(batch.labels.start[..., table], expected)
    assert batch.keyed[:, 0].all()
    assert batch.keyed[..., 1:].all()
    assert not batch.keyed[:, 1:, 0].any()
    assert batch.relevant[..., 0].all()
    assert not batch.relevant[..., 1:].any()


def test_characteristics_stay_and_past_lags(world):
    batch = world.batch("train", 4, generator())
    assert torch.equal(batch.characteristics, batch.characteristics[:, :1].expand(-1, 8, -1))
    assert torch.equal(batch.past[:, 1:], batch.current[:, :-1])
    assert torch.equal(batch.past[:, 0], batch.current[:, 0])


def test_floor_with_and_without_requests(world):
    batch = world.batch("valid", 256, generator())
    residual = linear_residual(batch, 0.8)
    assert residual.square().mean().item() == pytest.approx(world.spec.floor, rel=0.03)
    unknown = batch.context.clone()
    unknown[:, 0] = 0
    without = (residual + unknown).square().mean().item()
    assert without == pytest.approx(world.spec.floor_no_request, rel=0.02)
    assert world.spec.floor_no_request == pytest.approx(0.01 + 0.0625 * 7 / 8)


def test_one_step_needs_no_request():
    spec = PointersWorld(PointersConfig(depth=1), 0).spec
    assert spec.floor == spec.floor_no_request
    assert spec.horizon == 1


def test_keys_are_first_steps(world):
    keys = world.keys(32, generator())
    assert torch.equal(keys.past, keys.current)
    for table, placement in enumerate(world.placements):
        assert torch.equal(keys.labels.start[:, table], placement.address(keys.characteristics))


def test_rewrite_changes_the_chain():
    world = PointersWorld(PointersConfig(), 0)
    memory = populated(world)
    before = world.batch("train", 8, generator()).labels.start[..., 0]
    world.rewrite(memory, 1)
    after = world.batch("train", 8, generator()).labels.start[..., 0]
    assert torch.equal(before[:, 0], after[:, 0])
    assert (before[:, 1:] != after[:, 1:]).all()
    assert (int(read_one(memory, int(after[0, 0]), 2)[1]) >> 16) * 2 == int(after[0, 1])


@pytest.mark.parametrize(
    ("settings", "named"),
    [({"address_bits": 24}, "16 bits: use 16"), ({"depth": 0}, "depth is 0"), ({"num_tables": 0}, "num_tables is 0")],
)
def test_bad_settings_are_named(settings, named):
    with pytest.raises(ConfigError) as caught:
        PointersConfig(**settings)
    assert named in str(caught.value)
