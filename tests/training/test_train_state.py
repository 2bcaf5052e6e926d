import math

import pytest
import torch

from leworld.models.batched_reads import read_ranges
from leworld.models.pooling import Pooled
from leworld.training.train_state import ReadNoise, TrainState, add_read_noise, verify_loss
from leworld.types import Ranges
from tests.models.tiny import random_query, tiny_trainer, tiny_world


@pytest.fixture(scope="module")
def learner() -> TrainState:
    return tiny_trainer(tiny_world("physics"), stirred=True).learner


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def own_ranges(batch: int, slms: int = 3) -> Ranges:
    """Every read of every sample is at an address of its own."""
    start = torch.arange(batch * slms).view(batch, slms)
    return Ranges(start, start % 7 + 1)


@pytest.mark.parametrize("irrelevant", [0.0, 0.3, 0.5, 1.0])
def test_irrelevant_reads_are_as_many_as_configured_and_of_other_samples(irrelevant):
    ranges = own_ranges(20_000)
    noisy = add_read_noise(ranges, ReadNoise(irrelevant, 0.0, 0.0), generator())
    share = (noisy.ranges.start != ranges.start).float().mean().item()
    assert share == pytest.approx(irrelevant, abs=0.01)
    assert torch.equal(noisy.wrong, noisy.ranges.start != ranges.start)
    # Another sample's read is that of the same SLM, at its own length.
    assert torch.equal(noisy.ranges.start % 3, ranges.start % 3)
    assert torch.equal(noisy.ranges.length, noisy.ranges.start % 7 + 1)
    assert (noisy.kept == 1).all()


def test_at_least_30_percent_are_irrelevant_by_default_also_in_small_batches():
    shares = [
        add_read_noise(own_ranges(256), ReadNoise(0.3, 0.2, 0.1), generator(seed)).wrong.float() for seed in range(60)
    ]
    assert torch.cat(shares).mean() > 0.29


def test_half_of_the_wrong_reads_come_with_all_others_wrong():
    wrong = add_read_noise(own_ranges(20_000), ReadNoise(0.3, 0.0, 0.0), generator()).wrong
    alone = 0.15 / 0.85
    assert wrong.all(1).float().mean().item() == pytest.approx(0.15 + 0.85 * alone**3, abs=0.01)
    assert (~wrong).all(1).float().mean().item() == pytest.approx(0.85 * (1 - alone) ** 3, abs=0.01)


@pytest.mark.parametrize(("dropped", "blind"), [(0.2, 0.0), (0.0, 0.1), (0.2, 0.1), (1.0, 0.0), (0.0, 1.0)])
def test_reads_are_dropped_and_samples_blinded_as_configured(dropped, blind):
    kept = add_read_noise(own_ranges(20_000), ReadNoise(0.0, dropped, blind), generator()).kept
    assert set(kept.flatten().tolist()) <= {0.0, 1.0}
    assert kept.mean().item() == pytest.approx((1 - dropped) * (1 - blind), abs=0.01)
    assert (kept == 0).all(1).float().mean().item() == pytest.approx(blind + (1 - blind) * dropped**3, abs=0.01)


def test_unknown_labels_are_never_kept():
    ranges = own_ranges(4000)
    ranges = Ranges(ranges.start, ranges.length * (ranges.start % 2))
    noisy = add_read_noise(ranges, ReadNoise(0.5, 0.0, 0.0), generator())
    assert torch.equal(noisy.kept, (noisy.ranges.length > 0).float())
    assert 0.4 < noisy.kept.mean() < 0.6


def test_of_some_samples_only_the_first_records_of_each_read_are_left():
    start = torch.arange(60_000).view(20_000, 3)
    whole = Ranges(start, torch.full_like(start, 10))
    noisy = add_read_noise(whole, ReadNoise(0.0, 0.0, 0.0, cut=0.6), generator(), record_words=2)
    length = noisy.ranges.length
    assert torch.equal(noisy.ranges.start, start)
    assert not noisy.wrong.any()
    # Any number of records from none to all five may be left, alike in all reads of a sample.
    assert (length == length[:, :1]).all()
    for records in range(6):
        share = 0.6 / 6 + 0.4 * (records == 5)
        assert (length == 2 * records).float().mean().item() == pytest.approx(share, abs=0.015)
    assert torch.equal(noisy.kept, (length > 0).float())
    assert torch.equal(
        add_read_noise(whole, ReadNoise(0.0, 0.0, 0.0), generator(), record_words=2).ranges.length, whole.length
    )


def test_a_read_of_one_record_is_never_cut():
    ranges = own_ranges(1000)
    noisy = add_read_noise(ranges, ReadNoise(0.0, 0.0, 0.0, cut=1.0), generator(), record_words=7)
    assert torch.equal(noisy.ranges.length, ranges.length)


def test_spoiling_follows_from_the_generator_alone():
    read_noise = ReadNoise(0.3, 0.2, 0.1)
    first, same, other = (add_read_noise(own_ranges(64), read_noise, generator(seed)) for seed in (1, 1, 2))
    assert torch.equal(first.ranges.start, same.ranges.start)
    assert torch.equal(first.kept, same.kept)
    assert not torch.equal(first.ranges.start, other.ranges.start)
    assert not torch.equal(first.kept, other.kept)


def test_one_sample_has_no_other_to_take_from():
    noisy = add_read_noise(own_ranges(1), ReadNoise(1.0, 0.0, 0.0), generator())
    assert not noisy.wrong.any()


def pooled_of(belief: torch.Tensor, valid: torch.Tensor) -> Pooled:
    nothing = torch.zeros(*belief.shape[:2], 4)
    return Pooled(content=nothing, notes=nothing, belief=belief, valid=valid)


def test_verify_loss_is_the_cross_entropy_of_believing_where_it_is_known():
    belief = torch.tensor([[[2.0, -1.0], [0.5, 9.0]], [[-90.0, 90.0], [0.0, -3.0]]], requires_grad=True)
    valid = torch.tensor([[[True, True], [True, True]], [[True, True], [True, False]]])
    wrong = torch.tensor([[True, False], [False, True]])
    known = torch.tensor([[True, False], [True, True]])
    # Sample 0 knows of its first read that it is wrong; sample 1 that its first is right and its second wrong.
    plain = [math.log1p(math.exp(2)), math.log1p(math.exp(-1)), 90.0, 0.0, math.log(2)]
    loss = verify_loss(pooled_of(belief, valid), wrong, known)
    assert loss.item() == pytest.approx(sum(plain) / 5, rel=1e-5)
    loss.backward()
    assert belief.grad[0, 0].min() > 0
    assert belief.grad[1, 0, 0] < 0
    assert belief.grad[0, 1].tolist() == [0, 0]
    assert belief.grad[1, 1, 1] == 0


def test_nothing_known_costs_nothing():
    pooled = pooled_of(torch.ones(1, 2, 3), torch.ones(1, 2, 3, dtype=torch.bool))
    none = torch.zeros(1, 2, dtype=torch.bool)
    assert verify_loss(pooled, none, none).item() == 0


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
    learner = tiny_trainer(tiny_world("pointers")).learner
    keyed = learner.samples(8, 12, generator(), keyed=True).batch
    assert keyed.keyed.all()
    # Of each chain only the first step is.
    assert len(keyed.current) == 8
    assert not learner.samples(8, 12, generator()).batch.keyed.all()
    learner.labels = False
    assert not learner.samples(8, 12, generator(), keyed=True).batch.keyed.all()
    unkeyed = tiny_trainer(tiny_world("seed")).learner
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
    learner = tiny_trainer(tiny_world("rules")).learner
    assert learner.seen(learner.samples(4, 4, generator()), 0.0, generator()) is None


def test_what_is_to_be_asked_for_is_what_the_next_step_needs_and_no_input_tells():
    learner = tiny_trainer(tiny_world("pointers")).learner
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
    learner = tiny_trainer(tiny_world(name)).learner
    found = learner.to_request(learner.samples(6, 100, generator()))
    assert not found.start.any()
    assert not found.length.any()


def test_without_labels_nothing_is_to_be_asked_for():
    learner = tiny_trainer(tiny_world("pointers")).learner
    learner.labels = False
    assert not learner.to_request(learner.samples(6, 100, generator())).length.any()


def test_reading_several_sets_at_once_equals_reading_each_alone(learner):
    sets = [
        Ranges(torch.tensor([[3, 9, 8], [3, 700, 3]]), torch.tensor([[4, 0, 2], [4, 20, 5]])),
        Ranges(torch.tensor([[[3], [5], [8]], [[9], [3], [8]]]), torch.tensor([[[5], [1], [2]], [[0], [4], [9]]])),
    ]
    records, indices = learner.read(*sets)
    senses = learner.blm.sense(random_query(learner.world.spec, 2))
    for ranges, index in zip(sets, indices, strict=True):
        assert index.shape == ranges.start.shape
        alone = read_ranges(learner.memory, ranges, learner.world.spec.record_words)
        expected = learner.blm.pool(senses, learner.blm.encode(alone), alone.index).content
        assert torch.allclose(learner.blm.pool(senses, records, index).content, expected, atol=1e-5)


def test_no_request_means_zeros(learner):
    batch = learner.samples(2, 4, generator()).batch
    assert learner.query(batch).info_query.tolist() == [[0.0] * learner.blm.config.query_dim] * 4
    shortlist = torch.ones(4, learner.blm.config.query_dim)
    assert learner.query(batch, shortlist).info_query is shortlist
