import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from leworld.models.router import Router, Routing, logistic_noise, mask_ste
from tests.models.tiny import stir

logits = st.lists(st.lists(st.floats(-30, 30, width=32), min_size=3, max_size=3), min_size=1, max_size=6)
temperatures = st.sampled_from([0.05, 0.1, 1.0, 3.0])


def noise_of(seed: int, *shape: int) -> torch.Tensor:
    return logistic_noise(torch.Size(shape), torch.Generator().manual_seed(seed))


def routing_of(logit: torch.Tensor, temperature: float = 1.0) -> Routing:
    mask, prob = mask_ste(logit, temperature, None)
    return Routing(logit, prob, mask)


@settings(max_examples=60, deadline=None)
@given(logits, temperatures, st.one_of(st.none(), st.integers(0, 99)))
def test_masks_are_exactly_0_or_1_and_never_empty(rows, temperature, seed):
    logit = torch.tensor(rows)
    mask, prob = mask_ste(logit, temperature, None if seed is None else noise_of(seed, *logit.shape))
    assert set(mask.flatten().tolist()) <= {0.0, 1.0}
    assert (mask.sum(1) >= 1).all()
    assert torch.equal(prob, torch.sigmoid(logit / temperature))
    if seed is None:
        for row, choice in zip(logit.tolist(), mask.tolist(), strict=True):
            plain = [float(value > 0) for value in row]
            if not any(plain):
                plain[row.index(max(row))] = 1.0
            assert choice == plain


@settings(max_examples=30, deadline=None)
@given(logits, temperatures)
def test_gradient_is_that_of_the_sigmoid_in_forced_rows_too(rows, temperature):
    logit = torch.tensor([*rows, [-1.0, -2.0, -3.0]], requires_grad=True)
    upstream = torch.arange(1.0, 4.0)
    mask, _ = mask_ste(logit, temperature, None)
    (mask * upstream).sum().backward()
    prob = torch.sigmoid(logit.detach() / temperature)
    assert torch.allclose(logit.grad, upstream * prob * (1 - prob) / temperature, atol=1e-6)
    assert mask[-1].tolist() == [1.0, 0.0, 0.0]


def test_gradient_in_a_forced_row_is_not_zero():
    logit = torch.tensor([[-0.5, -0.2, -0.9]], requires_grad=True)
    mask_ste(logit, 1.0, None)[0].sum().backward()
    assert (logit.grad > 0.1).all()


def test_temperature_sharpens_the_gradient_and_scales_exploration():
    steep, flat = (_slope_at_zero(temperature) for temperature in (0.1, 1.0))
    assert steep == pytest.approx(10 * flat)
    logit = torch.full((4000, 3), 1.0)
    noise = noise_of(0, 4000, 3)
    plain = mask_ste(logit, 1.0, None)[0]
    flipped = [(mask_ste(logit, t, noise)[0] != plain).float().mean().item() for t in (0.1, 1.0, 3.0)]
    assert flipped[0] < 0.001
    assert flipped[0] < flipped[1] < flipped[2]
    # With logistic noise a decision is 1 with probability sigmoid(logit / temperature), but for the forced rows.
    lost = 1 - torch.sigmoid(torch.tensor(1.0)).item()
    assert flipped[1] == pytest.approx(lost - lost**3 / 3, abs=0.015)


def _slope_at_zero(temperature: float) -> float:
    logit = torch.zeros(1, 1, requires_grad=True)
    mask_ste(logit, temperature, None)[0].sum().backward()
    return logit.grad.item()


def test_noise_is_standard_logistic_and_the_generators():
    noise = noise_of(5, 20_000)
    assert torch.equal(noise, noise_of(5, 20_000))
    assert not torch.equal(noise, noise_of(6, 20_000))
    assert noise.mean().item() == pytest.approx(0, abs=0.05)
    assert noise.std().item() == pytest.approx(math.pi / math.sqrt(3), rel=0.03)
    assert noise.isfinite().all()


@pytest.mark.parametrize("temperature", [0.1, 1.0, 2.0])
def test_entropy_is_that_of_coins(temperature):
    logit = torch.tensor([[0.0, 2.0, -2.0], [40.0, -40.0, 0.5]])
    plain = []
    for value in logit.flatten().tolist():
        p = 1 / (1 + math.exp(-value))
        plain.append(0.0 if p in (0.0, 1.0) else -p * math.log(p) - (1 - p) * math.log1p(-p))
    assert routing_of(logit, temperature).entropy().item() == pytest.approx(sum(plain) / 6, abs=1e-5)
    assert routing_of(torch.zeros(1, 3), temperature).entropy().item() == pytest.approx(math.log(2))
    assert routing_of(torch.full((1, 3), -60.0), temperature).entropy().item() == pytest.approx(0, abs=1e-6)


def test_balance_is_zero_for_even_use_and_the_variance_of_use_otherwise():
    even = torch.tensor([[5.0, -5.0], [-5.0, 5.0]])
    assert routing_of(even).balance_loss().item() == pytest.approx(0, abs=1e-7)
    assert routing_of(torch.tensor([[60.0, -60.0]])).balance_loss().item() == pytest.approx(0.25)


def test_decisions_depend_on_state_hidden_and_trust_and_on_which_slm():
    torch.manual_seed(0)
    router = Router(8, 4, 3)
    stir(router)
    random = torch.Generator().manual_seed(1)
    state, hidden = torch.randn(2, 8, generator=random), torch.randn(2, 3, 4, generator=random)
    trust = torch.rand(2, 3, 2, generator=random)
    logit = router(state, hidden, trust).logit
    assert logit.shape == (2, 3)
    for changed in ((state + 1, hidden, trust), (state, hidden + 1, trust), (state, hidden, trust + 0.1)):
        assert not torch.allclose(router(*changed).logit, logit)
    same = router(state, hidden[:, :1].expand(-1, 3, -1), trust[:, :1].expand(-1, 3, -1)).logit
    assert (same[:, 0] - same[:, 1]).abs().min() > 1e-4


def test_deciding_alone_is_deciding_as_if_no_slm_had_said_anything():
    torch.manual_seed(0)
    router = Router(8, 4, 3)
    stir(router)
    state, noise = torch.randn(20, 8, generator=torch.Generator().manual_seed(1)), noise_of(2, 20, 3)
    silent = router(state, torch.zeros(20, 3, 4), torch.zeros(20, 3, 2), 0.5, noise)
    alone = router.alone(state, 0.5, noise)
    for name, tensor in vars(silent).items():
        assert torch.equal(tensor, getattr(alone, name)), name
    assert 0 < alone.mask.mean() < 1
    assert not torch.equal(alone.logit, router.alone(state + 1).logit)


def test_one_slm_is_always_trusted():
    torch.manual_seed(0)
    router = Router(8, 4, 1)
    stir(router, size=3.0)
    mask = router(torch.randn(50, 8), torch.randn(50, 1, 4), torch.zeros(50, 1, 2)).mask
    assert (mask == 1).all()
