from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from leworld.models.batched_reads import read_ranges
from leworld.models.record_encoder import Records
from leworld.models.regression import LEAST_NOISE, Regression
from leworld.types import Batch, Ranges
from tests.models.tiny import random_query, stir, tiny_trainer, tiny_world

STATE, TARGET, FEATURES = 5, 3, 6
WORLD = tiny_world("physics")


def regression_of(noise: float = -2.0, size: float = 0.3) -> Regression:
    torch.manual_seed(0)
    made = Regression(STATE, TARGET, FEATURES, 8)
    stir(made, size=size)
    with torch.no_grad():
        made.noise.fill_(noise)
    return made


def transitions(rows: int, count: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Inputs, changes and weights."""
    random = torch.Generator().manual_seed(seed)
    inputs, change = (torch.randn(rows, count, width, generator=random) for width in (STATE, TARGET))
    return inputs, change, torch.rand(rows, count, generator=random)


def zeroed(*layers: nn.Module) -> None:
    for weight in (weight for layer in layers for weight in layer.parameters()):
        nn.init.zeros_(weight)


def straightened(noise: float) -> tuple[Regression, Tensor]:
    """A regression whose features are the inputs and a constant, and a linear law of them."""
    made = regression_of(noise, size=0.0)
    zeroed(made.linear, made.curved[-1])
    with torch.no_grad():
        made.linear.weight[:STATE] = torch.eye(STATE)
        made.linear.bias[STATE] = 1.0
    return made, torch.randn(FEATURES, TARGET, generator=torch.Generator().manual_seed(5))


def lawful(law: Tensor, inputs: Tensor) -> Tensor:
    return inputs @ law[:STATE] + law[STATE]


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 12), st.integers(0, 2**20))
def test_moments_add_up_over_splits_of_the_points(cut, seed):
    regression, (inputs, change, weight) = regression_of(), transitions(2, 12, seed)
    points = regression.points(inputs, change)
    whole = regression.moments(points, weight)
    parts = [regression.moments(points[:, part], weight[:, part]) for part in (slice(cut), slice(cut, None))]
    assert whole.shape == (2, FEATURES * (FEATURES + TARGET))
    assert torch.allclose(parts[0] + parts[1], whole, atol=1e-4)


def test_a_point_without_weight_is_as_one_that_is_absent_and_one_of_weight_2_as_two():
    regression, (inputs, change, _) = regression_of(), transitions(2, 4)
    points = regression.points(inputs, change)
    found = regression.moments(points, torch.tensor([[1.0, 0.0, 2.0, 0.0]]).expand(2, 4))
    plain = points[:, [0, 2, 2]]
    assert torch.allclose(found, regression.moments(plain, torch.ones(2, 3)), atol=1e-5)
    assert not regression.moments(points, torch.zeros(2, 4)).any()


def test_the_order_of_points_does_not_matter():
    regression, (inputs, change, weight) = regression_of(), transitions(2, 9)
    order = torch.randperm(9, generator=torch.Generator().manual_seed(1))
    first = regression.moments(regression.points(inputs, change), weight)
    second = regression.moments(regression.points(inputs[:, order], change[:, order]), weight[:, order])
    assert torch.allclose(first, second, atol=1e-5)


def test_without_moments_no_feature_has_a_weight():
    regression = regression_of()
    assert not regression.weights(torch.zeros(4, FEATURES * (FEATURES + TARGET))).any()
    assert regression.features(torch.ones(4, STATE))[1].abs().max() > 1e-2


def test_a_fresh_regression_expects_no_change_and_adds_nothing_to_the_fit():
    torch.manual_seed(0)
    fresh, (inputs, change, weight) = Regression(STATE, TARGET, FEATURES, 8), transitions(3, 7)
    features, expected = fresh.features(inputs[:, 0])
    assert not expected.any()
    moments = fresh.moments(fresh.points(inputs, change), weight)
    fitted = torch.einsum("bf,bfy->by", features, fresh.weights(moments))
    assert fitted.abs().max() > 1e-2
    assert torch.allclose(fresh.posterior(inputs[:, 0], features, moments), fitted, atol=1e-5)


def test_layers_that_see_the_fit_add_what_is_not_linear_in_the_features():
    regression, (inputs, change, weight) = regression_of(), transitions(3, 7)
    features, _ = regression.features(inputs[:, 0])
    moments, added = regression.moments(regression.points(inputs, change), weight), []
    for told in (moments, 0 * moments, 3 * moments):
        fitted = torch.einsum("bf,bfy->by", features, regression.weights(told))
        added.append(regression.posterior(inputs[:, 0], features, told) - fitted)
    assert all(part.abs().max() > 1e-2 for part in added)
    assert (added[0] - added[1]).abs().max() > 1e-3
    assert (added[0] - added[2]).abs().max() > 1e-3


@pytest.mark.parametrize("count", [1, 4, 40])
def test_the_weights_are_the_ridge_solution_on_the_same_features(count):
    regression = regression_of(noise=-1.0)
    inputs, change, weight = transitions(3, count)
    found = regression.weights(regression.moments(regression.points(inputs, change), weight))
    for row in range(3):
        features, expected = (x.detach().double().numpy() for x in regression.features(inputs[row]))
        # A weight is a square root on both sides of the equations; the ridge is rows of its own.
        root = weight[row].double().sqrt().unsqueeze(1).numpy()
        ridge = np.sqrt(np.exp(-1.0) + LEAST_NOISE) * np.eye(FEATURES)
        left = np.concatenate([root * features, ridge])
        right = np.concatenate([root * (change[row].double().numpy() - expected), np.zeros((FEATURES, TARGET))])
        plain = np.linalg.lstsq(left, right, rcond=None)[0]
        assert np.abs(found[row].detach().numpy() - plain).max() < 1e-4


def answered(regression: Regression, inputs: Tensor, moments: Tensor) -> Tensor:
    """The change at (n, S) inputs, by (1, E) moments."""
    features, expected = regression.features(inputs)
    return expected + regression.posterior(inputs, features, moments.expand(len(inputs), -1))


def test_a_linear_law_is_found_from_its_transitions_and_holds_for_inputs_never_seen():
    regression, law = straightened(noise=-20.0)
    inputs, unseen = transitions(1, 200)[0], 3 * transitions(1, 50, seed=2)[0][0]
    moments = regression.moments(regression.points(inputs, lawful(law, inputs)), torch.ones(1, 200))
    assert (answered(regression, unseen, moments) - lawful(law, unseen)).abs().max() < 1e-2


def test_more_transitions_come_closer_to_the_law():
    regression, law = straightened(noise=-2.0)
    inputs, unseen = transitions(1, 64)[0], transitions(1, 50, seed=2)[0][0]
    points, error = regression.points(inputs, lawful(law, inputs)), []
    for count in (0, 2, 8, 64):
        moments = regression.moments(points[:, :count], torch.ones(1, count))
        error.append((answered(regression, unseen, moments) - lawful(law, unseen)).square().mean().item())
    assert error == sorted(error, reverse=True)
    assert error[-1] < 0.01 * error[0]


def test_noise_and_spread_say_how_far_one_transition_pulls():
    inputs, change, weight = transitions(1, 1)

    def pulled(noise: float, spread: float) -> float:
        regression, _ = straightened(noise)
        nn.init.constant_(regression.spread, spread)
        moments = regression.moments(regression.points(inputs, change), weight)
        return answered(regression, inputs[:, 0], moments).norm().item()

    assert pulled(6.0, 0.0) < pulled(2.0, 0.0) < pulled(-4.0, 0.0)
    assert pulled(2.0, -2.0) < pulled(2.0, 0.0) < pulled(2.0, 2.0)


def test_gradients_reach_every_parameter_and_the_weights_of_points():
    regression, (inputs, change, weight) = regression_of(), transitions(2, 7)
    moments = regression.moments(regression.points(inputs, change), weight.requires_grad_())
    features, expected = regression.features(inputs[:, 0])
    (expected + regression.posterior(inputs[:, 0], features, moments) - 1).square().mean().backward()
    for name, parameter in [*regression.named_parameters(), ("weight of points", weight)]:
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().max() > 1e-8, name


class Learnt:
    """A stirred learner on records of transitions, its optional parts known to be there."""

    def __init__(self) -> None:
        self.learner = tiny_trainer(WORLD, stirred=True).train_state
        self.blm, self.system = self.learner.blm, self.learner.system
        assert self.blm.regression is not None
        self.regression = self.blm.regression

    def observed(self, past: Tensor, current: Tensor) -> Tensor:
        return there(self.blm.observe(past, current))

    def encoded(self, ranges: Ranges) -> tuple[Records, Tensor]:
        reads = read_ranges(self.learner.memory, ranges, WORLD.spec.record_words)
        return self.blm.encode(reads), reads.index


def there(tensor: Tensor | None) -> Tensor:
    assert tensor is not None
    return tensor


def episodes(count: int = 5) -> Batch:
    return WORLD.batch("test", count, torch.Generator().manual_seed(0))


def test_what_is_observed_adds_up_step_by_step():
    learnt, batch = Learnt(), episodes()
    found = learnt.observed(batch.past, batch.current)
    alone = [learnt.observed(batch.past[:, [t]], batch.current[:, [t]])[:, 0] for t in range(batch.shape[1])]
    assert found.shape[:2] == batch.shape
    for t in range(batch.shape[1]):
        assert torch.allclose(found[:, t], torch.stack(alone[: t + 1]).sum(0), atol=1e-4)
    assert found[:, -1].abs().max() > 1e-2


def test_a_step_without_a_past_adds_nothing():
    learnt, batch = Learnt(), episodes()
    assert torch.equal(batch.past[:, 0], batch.current[:, 0])
    past = batch.past.clone()
    past[:, 2] = batch.current[:, 2]
    found = learnt.observed(past, batch.current)
    assert not found[:, 0].any()
    assert torch.equal(found[:, 2], found[:, 1])
    assert not torch.equal(found[:, 3], found[:, 2])


def test_a_transition_that_is_seen_counts_as_the_same_one_that_is_read():
    learnt, first = Learnt(), episodes(6).at(0)
    stored = WORLD.stored(there(first.world))
    assert stored is not None
    actions = torch.zeros(6, WORLD.spec.state_dim - WORLD.spec.target_dim)
    following = torch.cat([stored.targets[:, 0], actions], dim=1)
    seen = learnt.observed(stored.inputs[:, :1], following.unsqueeze(1))
    start = first.labels.start[:, :1]
    records, index = learnt.encoded(Ranges(start, torch.full_like(start, WORLD.spec.record_words)))
    read = learnt.regression.moments(there(records.points)[index[:, 0]], torch.ones(6, 1))
    assert torch.allclose(seen[:, 0], read, atol=1e-3)


def test_a_world_of_rules_has_nothing_to_observe():
    learner = tiny_trainer(tiny_world("rules")).train_state
    query = random_query(learner.world.spec, 3)
    assert learner.blm.regression is None
    assert learner.blm.observe(query.past.unsqueeze(1), query.current.unsqueeze(1)) is None
    assert learner.system.observe(query) is None
    senses = learner.blm.sense(query)
    assert senses.features is None
    assert senses.seen is None


def test_a_system_adds_a_step_to_what_was_seen_before():
    learnt, query, later = Learnt(), random_query(WORLD.spec, 3, seed=0), random_query(WORLD.spec, 3, seed=1)
    past, current = torch.stack([query.past, later.past], 1), torch.stack([query.current, later.current], 1)
    whole = learnt.observed(past, current)
    first = there(learnt.system.observe(query))
    assert torch.allclose(first, whole[:, 0], atol=1e-5)
    assert torch.allclose(there(learnt.system.observe(later, first)), whole[:, 1], atol=1e-5)
    assert not first.requires_grad


def test_a_query_alone_tells_of_its_own_last_step():
    system, query = Learnt().system, random_query(WORLD.spec, 4)
    alone, seen = system.predict(query).next_state, there(system.observe(query))
    assert torch.equal(system.predict(query, seen=seen).next_state, alone)
    nothing = torch.zeros_like(seen)
    assert not torch.allclose(system.predict(query, seen=nothing).next_state, alone, atol=1e-4)
    still = replace(query, past=query.current)
    assert torch.equal(system.predict(still, seen=nothing).next_state, system.predict(still).next_state)


def test_what_is_read_counts_as_far_as_it_is_believed_and_of_those_that_are_trusted():
    learnt, query, counts = Learnt(), random_query(WORLD.spec, 2), (3, 1, 0)
    blm, lengths = learnt.blm, torch.tensor([counts]).expand(2, 3) * WORLD.spec.record_words
    records, index = learnt.encoded(Ranges(episodes(2).labels.start[:, 0], lengths))
    senses = blm.sense(query)
    pooled = blm.pool(senses, records, index)
    for row in range(2):
        for table, count in enumerate(counts):
            points = there(records.points)[index[row, table], :count].unsqueeze(0)
            belief = torch.sigmoid(pooled.belief[row, table, :count]).unsqueeze(0)
            plain = learnt.regression.moments(points, belief)[0]
            assert torch.allclose(there(pooled.moments)[row, table], plain, atol=1e-4)
    slots = blm.slots(pooled, learnt.learner.fleet.propose(query))
    other, mask = replace(slots, moments=2 * there(slots.moments) + 1), torch.eye(3)[:1].expand(2, 3)
    assert not torch.allclose(blm.predict(senses, slots, mask).change, blm.predict(senses, other, mask).change)
    assert torch.equal(blm.predict(senses, slots, 0 * mask).change, blm.predict(senses, other, 0 * mask).change)


@pytest.mark.parametrize("size", [1e3, 1e5, 1e7])
def test_large_inputs_leave_the_equations_solvable(size):
    regression = regression_of(noise=-30.0)
    inputs, change, weight = transitions(4, 50)
    moments = regression.moments(regression.points(size * inputs, change), weight)
    assert regression.weights(moments).isfinite().all()
