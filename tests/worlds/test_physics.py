import gymnasium
import numpy as np
import pytest
import torch

from leworld.errors import ConfigError
from leworld.memory import WordStore
from leworld.worlds import PhysicsConfig, PhysicsWorld
from leworld.worlds.physics import simulate
from leworld.worlds.transition_format import placement_keys
from tests.worlds.reading import generator, populated, read_one

SMALL = PhysicsConfig(num_train=12, names=1, num_valid=3, num_test=4, sequences_per_body=2, address_bits=24)
ONE = {"address_bits": 24, "names": 1, "num_valid": 1, "num_test": 1, "sequences_per_body": 1}


@pytest.fixture(scope="module")
def world() -> PhysicsWorld:
    return PhysicsWorld(SMALL, 0)


def test_spec(world):
    spec = world.spec
    assert (spec.state_dim, spec.target_dim, spec.char_dim, spec.context_dim) == (4, 3, 32, 5)
    assert (spec.record_words, spec.read_words, spec.horizon, spec.residual) == (2, 22, 20, True)
    assert spec.floor is None


def test_transitions_are_the_simulators(world):
    data = simulate(SMALL, 0)
    simulator = gymnasium.make("Pendulum-v1").unwrapped
    log_mass, log_length, gravity, log_pull, log_push = data.context[5].double().tolist()
    simulator.m, simulator.l, simulator.g = np.exp(log_mass), np.exp(log_length), gravity
    assert np.exp(log_pull) == pytest.approx(3 * gravity / (2 * simulator.l), rel=1e-5)
    assert np.exp(log_push) == pytest.approx(3 / (simulator.m * simulator.l**2), rel=1e-5)
    of_body = (data.world == 5).nonzero().flatten()
    inputs = torch.cat([data.stored_inputs[5], data.inputs[of_body].flatten(0, 1)]).double().numpy()
    following = torch.cat([data.stored_next[5], data.following[of_body].flatten(0, 1)]).numpy()
    for before, after in zip(inputs, following, strict=True):
        simulator.state = np.array([np.arctan2(before[1], before[0]), before[2]])
        observed = simulator.step(np.array([before[3]]))[0]
        assert np.allclose(observed, after, atol=2e-5)


def test_bodies_differ_in_physics_and_codes_say_nothing_of_it():
    data = simulate(PhysicsConfig(num_train=60, horizon=1, records=3, **ONE), 0)
    physics = data.context[:, :3]
    assert len(torch.unique(physics, dim=0)) == 62
    assert physics[:, 0].abs().max() <= np.log(2) + 1e-6
    for column, low, high in ((1, np.log(0.5), np.log(1.5)), (2, 5, 15)):
        assert physics[:, column].min() >= low - 1e-6
        assert physics[:, column].max() <= high + 1e-6
    correlation = torch.corrcoef(torch.cat([data.characteristics, physics], dim=1).T)[:32, 32:]
    assert correlation.abs().max() < 0.5


def test_same_start_goes_elsewhere_in_another_body(world):
    simulator = gymnasium.make("Pendulum-v1").unwrapped
    ends = []
    for row in simulate(SMALL, 0).context[:2].double():
        simulator.m, simulator.l, simulator.g = float(row[0].exp()), float(row[1].exp()), float(row[2])
        simulator.state = np.array([1.0, 0.0])
        ends.append(simulator.step(np.array([1.0]))[0])
    assert np.abs(ends[0] - ends[1]).max() > 0.01


@pytest.mark.parametrize("split", ["train", "valid", "test"])
def test_labels_read_back_the_bodys_own_records(world, split):
    memory, batch = populated(world), world.batch(split, 6, generator())
    stored = world.stored(batch.world[:, 0])
    tags = world.placements[0].tag(placement_keys(batch.characteristics[:, 0]), 8)
    for b in range(6):
        for table in range(3):
            start, length = int(batch.labels.start[b, 0, table]), int(batch.labels.length[b, 0, table])
            fields = world.schema.unpack(read_one(memory, start, length).reshape(-1, world.spec.record_words))
            rows = slice(table, None, 3)
            inputs = torch.from_numpy(fields["inputs"]).float()
            assert torch.equal(inputs, stored.inputs[b, rows])
            deltas = torch.from_numpy(fields["deltas"]).float()
            assert torch.allclose(inputs[:, :3] + deltas, stored.targets[b, rows])
            assert (fields["tag"] == int(tags[b])).all()


def test_stored_is_the_truth_up_to_quantisation(world):
    train = torch.arange(SMALL.num_train)
    stored, data = world.stored(train), world.data
    # Record j is row j // 3 of table j % 3; the truth is kept table by table.
    order = torch.arange(33).reshape(3, 11).T.flatten()
    inputs, following = data.stored_inputs[train][:, order], data.stored_next[train][:, order]
    step = torch.from_numpy(world.schema.fields[0].step).float()
    assert ((stored.inputs - inputs).abs() <= step / 2 + 1e-6).all()
    change = (stored.targets - stored.inputs[..., :3]) - (following - inputs[..., :3])
    step = torch.from_numpy(world.schema.fields[1].step).float()
    assert (change.abs() <= step / 2 + 1e-6).all()


def test_names_are_codes_of_one_body_each_with_its_records():
    world = PhysicsWorld(PhysicsConfig(num_train=3, horizon=2, **{**ONE, "names": 4}), 0)
    assert (world.data.split == 0).sum() == 12
    assert len(torch.unique(world.data.characteristics, dim=0)) == 14
    assert torch.equal(world.data.context[:3].repeat(4, 1), world.data.context[:12])
    assert len(torch.unique(world.data.context, dim=0)) == 5
    batch = world.batch("train", 20, generator())
    assert torch.equal(batch.context[:, 0], world.data.context[batch.world[:, 0]])


def test_splits_share_no_body_and_no_sequence(world):
    splits = ("train", "valid", "test")
    seen = {split: set(world.batch(split, 200, generator()).world.flatten().tolist()) for split in splits}
    assert seen == {"train": set(range(12)), "valid": {12, 13, 14}, "test": {15, 16, 17, 18}}


def test_populating_in_any_order_writes_the_same(world):
    memory = WordStore(24)
    for split in ("test", "valid", "train", "test"):
        world.populate(memory, split)
    expected = populated(world).snapshot()
    actual = memory.snapshot()
    assert (actual.pages == expected.pages).all()
    assert (actual.words == expected.words).all()


def test_train_alone_does_not_write_test_bodies(world):
    memory = WordStore(24)
    world.populate(memory, "train")
    labels = world.batch("test", 4, generator()).labels
    assert not read_one(memory, int(labels.start[0, 0, 0]), 22).any()


def test_units(world):
    batch = world.batch("train", 200, generator())
    assert torch.allclose(batch.current.flatten(0, 1).mean(0), torch.zeros(4), atol=0.1)
    assert torch.allclose(batch.current.flatten(0, 1).std(0), torch.ones(4), atol=0.1)
    change = (batch.target - batch.current[..., :3]) / world.spec.scale
    assert change.square().mean().item() == pytest.approx(1, abs=0.15)
    train = world.data.context[:12]
    assert torch.allclose(train.mean(0), torch.zeros(5), atol=1e-5)
    assert torch.allclose(train.std(0, correction=0), torch.ones(5), atol=1e-4)


def test_past_is_the_input_before(world):
    batch = world.batch("test", 8, generator())
    assert torch.equal(batch.past[:, 0], batch.current[:, 0])
    assert torch.equal(batch.past[:, 1:], batch.current[:, :-1])
    assert torch.allclose(batch.target[:, :-1], batch.current[:, 1:, :3])


def test_bodies_that_share_a_page_lie_apart_and_are_not_keyed():
    crowded = PhysicsConfig(num_train=200, horizon=1, **{**ONE, "address_bits": 16})
    world = PhysicsWorld(crowded, 0)
    assert world.collisions > 0
    assert world.evictions == (~world._alive).sum()
    batch = world.batch("train", 400, generator())
    home = torch.stack([p.address(placement_keys(batch.characteristics[:, 0])) for p in world.placements], dim=-1)
    assert torch.equal(batch.keyed[:, 0], batch.labels.start[:, 0] == home)
    assert torch.equal(batch.labels.start[:, 0] // 256, home // 256)
    memory = populated(world)
    tags = world.placements[0].tag(placement_keys(batch.characteristics[:, 0]), 8)
    for b, table in (batch.labels.length[:, 0] > 0).nonzero()[::10].tolist():
        words = read_one(memory, int(batch.labels.start[b, 0, table]), 22)
        assert (world.schema.unpack(words.reshape(-1, 2))["tag"] == int(tags[b])).all()


def test_outdating_gives_each_body_the_transitions_of_another_under_its_own_tag(world):
    memory = populated(world)
    world.outdate(memory, "test")
    batch = world.batch("test", 8, generator())
    stored = world.stored(batch.world[:, 0])
    others = world.stored(torch.tensor([15, 16, 17, 18])).inputs
    tags = world.placements[0].tag(placement_keys(batch.characteristics[:, 0]), 8)
    for b in range(8):
        for table in range(3):
            start, length = int(batch.labels.start[b, 0, table]), int(batch.labels.length[b, 0, table])
            fields = world.schema.unpack(read_one(memory, start, length).reshape(-1, world.spec.record_words))
            rows = slice(table, None, 3)
            found = torch.from_numpy(fields["inputs"]).float()
            assert not torch.equal(found, stored.inputs[b, rows])
            assert any(torch.equal(found, other[rows]) for other in others)
            assert (fields["tag"] == int(tags[b])).all()
    # Only that split changed.
    true, train = populated(world), world.batch("train", 8, generator()).labels
    for start in train.start[:, 0].flatten().tolist():
        assert (read_one(memory, start, 22) == read_one(true, start, 22)).all()


def test_valid_and_test_bodies_do_not_depend_on_how_many_train():
    few, more = simulate(SMALL, 4), simulate(PhysicsConfig(num_train=14, names=2, num_valid=3, num_test=4), 4)
    assert torch.equal(few.characteristics[-4:], more.characteristics[-4:])
    assert torch.equal(few.following[-8:], more.following[-8:])


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"body": "ant"}, "body 'ant' is not known"),
        ({"records": 2}, "records is 2"),
        ({"body": "cartpoel"}, "did you mean 'cartpole'"),
        ({"num_train": 0}, "num_train is 0"),
        ({"names": 0}, "names is 0"),
        ({"address_bits": 8}, "address_bits is 8"),
        ({"address_bits": 20}, "address_bits 20"),
    ],
)
def test_bad_settings_are_named(settings, named):
    with pytest.raises(ConfigError) as caught:
        PhysicsConfig(**settings)
    assert named in str(caught.value)


def test_blocks_longer_than_a_page_are_refused():
    config = PhysicsConfig(num_train=1, records=129, num_tables=1, **ONE)
    with pytest.raises(ConfigError, match="258 words"):
        PhysicsWorld(config, 0)
