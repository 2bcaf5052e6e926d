"""What holds for every world: shapes, determinism, splits, keys, and that a world can be sent."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from leworld.errors import ConfigError
from leworld.memory import WordStore, unpack_bits
from leworld.worlds import WORLDS, World, build_world
from leworld.worlds.trajectories import TrajectoryWorld
from tests.worlds.reading import assert_same, generator, populated

SETTINGS = {
    "seed": {"num_train": 20},
    "rules": {"difficulty": "medium"},
    "pointers": {"depth": 4},
    "physics": {"num_train": 6, "num_valid": 2, "num_test": 2, "sequences_per_body": 2},
    "arrays": {"records": 6, "horizon": 4},
}


@pytest.fixture(scope="module")
def path(tmp_path_factory) -> Path:
    random = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("arrays") / "data.npz"
    characteristics = random.standard_normal((12, 5))
    np.savez(path, states=random.standard_normal((12, 21, 3)), characteristics=characteristics)
    return path


@pytest.fixture(scope="module", params=sorted(WORLDS))
def name(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def world(name: str, path: Path) -> World:
    return _build(name, path, 0)


def _build(name: str, path: Path, seed: int) -> World:
    return build_world(name, {**SETTINGS[name], **({"path": str(path)} if name == "arrays" else {})}, seed)


@pytest.mark.parametrize("split", ["train", "valid", "test"])
def test_batches_have_the_shapes_of_the_spec(world, name, split):
    batch, spec = world.batch(split, 5, generator()), world.spec
    lead = (5, spec.horizon)
    assert spec.name == name
    assert batch.past.shape == batch.current.shape == (*lead, spec.state_dim)
    assert batch.target.shape == (*lead, spec.target_dim)
    assert batch.characteristics.shape == (*lead, spec.char_dim)
    assert batch.labels.start.shape == batch.labels.length.shape == batch.keyed.shape == (*lead, spec.num_tables)
    assert spec.scale.shape == (spec.target_dim,)
    assert batch.context is None if spec.context_dim == 0 else batch.context.shape == (*lead, spec.context_dim)
    assert batch.labels.start.dtype == batch.labels.length.dtype == torch.int64
    assert batch.keyed.dtype == torch.bool
    floats = (batch.past, batch.current, batch.target, batch.characteristics, spec.scale)
    assert {tensor.dtype for tensor in floats} == {torch.float32}
    assert all(tensor.isfinite().all() for tensor in floats)


@pytest.mark.parametrize("batch_size", [1, 7, 20])
def test_keys_have_the_shapes_of_the_spec(world, batch_size):
    keys, spec = world.keys(batch_size, generator()), world.spec
    assert keys.past.shape == keys.current.shape == (batch_size, spec.state_dim)
    assert keys.characteristics.shape == (batch_size, spec.char_dim)
    assert keys.labels.start.shape == keys.labels.length.shape == (batch_size, spec.num_tables)
    assert keys.past.dtype == keys.characteristics.dtype == torch.float32


def test_labels_lie_in_the_memory_and_are_no_longer_than_said(world):
    for labels in (world.batch("train", 50, generator()).labels, world.keys(50, generator()).labels):
        assert labels.start.min() >= 0
        assert (labels.start + labels.length).max() <= 2**world.spec.address_bits
        assert labels.length.max() == world.spec.read_words or world.spec.name == "seed"
        assert labels.length.max() <= world.spec.read_words


def bits_at(memory: WordStore, start: torch.Tensor, record_words: int) -> np.ndarray:
    """(R, bits) the records at (R,) addresses, bit by bit."""
    words = memory.read(start.numpy(), np.full(len(start), record_words)).words
    return unpack_bits(words, np.uint8).reshape(len(start), -1)


def test_tags_of_keys_are_those_in_the_records_at_their_addresses(world, name, monkeypatch):
    first, count = world.spec.tag
    if isinstance(world, TrajectoryWorld):
        # Fresh keys are of bodies that do not exist; those of the world's own bodies are in the memory.
        own = world.data.characteristics
        monkeypatch.setattr(world, "sample_characteristics", lambda count, random: own[torch.arange(count) % len(own)])
        assert world.collisions == 0
    keys = world.keys(40, generator())
    if name == "seed":
        assert (keys.tags, count) == (None, 0)
        return
    assert keys.tags.shape == keys.labels.start.shape
    assert keys.tags.dtype == torch.int64
    bits = bits_at(populated(world), keys.labels.start.flatten(), world.spec.record_words)
    found = (bits[:, first : first + count].astype(np.int64) << np.arange(count)).sum(1)
    assert found.tolist() == keys.tags.flatten().tolist()
    assert len(set(found.tolist())) > 5


def test_what_records_hold_is_linear_in_their_bits_where_their_schema_is_known(world):
    if not isinstance(world, TrajectoryWorld):
        assert world.spec.decode is None
        return
    labels, size = world.batch("test", 20, generator()).labels, world.spec.record_words
    bits = bits_at(populated(world), labels.start.flatten(), world.spec.read_words).reshape(-1, 32 * size)
    decode = world.spec.decode
    values = torch.from_numpy(bits).float() @ decode[:-1] + decode[-1]
    words = np.packbits(bits, axis=1, bitorder="little").view("<u4")
    fields = {name: torch.from_numpy(rows).float() for name, rows in world.schema.unpack(words).items()}
    expected = torch.cat([fields["inputs"], fields["deltas"] / world.spec.scale], dim=1)
    assert torch.allclose(values, expected, atol=1e-4)
    # About unit size, as is what is seen beside them.
    assert 0.1 < values.std() < 10


def test_same_seed_same_bits(world, name, path):
    other = _build(name, path, 0)
    for split in ("train", "valid", "test"):
        assert_same(world.batch(split, 4, generator(1)), other.batch(split, 4, generator(1)))
    assert_same(world.keys(9, generator(1)), other.keys(9, generator(1)))
    first, second = populated(world).snapshot(), populated(other).snapshot()
    assert np.array_equal(first.pages, second.pages)
    assert np.array_equal(first.words, second.words)


def test_other_seed_other_samples(world, name, path):
    other = _build(name, path, 1)
    same = world.batch("train", 4, generator(1)).current == other.batch("train", 4, generator(1)).current
    assert same.float().mean() < 0.1


def test_other_generator_other_samples_and_the_generator_goes_on(world):
    source = generator(2)
    first, second = world.batch("train", 8, source), world.batch("train", 8, source)
    assert not torch.equal(first.current, second.current)


def test_splits_never_share_a_key_even_with_one_generator(world):
    seen = [world.batch(split, 50, generator()).characteristics for split in ("train", "valid", "test")]
    seen.append(world.keys(50, generator()).characteristics)
    rows = [{tuple(row) for row in values.reshape(-1, values.shape[-1]).tolist()} for values in seen]
    assert len(set.union(*rows)) == sum(len(part) for part in rows)


@pytest.mark.parametrize("filled", [True, False])
def test_outdating_changes_what_the_labels_of_test_worlds_name_and_not_the_truth(world, filled):
    before = world.batch("test", 30, generator())
    memory, true = populated(world) if filled else WordStore(world.spec.address_bits), populated(world)
    world.outdate(memory, "test")
    assert_same(before, world.batch("test", 30, generator()))
    known = before.labels.length > 0
    start, length = before.labels.start[known].numpy(), before.labels.length[known].numpy()
    old, new = memory.read(start, length).words, true.read(start, length).words
    assert old.any()
    assert (old != new).mean() > 0.3


def test_outdating_is_repeatable_and_populating_again_mends_it(world):
    memory, again, true = populated(world), WordStore(world.spec.address_bits), populated(world)
    world.outdate(memory, "test")
    for _ in range(2):
        world.outdate(again, "test")
    before = world.batch("test", 30, generator()).labels
    known = before.length > 0
    start, length = before.start[known].numpy(), before.length[known].numpy()
    assert (memory.read(start, length).words == again.read(start, length).words).all()
    for split in ("train", "valid", "test"):
        world.populate(memory, split)
    assert (memory.read(start, length).words == true.read(start, length).words).all()


def test_world_survives_pickling(world):
    other = pickle.loads(pickle.dumps(world))
    assert_same(world.batch("test", 4, generator()), other.batch("test", 4, generator()))


def test_global_generators_are_left_alone(world, name, path):
    torch.manual_seed(5)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    _build(name, path, 3).batch("train", 4, generator())
    assert torch.equal(before[0], torch.get_rng_state())
    assert np.array_equal(before[1], np.random.get_state()[1])  # noqa: NPY002


@pytest.mark.parametrize(
    ("name", "settings", "named"),
    [
        ("phisics", {}, "'physics'"),
        ("rules", {"dificulty": "easy"}, "'difficulty'"),
        ("rules", {"zzz": 1}, "use difficulty"),
        ("rules", {"horizon": "8"}, "horizon is '8', not of type int"),
        ("rules", {"horizon": True}, "horizon is True"),
        ("rules", {"noise": None}, "noise is None"),
        ("rules", {"difficulty": 3}, "difficulty is 3"),
        ("arrays", {}, "path is empty"),
    ],
)
def test_bad_settings_are_named_with_the_nearest_known(name, settings, named):
    with pytest.raises(ConfigError) as caught:
        build_world(name, settings, 0)
    assert named in str(caught.value)
    assert "\n" not in str(caught.value)


def test_negative_seed_is_refused():
    with pytest.raises(ConfigError, match="seed is -1"):
        build_world("rules", {}, -1)


def test_whole_numbers_and_none_are_taken_where_they_fit():
    world = build_world("rules", {"noise": 0, "hash_bits": None}, 0)
    assert world.spec.floor == 0
