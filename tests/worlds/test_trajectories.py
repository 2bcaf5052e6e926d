"""Memory written in part, and rewritten."""

import numpy as np
import pytest
import torch

from leworld.errors import ConfigError
from leworld.memory import WordStore
from leworld.worlds import ArraysWorld, PhysicsConfig, PhysicsWorld, Rewritable
from tests.worlds.reading import assert_same, generator, populated, read_one

SMALL = PhysicsConfig(
    body="cartpole", num_train=6, names=1, num_valid=2, num_test=4, records=9, horizon=3, address_bits=24
)


@pytest.fixture
def world() -> PhysicsWorld:
    return PhysicsWorld(SMALL, 0)


def _blocks(world: PhysicsWorld, memory: WordStore, body: int) -> np.ndarray:
    """(N, rows, record words) what memory holds of a body."""
    words = [read_one(memory, int(start), world.spec.read_words) for start in world._start[body]]
    return np.stack(words).reshape(world.num_tables, -1, world.spec.record_words)


@pytest.mark.parametrize("records", range(10))
def test_the_first_records_go_round_the_tables(world, records):
    memory, whole = WordStore(24), populated(world)
    receipts = world.populate(memory, "test", records)
    assert sum(receipt.length.sum() for receipt in receipts) == 4 * records * world.spec.record_words
    for body in range(8, 12):
        part, full = _blocks(world, memory, body), _blocks(world, whole, body)
        for record in range(9):
            row, table = divmod(record, 3)
            expected = full[table, row] if record < records else np.zeros_like(full[table, row])
            assert (part[table, row] == expected).all()
    assert not _blocks(world, memory, 0).any()


def test_all_records_are_the_default(world):
    first, second = WordStore(24), WordStore(24)
    world.populate(first, "train")
    world.populate(second, "train", 9)
    assert (first.snapshot().words == second.snapshot().words).all()


def test_what_follows_the_first_records_stays(world):
    memory = populated(world)
    world.outdate(memory, "test")
    old = _blocks(world, memory, 8)
    world.populate(memory, "test", 2)
    new, true = _blocks(world, memory, 8), _blocks(world, populated(world), 8)
    assert (new[:2, 0] == true[:2, 0]).all()
    assert (new[2] == old[2]).all()
    assert (new[:, 1:] == old[:, 1:]).all()


def test_stored_is_cut_like_memory(world):
    bodies = torch.tensor([[8, 9], [1, 8]])
    whole = world.stored(bodies)
    assert whole.inputs.shape == (2, 2, 9, 6)
    for records in (0, 1, 5, 9):
        part = world.stored(bodies, records)
        assert torch.equal(part.inputs, whole.inputs[..., :records, :])
        assert torch.equal(part.targets, whole.targets[..., :records, :])
    blocks = _blocks(world, populated(world), 8)
    for record in range(9):
        row, table = divmod(record, 3)
        read = world.schema.unpack(blocks[table, row][None])["inputs"]
        assert torch.equal(torch.from_numpy(read).float()[0], whole.inputs[0, 0, record])


@pytest.mark.parametrize("records", [-1, 10])
def test_records_that_are_not_there_are_refused(world, records):
    with pytest.raises(ConfigError, match=rf"records is {records}, outside \[0, 9\]"):
        world.populate(WordStore(24), "test", records)
    with pytest.raises(ConfigError, match=rf"records is {records}"):
        world.stored(torch.tensor([0]), records)


@pytest.mark.parametrize("body", ["pendulum", "cartpole"])
def test_twice_the_records_fit_three_tables(body):
    config = PhysicsConfig(
        body=body, num_train=2, names=1, num_valid=1, num_test=1, records=66, horizon=1, address_bits=24
    )
    world = PhysicsWorld(config, 0)
    assert world.stored(torch.tensor([0])).inputs.shape[1] == 66
    assert world.spec.read_words == 22 * world.spec.record_words


def test_rewriting_keeps_keys_addresses_units_and_tags(world):
    old, memory = PhysicsWorld(SMALL, 0), populated(world)
    world.rewrite(memory, 1)
    assert torch.equal(world.data.characteristics, old.data.characteristics)
    assert (world._start == old._start).all()
    assert torch.equal(world.spec.scale, old.spec.scale)
    assert world.schema.fields == old.schema.fields
    for body in range(12):
        rows = world.schema.unpack(_blocks(world, memory, body).reshape(9, -1))
        assert (rows["tag"] == old._tags[body]).all()


def test_rewriting_deals_the_physics_out_anew_and_all_of_it_is_written(world):
    old, memory = PhysicsWorld(SMALL, 0), populated(world)
    receipt = world.rewrite(memory, 1)
    assert receipt.length.sum() == 12 * 3 * world.spec.read_words
    for split in range(3):
        bodies = (old.data.split == split).nonzero().squeeze(1)
        assert torch.equal(world.data.context[bodies.roll(-1)], old.data.context[bodies])
        assert not (world.data.context[bodies] == old.data.context[bodies]).all(1).any()
    for body in range(12):
        rows = world.schema.unpack(_blocks(world, memory, body).swapaxes(0, 1).reshape(9, -1))
        stored = world.stored(torch.tensor(body)).inputs
        assert torch.equal(torch.from_numpy(rows["inputs"]).float(), stored)
        assert not torch.equal(stored, old.stored(torch.tensor(body)).inputs)


@pytest.mark.parametrize("version", [1, 3])
def test_the_same_draw_is_the_same_sequences_under_other_codes(world, version):
    before = world.batch("test", 9, generator())
    world.rewrite(populated(world), version)
    after = world.batch("test", 9, generator())
    for name in ("past", "current", "target", "context"):
        assert torch.equal(getattr(before, name), getattr(after, name))
    assert torch.equal(after.context, world.data.context[after.world])
    assert not (after.world == before.world).any()
    assert torch.equal(after.characteristics, world.data.characteristics[after.world])
    old, new = PhysicsWorld(SMALL, 0).stored(before.world[:, 0]), world.stored(after.world[:, 0])
    assert torch.equal(old.inputs, new.inputs)
    assert torch.equal(old.targets, new.targets)


def test_versions_are_repeatable_and_nought_is_the_first(world):
    first, second, true = populated(world), populated(world), populated(world)
    before = world.batch("train", 9, generator())
    world.rewrite(first, 2)
    again = PhysicsWorld(SMALL, 0)
    again.rewrite(second, 1)
    again.rewrite(second, 2)
    assert (first.snapshot().words == second.snapshot().words).all()
    assert_same(world.batch("test", 9, generator()), again.batch("test", 9, generator()))
    world.rewrite(first, 0)
    assert (first.snapshot().words == true.snapshot().words).all()
    assert_same(before, world.batch("train", 9, generator()))


def test_outdating_and_populating_follow_the_new_physics(world):
    memory, fresh = populated(world), WordStore(24)
    world.rewrite(memory, 1)
    for split in ("train", "valid", "test"):
        world.populate(fresh, split)
    assert (memory.snapshot().words == fresh.snapshot().words).all()
    world.outdate(memory, "test")
    rows = world.schema.unpack(_blocks(world, memory, 9).swapaxes(0, 1).reshape(9, -1))
    assert torch.equal(torch.from_numpy(rows["inputs"]).float(), world.stored(torch.tensor(8)).inputs)


def test_only_worlds_that_can_be_rewritten_say_so(world):
    assert isinstance(world, Rewritable)
    assert not issubclass(ArraysWorld, Rewritable)
