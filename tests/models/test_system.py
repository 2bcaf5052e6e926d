from dataclasses import replace

import numpy as np
import pytest
import torch

from leworld.errors import ConfigError, DataError
from leworld.memory import WordStore
from leworld.models.batched_reads import read_ranges
from leworld.models.slm_health import SLMHealth
from leworld.models.system import ModelConfig, System, from_change
from leworld.types import Ranges
from tests.models.tiny import MODEL, filled, random_query, tiny_trainer, tiny_world

WORLD = tiny_world("physics")


class Counting:
    """A memory that counts what is read."""

    def __init__(self, memory: WordStore) -> None:
        self.memory, self.address_bits, self.words, self.ranges = memory, memory.address_bits, 0, []

    def read(self, start, length):
        self.words += int(length.sum())
        self.ranges += [pair for pair in zip(start.tolist(), length.tolist(), strict=True) if pair[1]]
        return self.memory.read(start, length)


@pytest.fixture
def no_second_looks(monkeypatch) -> None:
    monkeypatch.setattr("leworld.models.system.DOUBTED", 0.0)


def system_of(memory=None) -> System:
    learner = tiny_trainer(WORLD, stirred=True).train_state
    return System(learner.blm, learner.fleet, memory or learner.memory, WORLD.spec)


@pytest.mark.usefixtures("no_second_looks")
def test_unselected_reads_are_never_made():
    counting = Counting(filled(WORLD))
    system, query = system_of(counting), random_query(WORLD.spec, 1)
    best = system.fleet.propose(query).ranges()
    for mask in ([1, 0, 1], [0, 1, 0], [0, 0, 0], [1, 1, 1]):
        counting.words, counting.ranges = 0, []
        step = system.predict(query, mask=torch.tensor([mask]).float())
        wanted = {(int(best.start[0, n]), int(best.length[0, n])) for n in range(3) if mask[n]}
        assert set(counting.ranges) == wanted
        assert counting.words == sum(length for _, length in wanted)
        assert step.reads.length[0].tolist() == [length * on for length, on in zip(best.length[0], mask, strict=True)]


@pytest.mark.usefixtures("no_second_looks")
def test_a_batch_reads_the_distinct_trusted_ranges_once():
    counting = Counting(filled(WORLD))
    system, query = system_of(counting), random_query(WORLD.spec, 32)
    step = system.predict(query)
    assert 0 < step.mask.mean() < 1
    best = step.proposals.ranges()
    trusted = step.mask.bool()
    wanted = set(zip(best.start[trusted].tolist(), best.length[trusted].tolist(), strict=True))
    assert sorted(counting.ranges) == sorted(wanted)
    assert not step.reads.length[~trusted].any()
    assert torch.equal(step.reads.start[trusted], best.start[trusted])


@pytest.mark.usefixtures("no_second_looks")
def test_prediction_equals_its_parts_put_together_by_hand():
    system, query = system_of(), random_query(WORLD.spec, 5)
    step = system.predict(query)
    blm, proposals = system.blm, system.fleet.propose(query)
    senses = blm.sense(query)
    logit = blm.route(senses, proposals).logit
    some = (logit > 0).any(1)
    assert some.any()
    assert torch.equal(step.mask[some], (logit > 0).float()[some])
    # Every proposal read, and what is not trusted kept out by the mask alone.
    reads = read_ranges(system.memory, proposals.ranges(), WORLD.spec.record_words)
    pooled = blm.pool(senses, blm.encode(reads), reads.index)
    slots = blm.slots(pooled, proposals)
    plain = blm.predict(senses, slots, step.mask)
    assert torch.allclose(step.next_state, from_change(WORLD.spec, query.current, plain.change), atol=1e-5)
    shortlist = plain.worth > MODEL.blm.request_price
    assert torch.allclose(step.info_query, plain.request * shortlist.unsqueeze(1), atol=1e-5)
    assert step.next_state.shape == (5, WORLD.spec.target_dim)
    assert not step.next_state.requires_grad


def test_a_fresh_system_asks_nothing_and_one_that_foresees_worth_asks_where_it_is_above_the_price():
    query = random_query(WORLD.spec, 16)
    assert not tiny_trainer(WORLD).train_state.system.predict(query).info_query.any()
    free = tiny_trainer(WORLD, replace(MODEL, blm=replace(MODEL.blm, request_price=0.0)))
    assert not free.train_state.system.predict(query).info_query.any()
    shortlist = {}
    for price in (-1e9, 0.0, 0.1, 1e9):
        model = replace(MODEL, blm=replace(MODEL.blm, request_price=price))
        step = tiny_trainer(WORLD, model, stirred=True).train_state.system.predict(query)
        shortlist[price] = step.info_query.any(1)
    assert shortlist[-1e9].all()
    assert not shortlist[1e9].any()
    # What is worth a higher price is worth a lower one.
    assert not (shortlist[0.1] & ~shortlist[0.0]).any()
    assert 0 < shortlist[0.0].float().mean() < 1


def test_given_ranges_mask_and_redirection_are_obeyed():
    counting = Counting(filled(WORLD))
    system, query = system_of(counting), random_query(WORLD.spec, 2)
    ranges = Ranges(torch.tensor([[4, 8, 16], [32, 64, 128]]), torch.tensor([[1, 2, 0], [4, 5, 6]]))
    mask = torch.tensor([[1.0, 1.0, 1.0], [0.0, 1.0, 0.0]])
    step = system.predict(query, ranges=ranges, mask=mask)
    assert sorted(counting.ranges) == [(4, 1), (8, 2), (64, 5)]
    assert torch.equal(step.mask, mask)
    counting.ranges = []
    system.predict(query, ranges=ranges, mask=mask, redirect=lambda r: replace(r, start=r.start + 1))
    assert sorted(counting.ranges) == [(5, 1), (9, 2), (65, 5)]


@pytest.mark.usefixtures("no_second_looks")
def test_rewriting_a_word_that_was_read_changes_the_prediction_at_once_and_back():
    memory = filled(WORLD)
    system, query = system_of(memory), random_query(WORLD.spec, 1)
    mask = torch.ones(1, 3)
    before = system.predict(query, mask=mask)
    start, length = int(before.reads.start[0, 0]), int(before.reads.length[0, 0])
    kept = memory.read(np.array([start]), np.array([length])).words[None]
    memory.write(np.array([start]), kept ^ 0xFFFFFFFF)
    assert (system.predict(query, mask=mask).next_state - before.next_state).abs().max() > 1e-6
    memory.write(np.array([start]), kept)
    assert torch.equal(system.predict(query, mask=mask).next_state, before.next_state)


def test_prediction_does_not_depend_on_the_rest_of_the_batch():
    system, query = system_of(), random_query(WORLD.spec, 6)
    whole = system.predict(query)
    for b in range(6):
        alone = system.predict(query.map(lambda tensor, b=b: tensor[b : b + 1]))
        assert torch.equal(alone.mask[0], whole.mask[b])
        assert torch.allclose(alone.next_state[0], whole.next_state[b], atol=1e-4)


def standing_that_excludes(*rows: list[int]) -> SLMHealth:
    excluded = torch.tensor(rows, dtype=torch.bool)
    return SLMHealth(excluded.float(), excluded, excluded * 5)


def test_who_is_excluded_is_not_read_and_the_best_of_the_others_is_if_none_would_be_left():
    counting = Counting(filled(WORLD))
    system, query = system_of(counting), random_query(WORLD.spec, 32)
    free = system.predict(query)
    alone = torch.tensor([1.0, 0.0, 0.0])
    assert (free.mask == alone).all(1).any()
    assert (free.mask[:, 0] == 0).any()
    step = system.predict(query, health=standing_that_excludes(*[[1, 0, 0]] * 32))
    assert not step.mask[:, 0].any()
    assert not step.reads.length[:, 0].any()
    others = free.mask[:, 1:].any(1)
    assert torch.equal(step.mask[others, 1:], free.mask[others, 1:])
    logit = system.blm.route(system.blm.sense(query), step.proposals).logit
    lonely = ~others
    assert torch.equal(step.mask[lonely].argmax(1), logit[lonely, 1:].argmax(1) + 1)
    assert torch.equal(step.mask[lonely].sum(1), torch.ones(int(lonely.sum())))


def test_where_nobody_is_allowed_nothing_is_read_and_a_prediction_is_made():
    counting = Counting(filled(WORLD))
    system, query = system_of(counting), random_query(WORLD.spec, 4)
    step = system.predict(query, health=standing_that_excludes(*[[1, 1, 1]] * 4))
    assert counting.ranges == []
    assert not step.mask.any()
    assert not step.read_confidence.any()
    blind = system.predict(query, mask=torch.zeros(4, 3))
    assert torch.equal(step.next_state, blind.next_state)


def test_a_given_mask_is_cut_by_standing_and_nothing_put_in_its_place():
    system, query = system_of(), random_query(WORLD.spec, 2)
    mask = torch.tensor([[1.0, 1.0, 0.0], [1.0, 0.0, 0.0]])
    step = system.predict(query, mask=mask, health=standing_that_excludes([1, 0, 0], [1, 0, 0]))
    assert step.mask.tolist() == [[0, 1, 0], [0, 0, 0]]


def test_believed_is_the_mean_over_the_records_of_a_read():
    system, query = system_of(), random_query(WORLD.spec, 6)
    lengths = torch.tensor([[WORLD.spec.read_words, WORLD.spec.record_words, 0]]).expand(6, 3)
    ranges = Ranges(torch.zeros_like(lengths), lengths)
    step = system.predict(query, ranges=ranges, mask=torch.ones(6, 3))
    senses, reads = system.blm.sense(query), read_ranges(system.memory, ranges, WORLD.spec.record_words)
    belief = torch.sigmoid(system.blm.pool(senses, system.blm.encode(reads), reads.index).belief)
    assert torch.allclose(step.read_confidence[:, 0], belief[:, 0].mean(-1))
    assert torch.allclose(step.read_confidence[:, 1], belief[:, 1, 0])
    assert not step.read_confidence[:, 2].any()


def test_proposals_that_are_known_already_need_no_slm():
    system, query = system_of(), random_query(WORLD.spec, 3)
    before = system.predict(query)
    system.fleet.propose = None
    again = system.predict(query, proposals=before.proposals)
    assert torch.equal(again.next_state, before.next_state)
    assert torch.equal(system.wanted(query, before.proposals), before.mask.bool())


@pytest.mark.parametrize("name", ["past", "current", "characteristics", "info_query"])
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf, 1e20])
def test_numbers_that_are_not_finite_or_too_large_are_refused_by_name_and_place(name, value):
    query = random_query(WORLD.spec, 3)
    broken = getattr(query, name).clone()
    broken[2, 1] = broken[2, 3] = value
    with pytest.raises(DataError) as caught:
        system_of().predict(replace(query, **{name: broken}))
    found = float(broken[2, 1])
    assert str(caught.value) == f"query.{name} is {found} at (2, 1): give numbers within +-1e+12"


@pytest.mark.parametrize("size", [1e3, 1e8, 1e12])
def test_large_numbers_still_read_the_memory_and_give_finite_predictions(size):
    step = system_of().predict(random_query(WORLD.spec, 3).map(lambda x: (x * size).clamp(-1e12, 1e12)))
    assert step.next_state.isfinite().all()


@pytest.mark.parametrize("name", ["past", "current", "characteristics", "info_query"])
@pytest.mark.parametrize(
    "spoil",
    [lambda x: x[:, :-1], lambda x: x[0], lambda x: x[:2], lambda x: x.unsqueeze(1), lambda x: x.double(),
     lambda x: x[:, :0], lambda x: x.long()],
)  # fmt: skip
def test_wrong_shapes_and_types_are_refused_by_name_with_the_needed_one(name, spoil):
    query = random_query(WORLD.spec, 3)
    broken = spoil(getattr(query, name))
    with pytest.raises(DataError) as caught:
        system_of().predict(replace(query, **{name: broken}))
    message = str(caught.value)
    width = getattr(query, name).shape[1]
    if broken.shape == (2, width):
        # Of inputs with several numbers of samples, none is the right one.
        assert "needs (3," in message or "needs (2," in message
    else:
        dtype = str(broken.dtype).removeprefix("torch.")
        assert f"query.{name} has shape {tuple(broken.shape)} of {dtype}" in message
        assert f"physics needs (3, {width}) of float32" in message
    assert "\n" not in message


def test_no_samples_at_all_are_refused():
    with pytest.raises(DataError, match=r"query.current has shape \(0, 4\) of float32: physics needs \(B, 4\)"):
        system_of().predict(random_query(WORLD.spec, 3).map(lambda tensor: tensor[:0]))


@pytest.mark.parametrize("num_slms", [0, -1, 1025])
def test_numbers_of_slms_out_of_range_are_refused(num_slms):
    with pytest.raises(ConfigError, match=f"model.num_slms {num_slms} is outside"):
        ModelConfig(num_slms=num_slms)


def test_any_number_of_slms_makes_a_system():
    for num_slms in (1, 5):
        world = tiny_world("physics", num_tables=num_slms, records=2 * num_slms)
        learner = tiny_trainer(world, replace(MODEL, num_slms=num_slms), stirred=True).train_state
        step = learner.system.predict(random_query(world.spec, 4))
        assert step.mask.shape == (4, num_slms)
        assert (step.mask.sum(1) >= 1).all()
