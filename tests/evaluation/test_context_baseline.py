from dataclasses import replace

import pytest
import torch

from leworld.evaluation.baselines import evaluate, train_baselines
from leworld.evaluation.context_baseline import ContextFeatures, fit_gru_context
from leworld.evaluation.predictor import Budget, Output
from leworld.types import Batch
from leworld.worlds.base import Stored
from tests.evaluation.fakes import STATE, STORED, TARGET, FakeWorld

SHORT = Budget(steps=5, sequences=8)


def test_rows_are_the_stored_transitions_and_then_the_steps(world: FakeWorld, held_out: Batch) -> None:
    features = ContextFeatures.fit(world, SHORT)
    rows = features(held_out)
    assert rows.shape == (32, STORED + world.horizon, features.size)
    assert features.size == 2 * STATE + TARGET + 1
    seen, steps = rows[:, :STORED], rows[:, STORED:]
    assert held_out.world is not None
    stored = world.stored(held_out.world[:, 0])
    assert stored is not None
    states = slice(STATE, 2 * STATE)
    own = seen[..., states] * features.steps.std[states] + features.steps.mean[states]
    assert torch.allclose(own, stored.inputs, atol=1e-5)
    change = Output.of(world.spec).wanted(stored.inputs, stored.targets)
    assert torch.allclose(seen[..., -1 - TARGET : -1], change, atol=1e-5)
    assert (seen[..., -1] == 1).all()
    assert not seen[..., :STATE].any()
    assert torch.equal(steps[..., : features.steps.size], features.steps(held_out))
    assert not steps[..., features.steps.size :].any()


def test_it_learns_from_the_context_what_no_training_body_tells(held_out: Batch) -> None:
    trained = train_baselines(FakeWorld(), Budget(steps=150, sequences=16, lr=5e-3), ["gru_context", "copy_last"])
    scale = FakeWorld().spec.scale
    context, blind = (float(evaluate(predictor, [held_out], scale).mean()) for predictor in trained.values())
    assert context < 0.3 * blind


def test_another_bodys_records_change_the_prediction_and_order_of_sequences_does_not(held_out: Batch) -> None:
    world = FakeWorld()
    predictor = fit_gru_context(world, SHORT)
    before = predictor.predict(held_out)
    order = torch.randperm(32, generator=torch.Generator().manual_seed(1))
    mixed = predictor.predict(held_out.map(lambda tensor: tensor[order]))
    assert torch.allclose(mixed, before[order], atol=1e-6)
    first = world.stored
    world.stored = lambda bodies: _turned(first(bodies))  # type: ignore[method-assign]
    assert not torch.allclose(predictor.predict(held_out), before, atol=1e-4)


def _turned(stored: Stored | None) -> Stored:
    assert stored is not None
    return replace(stored, targets=-stored.targets)


def test_it_never_sees_the_future(world: FakeWorld, held_out: Batch) -> None:
    predictor = fit_gru_context(world, SHORT)
    current = held_out.current.clone()
    current[:, 2] += 1
    changed = predictor.predict(replace(held_out, current=current)) - predictor.predict(held_out)
    assert torch.equal(changed[:, :2], torch.zeros_like(changed[:, :2]))
    assert changed[:, 3].abs().max() > 0


@pytest.mark.parametrize("seen", [1, 3])
def test_a_prefix_is_predicted_as_within_the_whole(world: FakeWorld, held_out: Batch, seen: int) -> None:
    predictor = fit_gru_context(world, SHORT)
    prefix = predictor.predict(held_out.map(lambda tensor: tensor[:, :seen]))
    assert torch.allclose(prefix, predictor.predict(held_out)[:, :seen], atol=1e-5)
