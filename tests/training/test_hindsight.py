"""Against a judge whose error is known: it predicts the sum of what the slots hold that the mask lets through."""

import itertools
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from leworld.models.blm import Slots
from leworld.models.pooling import Senses
from leworld.training.hindsight import best_masks, candidate_credit, masks_to_score, variant_errors

SENSES = Senses(torch.zeros(2, 3), torch.zeros(2, 3), torch.zeros(2, 3, 0))


class Adder:
    """A BLM whose change is the sum of all that the trusted slots hold."""

    def predict(self, senses, slots, mask):
        assert len(senses.state) == len(slots.content) == len(slots.notes) == len(slots.moments) == len(mask)
        told = slots.content + slots.notes + slots.moments
        return SimpleNamespace(change=(mask.unsqueeze(-1) * told).sum(1) + senses.drift)


def parted(total: torch.Tensor) -> Slots:
    """Slots that add up to ``total``, a part of it in each of content, notes and moments."""
    part, other = torch.rand(2, *total.shape, generator=torch.Generator().manual_seed(3)) / 2
    return Slots(part * total, other * total, (1 - part - other) * total)


def first_of(alternatives: Slots) -> Slots:
    return alternatives.map(lambda tensor: tensor[:, :, 0])


@pytest.mark.parametrize(("num_slms", "variants"), [(1, 1), (2, 3), (3, 7), (4, 15), (5, 11), (8, 17)])
def test_masks_are_all_where_few_and_else_all_one_left_out_or_one_alone(num_slms, variants):
    masks = masks_to_score(num_slms)
    assert masks.shape == (variants, num_slms)
    assert len(masks.unique(dim=0)) == variants
    assert (masks.sum(1) >= 1).all()
    if num_slms > 4:
        assert set(masks.sum(1).tolist()) == {1.0, num_slms - 1.0, float(num_slms)}


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**20), st.integers(1, 4), st.sampled_from([0.0, 0.01, 1.0]))
def test_best_mask_is_the_cheapest_of_all(seed, num_slms, price):
    random = torch.Generator().manual_seed(seed)
    slots, change = torch.randn(2, num_slms, 3, generator=random), torch.randn(2, 3, generator=random)
    found = best_masks(Adder(), SENSES, parted(slots), change, price)
    for b in range(2):
        costs = {}
        for mask in itertools.product((0.0, 1.0), repeat=num_slms):
            if any(mask):
                error = (sum(on * slots[b, n] for n, on in enumerate(mask)) - change[b]).square().mean().item()
                costs[mask] = error + price * sum(mask)
        assert costs[tuple(found[b].tolist())] == pytest.approx(min(costs.values()), abs=1e-5)


def test_a_read_that_tells_nothing_is_not_worth_its_price():
    slots = torch.zeros(2, 3, 3)
    slots[:, 0], slots[:, 2] = 1.0, 2.0
    change = torch.full((2, 3), 3.0)
    assert best_masks(Adder(), SENSES, parted(slots), change, 0.001).tolist() == [[1, 0, 1]] * 2
    # Leaving out slot 0 costs an error of 1: at a higher price only the better read remains.
    assert best_masks(Adder(), SENSES, parted(slots), change, 0.99).tolist() == [[1, 0, 1]] * 2
    assert best_masks(Adder(), SENSES, parted(slots), change, 1.01).tolist() == [[0, 0, 1]] * 2


def test_the_wrong_one_of_many_is_left_out():
    slots = torch.ones(2, 6, 3)
    slots[0, 4] = slots[1, 1] = 9.0
    found = best_masks(Adder(), SENSES, parted(slots), torch.full((2, 3), 5.0), 0.001)
    assert found.tolist() == [[1, 1, 1, 1, 0, 1], [1, 0, 1, 1, 1, 1]]


def test_variants_are_judged_one_by_one_on_the_same_samples():
    random = torch.Generator().manual_seed(0)
    slots = parted(torch.randn(4, 2, 3, 3, generator=random))
    masks = torch.randint(0, 2, (4, 3), generator=random).float()
    senses = replace(SENSES, drift=torch.randn(2, 3, generator=random))
    change = torch.randn(2, 3, generator=random)
    found = variant_errors(Adder(), senses, slots, masks, change)
    for v in range(4):
        variant = slots.map(lambda tensor, v=v: tensor[v])
        prediction = Adder().predict(senses, variant, masks[v].expand(2, 3)).change
        assert torch.allclose(found[v], (prediction - change).square().mean(-1))
    assert not found.requires_grad


def test_credit_goes_to_the_candidate_that_explains():
    alternatives = torch.zeros(2, 3, 4, 3)
    alternatives[0, 1, 2] = alternatives[1, 2, 3] = 1.0
    slots, change = parted(alternatives), torch.ones(2, 3)
    target, weight = candidate_credit(Adder(), SENSES, first_of(slots), slots, change, temperature=0.2)
    assert target.shape == (2, 3, 4)
    assert torch.allclose(target.sum(-1), torch.ones(2, 3))
    assert target[0, 1].argmax() == 2
    assert target[1, 2].argmax() == 3
    assert target[0, 1, 2] > 0.95
    assert weight[0, 1] == pytest.approx(1)
    # Where candidates are alike none is taught.
    assert torch.allclose(target[0, 0], torch.full((4,), 0.25))
    assert weight[0, 0] == weight[0, 2] == weight[1, 0] == 0


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 2**20), st.integers(1, 3), st.integers(2, 4))
def test_credit_equals_trying_every_candidate_one_by_one(seed, num_slms, num_candidates):
    random = torch.Generator().manual_seed(seed)
    alternatives = torch.randn(2, num_slms, num_candidates, 3, generator=random)
    best, change = alternatives[:, :, 0], torch.randn(2, 3, generator=random)
    slots = parted(alternatives)
    target, weight = candidate_credit(Adder(), SENSES, first_of(slots), slots, change, 0.5)
    for b, n in itertools.product(range(2), range(num_slms)):
        errors = []
        for k in range(num_candidates):
            others = sum(best[b, m] for m in range(num_slms) if m != n)
            errors.append((others + alternatives[b, n, k] - change[b]).square().mean())
        tried = torch.stack(errors)
        spread = tried.max() - tried.min()
        assert torch.allclose(target[b, n], torch.softmax(-tried / (0.5 * spread), 0), atol=1e-4)
        assert weight[b, n].item() == pytest.approx((spread / tried.max()).item(), rel=1e-3)


def test_candidates_are_judged_beside_the_others_best_reads():
    best = torch.tensor([[[1.0], [0.0]], [[0.0], [0.0]]]).expand(2, 2, 3)
    slots = parted(torch.stack([best, torch.ones(2, 2, 3)], dim=2))
    target, _ = candidate_credit(Adder(), SENSES, first_of(slots), slots, torch.full((2, 3), 2.0), 0.2)
    # In sample 0 the first SLM has its part already, and the second reaches the sum with its other candidate.
    assert target[0, 1, 1] > 0.99
    assert target[0, 0].tolist() == pytest.approx([0.5, 0.5])
    assert target[1, 0, 1] > 0.99


def test_temperature_flattens_the_target_whatever_the_size_of_the_errors():
    alternatives = torch.zeros(2, 1, 2, 3)
    alternatives[:, 0, 1] = 1.0
    for size in (1e-3, 1.0, 1e3):
        for temperature in (0.2, 1.0):
            slots, change = parted(size * alternatives), torch.full((2, 3), size)
            target, weight = candidate_credit(Adder(), SENSES, first_of(slots), slots, change, temperature)
            share = torch.softmax(torch.tensor([-1.0, 0.0]) / temperature, 0)
            assert torch.allclose(target[0, 0], share, atol=1e-2)
            assert weight.flatten().tolist() == pytest.approx([1.0, 1.0])


def test_judging_leaves_slots_as_they_were_and_has_no_graph():
    slots = parted(torch.randn(2, 3, 4, 3, generator=torch.Generator().manual_seed(1)))
    before = slots.map(torch.clone)
    target, weight = candidate_credit(Adder(), SENSES, first_of(slots), slots, torch.ones(2, 3), 0.2)
    best_masks(Adder(), SENSES, first_of(slots), torch.ones(2, 3), 0.1)
    assert torch.equal(slots.content, before.content)
    assert torch.equal(slots.notes, before.notes)
    assert torch.equal(slots.moments, before.moments)
    assert not target.requires_grad
    assert not weight.requires_grad
