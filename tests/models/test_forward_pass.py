import pytest
import torch

from leworld.models.batched_reads import read_ranges
from leworld.models.forward_pass import ForwardPass
from leworld.models.tag_head import SURE
from leworld.training.train_state import TrainState
from leworld.types import Ranges
from tests.models.tiny import random_query, tiny_trainer, tiny_world


@pytest.fixture(scope="module")
def state() -> TrainState:
    return tiny_trainer(tiny_world("physics"), stirred=True).train_state


def begun(state: TrainState, samples: int) -> ForwardPass:
    """A pass that read what its SLMs proposed."""
    forward = ForwardPass(state.system, random_query(state.world.spec, samples))
    forward.sense()
    (forward.index,) = forward.read(forward.propose().ranges())
    return forward


def test_reading_several_sets_at_once_equals_reading_each_alone(state):
    sets = [
        Ranges(torch.tensor([[3, 9, 8], [3, 700, 3]]), torch.tensor([[4, 0, 2], [4, 20, 5]])),
        Ranges(torch.tensor([[[3], [5], [8]], [[9], [3], [8]]]), torch.tensor([[[5], [1], [2]], [[0], [4], [9]]])),
    ]
    forward = ForwardPass(state.system, random_query(state.world.spec, 2))
    indices, senses = forward.read(*sets), forward.sense()
    for ranges, index in zip(sets, indices, strict=True):
        assert index.shape == ranges.start.shape
        alone = read_ranges(state.memory, ranges, state.world.spec.record_words)
        expected = state.blm.pool(senses, state.blm.encode(alone), alone.index).content
        forward.look(index)
        assert torch.allclose(forward.pooled.content, expected, atol=1e-5)


def test_a_pass_that_expects_records_has_their_tags_where_it_is_told_and_its_own_elsewhere(state):
    forward = begun(state, 2)
    told = forward.expect(forward.index, torch.tensor([[True], [False]])).senses.tags
    assert torch.equal(told[0], SURE * forward.records.tags[forward.index[0], 0])
    assert torch.equal(told[1], forward.senses.tags[1])
    assert not torch.equal(told[0], forward.senses.tags[0])


def test_some_of_the_samples_find_what_all_find(state):
    forward, rows = begun(state, 5), torch.tensor([3, 0])
    forward.look(forward.index)
    some = forward.at(rows)
    some.look(forward.index[rows])
    assert torch.allclose(some.pooled.content, forward.pooled.content[rows], atol=1e-5)


def test_proposals_that_are_known_are_not_asked_for(state):
    forward = begun(state, 3)
    again = ForwardPass(state.system, forward.query, torch.tensor([[0, 2], [1, 2], [0, 1]]))
    found = again.propose(forward.proposals)
    assert found.start[1].equal(forward.proposals.start[1, 1:])
