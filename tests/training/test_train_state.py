import pytest
import torch

from leworld.training.train_state import TrainState
from tests.models.tiny import tiny_trainer, tiny_world


@pytest.fixture(scope="module")
def learner() -> TrainState:
    return tiny_trainer(tiny_world("physics"), stirred=True).train_state


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_samples_are_single_training_transitions_none_twice(learner):
    samples = learner.samples(8, 12, generator())
    batch = samples.batch
    horizon = learner.world.spec.horizon
    assert batch.current.shape == (12, learner.world.spec.state_dim)
    sequences = learner.world.batch("train", 8, generator())
    assert torch.equal(samples.episodes.current, sequences.current)
    places = samples.rows.tolist()
    assert len(set(places)) == 12
    for row, place in enumerate(places):
        assert torch.equal(batch.current[row], sequences.current[place // horizon, place % horizon])
        assert torch.equal(batch.target[row], sequences.target[place // horizon, place % horizon])
    assert len(learner.samples(2, 100, generator()).rows) == 2 * horizon


def test_samples_can_be_those_whose_addresses_follow_from_the_inputs():
    learner = tiny_trainer(tiny_world("pointers")).train_state
    keyed = learner.samples(8, 12, generator(), keyed=True).batch
    assert keyed.keyed.all()
    # Of each chain only the first step is.
    assert len(keyed.current) == 8
    assert not learner.samples(8, 12, generator()).batch.keyed.all()
    learner.labels = False
    assert not learner.samples(8, 12, generator(), keyed=True).batch.keyed.all()
    unkeyed = tiny_trainer(tiny_world("seed")).train_state
    assert len(unkeyed.samples(8, 12, generator(), keyed=True).rows) == 12


def test_what_a_sample_has_seen_is_its_row_of_its_episode(learner):
    samples = learner.samples(8, 12, generator())
    found = learner.seen(samples, 0.0, generator())
    horizon = learner.world.spec.horizon
    for own, place in zip(found, samples.rows.tolist(), strict=True):
        episode = samples.episodes.map(lambda x, b=place // horizon, t=place % horizon: x[b : b + 1, : t + 1])
        assert torch.allclose(own, learner.blm.observe(episode.past, episode.current)[0, -1], atol=1e-4)
    assert found.abs().amax(1).max() > 1e-2
    assert found.requires_grad


def test_what_is_forgotten_is_the_configured_part_and_all_of_it(learner):
    samples = learner.samples(100, 400, generator())
    everything = learner.seen(samples, 0.0, generator())
    assert not learner.seen(samples, 1.0, generator()).any()
    some = learner.seen(samples, 0.3, generator(1))
    kept = (some == everything).all(1)
    assert not some[~kept].any()
    assert (~kept).float().mean().item() == pytest.approx(0.3 * everything.any(1).float().mean().item(), abs=0.06)
    assert torch.equal(learner.seen(samples, 0.3, generator(1)), some)


def test_where_records_are_rules_nothing_is_seen():
    learner = tiny_trainer(tiny_world("rules")).train_state
    assert learner.seen(learner.samples(4, 4, generator()), 0.0, generator()) is None


def test_what_is_to_be_asked_for_is_what_the_next_step_needs_and_no_input_tells():
    learner = tiny_trainer(tiny_world("pointers")).train_state
    samples = learner.samples(6, 100, generator())
    found, labels = learner.to_request(samples), samples.episodes.labels
    horizon = labels.start.shape[1]
    for row, start, length in zip(samples.rows.tolist(), found.start, found.length, strict=True):
        episode, step = divmod(row, horizon)
        last = step + 1 == horizon
        assert start[0] == (0 if last else labels.start[episode, step + 1, 0])
        assert length[0] == (0 if last else labels.length[episode, step + 1, 0])
        # The other tables are found by the key.
        assert not start[1:].any()
        assert not length[1:].any()


@pytest.mark.parametrize("name", ["rules", "physics"])
def test_where_every_step_needs_the_same_nothing_is_to_be_asked_for(name):
    learner = tiny_trainer(tiny_world(name)).train_state
    found = learner.to_request(learner.samples(6, 100, generator()))
    assert not found.start.any()
    assert not found.length.any()


def test_without_labels_nothing_is_to_be_asked_for():
    learner = tiny_trainer(tiny_world("pointers")).train_state
    learner.labels = False
    assert not learner.to_request(learner.samples(6, 100, generator())).length.any()


def test_no_request_means_zeros(learner):
    batch = learner.samples(2, 4, generator()).batch
    assert learner.query(batch).info_query.tolist() == [[0.0] * learner.blm.config.query_dim] * 4
    request = torch.ones(4, learner.blm.config.query_dim)
    assert learner.query(batch, request).info_query is request
