"""Units, records and placement of trajectories, without their data."""

import json

import numpy as np
import torch

from leworld.worlds import PhysicsConfig, PhysicsWorld
from leworld.worlds.transition_format import TransitionFormat
from tests.worlds.reading import populated, read_one

SMALL = PhysicsConfig(
    body="cartpole", num_train=6, names=1, num_valid=2, num_test=4, records=9, horizon=3, address_bits=24
)


def test_json_gives_the_same_bits_back():
    world = PhysicsWorld(SMALL, 3)
    again = TransitionFormat.from_json(json.loads(json.dumps(world.format.to_json())))
    assert again.schema == world.schema
    assert torch.equal(again.inputs.mean, world.format.inputs.mean)
    assert torch.equal(again.inputs.std, world.format.inputs.std)
    assert again.characteristics is None
    keys = torch.randn(50, SMALL.char_dim)
    assert torch.equal(again.home(keys), world.format.home(keys))
    assert torch.equal(again.tags(keys), world.format.tags(keys))


def test_a_block_is_what_the_world_writes():
    world = PhysicsWorld(SMALL, 0)
    memory = populated(world)
    for body in np.flatnonzero(world._at_home.all(1)):
        data = world.data
        block = world.format.block(data.characteristics[body], data.stored_inputs[body], data.stored_next[body])
        home = world.format.home(data.characteristics[body])
        for table in range(3):
            assert (read_one(memory, int(home[table]), world.spec.read_words) == block[table]).all()
