from dataclasses import dataclass, field, replace

import pytest
import torch
from torch import Tensor

from leworld.evaluation.baselines import evaluate, train_baselines
from leworld.evaluation.predictor import Budget
from leworld.evaluation.rollouts import roll_predictor, shown_steps
from leworld.types import Batch
from tests.evaluation.fakes import TARGET, FakeWorld


@dataclass
class Drift:
    """Adds ``push`` to the predicted part of the state, and remembers what it was shown."""

    push: float
    shown: list[Batch] = field(default_factory=list)

    def predict(self, batch: Batch) -> Tensor:
        self.shown.append(batch.map(torch.clone))
        return batch.current[..., :TARGET] + self.push


def test_own_states_and_true_actions_are_fed_back(world: FakeWorld, held_out: Batch) -> None:
    drift, before = Drift(0.25), held_out.map(torch.clone)
    error = roll_predictor(drift, held_out, world.spec.scale)
    assert error.shape == held_out.shape
    assert [batch.shape[1] for batch in drift.shown] == [1, 2, 3, 4]
    last = drift.shown[-1]
    for t in range(world.horizon):
        own = held_out.current[:, 0, :TARGET] + 0.25 * t
        assert torch.allclose(last.current[:, t, :TARGET], own, atol=1e-5)
        assert torch.equal(last.current[:, t, TARGET:], held_out.current[:, t, TARGET:])
        assert torch.equal(last.past[:, t], held_out.past[:, 0] if t == 0 else last.current[:, t - 1])
        expected = ((own + 0.25 - held_out.target[:, t]) / world.spec.scale).square().mean(-1)
        assert torch.allclose(error[:, t], expected, rtol=1e-4)
    assert torch.equal(held_out.current, before.current)
    assert torch.equal(held_out.past, before.past)


@pytest.mark.parametrize("name", ["linear", "mlp", "gru", "gru_context", "oracle", "copy_last"])
def test_the_first_step_is_the_teacher_forced_one(world: FakeWorld, held_out: Batch, name: str) -> None:
    predictor = train_baselines(world, Budget(steps=3, sequences=4), [name])[name]
    free = roll_predictor(predictor, held_out, world.spec.scale)
    forced = evaluate(predictor, [held_out], world.spec.scale)
    assert torch.allclose(free[:, 0], forced[:, 0], rtol=1e-4)
    assert not torch.allclose(free[:, 1:], forced[:, 1:], rtol=1e-2)


def test_a_predictor_that_is_right_stays_right() -> None:
    world = FakeWorld()
    batch = world.batch("test", 6, torch.Generator().manual_seed(0))
    steps = 0.5 * torch.arange(4.0).view(1, 4, 1)
    current = batch.current[:, :1] + steps
    walk = replace(batch, current=current, past=current, target=current[..., :TARGET] + 0.5)
    assert roll_predictor(Drift(0.5), walk, world.spec.scale).max() < 1e-9


@pytest.mark.parametrize(
    ("num_steps", "shown"), [(1, [1]), (4, [1, 4]), (16, [1, 5, 16]), (20, [1, 5, 20]), (64, [1, 5, 20])]
)
def test_the_shown_steps_are_within_the_rollout(num_steps: int, shown: list[int]) -> None:
    assert shown_steps(num_steps) == shown
