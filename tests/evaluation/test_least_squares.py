from dataclasses import replace

import pytest
import torch

from leworld.evaluation.least_squares import LeastSquares, Terms
from leworld.evaluation.metrics import mse
from leworld.evaluation.predictor import Budget
from leworld.types import Batch
from tests.evaluation.fakes import STATE, STORED, FakeWorld

SHORT = Budget(steps=20, sequences=8)


def terms(degree: int) -> Terms:
    return Terms(torch.zeros(STATE), torch.ones(STATE), degree)


def test_terms_are_a_polynomial_of_the_state() -> None:
    assert terms(1)(torch.tensor([2.0, 3.0, 5.0])).tolist() == [1, 2, 3, 5]
    assert sorted(terms(2)(torch.tensor([2.0, 3.0, 5.0])).tolist()) == [1, 2, 3, 4, 5, 6, 9, 10, 15, 25]


def test_what_a_worlds_transitions_say_exactly_is_found(world: FakeWorld, held_out: Batch) -> None:
    found = LeastSquares.fit(world, SHORT)
    assert mse(found.predict(held_out), held_out.target, world.spec.scale) < 1e-3
    firm = replace(found, ridge=1e12)
    assert mse(firm.predict(held_out), held_out.target, world.spec.scale) > 0.1


@pytest.mark.parametrize("degree", [1, 2])
def test_weights_are_those_of_the_normal_equations(world: FakeWorld, held_out: Batch, degree: int) -> None:
    own = terms(degree)
    prior = torch.randn(len(own(torch.zeros(STATE))), 2, generator=torch.Generator().manual_seed(0)).double()
    found = replace(LeastSquares.fit(world, SHORT), terms=own, prior=prior, ridge=0.5)
    one = held_out.map(lambda tensor: tensor[:1])
    assert one.world is not None
    stored = world.stored(one.world[0, :1])
    assert stored is not None
    rows = own(stored.inputs[0])
    assert len(rows) == STORED
    wanted = found.output.wanted(stored.inputs[0], stored.targets[0]).double()
    weights = prior + torch.linalg.solve(
        rows.T @ rows + 0.5 * torch.eye(rows.shape[1], dtype=rows.dtype), rows.T @ (wanted - rows @ prior)
    )
    expected = found.output.prediction(one.current, (own(one.current) @ weights).float())
    assert torch.allclose(found.predict(one), expected, atol=1e-5)


def test_sequences_of_several_worlds_use_the_records_of_each_step(world: FakeWorld, held_out: Batch) -> None:
    found = LeastSquares.fit(world, SHORT)
    assert held_out.world is not None
    mixed = replace(held_out, world=held_out.world.roll(1, dims=0).where(torch.arange(4) > 1, held_out.world))
    together = found.predict(mixed)
    assert torch.allclose(together[:, :2], found.predict(held_out)[:, :2], atol=1e-5)
    assert not torch.allclose(together[:, 2:], found.predict(held_out)[:, 2:], atol=1e-2)
