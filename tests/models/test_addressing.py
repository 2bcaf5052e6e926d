import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from leworld.errors import ConfigError
from leworld.memory import HashPlacement
from leworld.models.addressing import (
    BASE,
    FIRM,
    REQUEST_GAIN,
    RULE_GAIN,
    DigitHead,
    SignRule,
    address_loss,
    best_k,
    bits_of,
    digits_of,
)
from leworld.models.slm import SLMConfig
from leworld.optim import Optimizer, warmup_cosine
from leworld.rng import generator
from tests.models.tiny import stir

FEW = settings(max_examples=25, deadline=None)


def scores(batch: int, digits: int, seed: int, sharpness: float = 1.0) -> torch.Tensor:
    random = torch.Generator().manual_seed(seed)
    return torch.log_softmax(sharpness * torch.randn(batch, digits, BASE, generator=random), dim=-1)


@FEW
@given(st.lists(st.integers(0, 2**32 - 1), max_size=20), st.integers(4, 6))
def test_digits_make_up_the_address(addresses, num_digits):
    digits = digits_of(torch.tensor(addresses, dtype=torch.int64), num_digits)
    assert digits.shape == (len(addresses), num_digits)
    plain = [sum(digit * 256**place for place, digit in enumerate(reversed(row))) for row in digits.tolist()]
    assert plain == addresses


def head_of(num_digits: int) -> DigitHead:
    """A head of an 8-d hidden, a 5-d key and a 4-d request, with every weight off its first value."""
    torch.manual_seed(0)
    head = DigitHead(8, 5, 4, num_digits)
    stir(head)
    return head


def inputs_of(batch: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(0)
    hidden, key, request = (torch.randn(batch, width, generator=random) for width in (8, 5, 4))
    return hidden, key, request


def test_digits_of_the_first_and_the_last_word():
    assert digits_of(torch.tensor([0, 2**16 - 1, 256]), 2).tolist() == [[0, 0], [255, 255], [1, 0]]
    assert digits_of(torch.tensor([[255]]), 1).tolist() == [[[255]]]


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 2**20), st.sampled_from([1, 2, 7, 256]), st.sampled_from([0.0, 0.1, 8.0]))
def test_best_k_equals_brute_force_over_all_65536_addresses(seed, k, sharpness):
    log_prob = scores(2, 2, seed, sharpness)
    address, score = best_k(log_prob, k)
    every = (log_prob[:, 0].unsqueeze(2) + log_prob[:, 1].unsqueeze(1)).flatten(1)
    expected, where = every.topk(k + 1)
    assert torch.equal(score, expected[:, :k])
    assert torch.equal(every.gather(1, address), score)
    assert all(len(set(row)) == k for row in address.tolist())
    for row in range(2):
        # Without ties the addresses are the same too.
        if (expected[row].diff() < 0).all():
            assert torch.equal(address[row], where[row, :k])


@FEW
@given(st.integers(0, 2**20), st.integers(1, 6))
def test_best_k_of_three_digits_equals_a_product_of_top_digits(seed, k):
    log_prob = scores(1, 3, seed)
    address, score = best_k(log_prob, k)
    tops = [log_prob[0, d].topk(k).indices.tolist() for d in range(3)]
    every = [
        (log_prob[0, 0, a] + log_prob[0, 1, b] + log_prob[0, 2, c], a * 65536 + b * 256 + c)
        for a, b, c in itertools.product(*tops)
    ]
    every.sort(key=lambda pair: -pair[0])
    assert address[0].tolist() == [number for _, number in every[:k]]
    assert torch.equal(score[0], torch.stack([value for value, _ in every[:k]]))


def test_best_k_of_four_digits_reaches_the_last_of_4_billion_words():
    log_prob = torch.full((1, 4, BASE), -50.0)
    log_prob[..., 255] = 0.0
    assert best_k(log_prob, 1)[0].item() == 2**32 - 1


@pytest.mark.parametrize("k", [0, -1, 257])
def test_candidates_out_of_range_are_refused_in_one_line(k):
    for refuse in (lambda: best_k(scores(1, 2, 0), k), lambda: SLMConfig(candidates=k)):
        with pytest.raises(ConfigError) as caught:
            refuse()
        assert f"candidates {k} is outside [1, 256]" in str(caught.value)
        assert "slm.candidates" in str(caught.value)
        assert "\n" not in str(caught.value)


def test_scores_are_normalised_over_digits_and_over_the_address_space():
    head = head_of(2)
    log_prob = head(*inputs_of(5))
    assert log_prob.shape == (5, 2, BASE)
    assert torch.allclose(log_prob.exp().sum(-1), torch.ones(5, 2), atol=1e-5)
    every = log_prob[:, 0].unsqueeze(2) + log_prob[:, 1].unsqueeze(1)
    assert torch.allclose(every.exp().sum((1, 2)), torch.ones(5), atol=1e-4)


@FEW
@given(st.lists(st.integers(0, 2**32 - 1), max_size=10), st.integers(1, 32))
def test_bits_make_up_the_number_the_least_first(numbers, num_bits):
    bits = bits_of(torch.tensor(numbers, dtype=torch.int64), num_bits)
    assert bits.shape == (len(numbers), num_bits)
    plain = [sum(int(bit) << place for place, bit in enumerate(row)) for row in bits.tolist()]
    assert plain == [number % 2**num_bits for number in numbers]


def test_bit_scores_alone_make_a_digit_of_independent_bits():
    head, (hidden, key, request) = head_of(1), inputs_of(3)
    with torch.no_grad():
        head.value.weight.zero_()
        head.value.bias.zero_()
    heed = torch.sigmoid(hidden @ head.heed.weight.T + head.heed.bias)
    ruled = FIRM * torch.tanh(RULE_GAIN / FIRM * (key @ head.rule.linear.weight.T + head.rule.linear.bias))
    bits = (1 - heed) * head.bit(hidden) + heed * ruled + REQUEST_GAIN * (request @ head.request.weight.T)
    # With no free scores yet, each bit is a coin of its own: p(bit) = sigmoid(2 * score).
    log_p = torch.nn.functional.logsigmoid(2 * bits), torch.nn.functional.logsigmoid(-2 * bits)
    for digit in (0, 1, 77, 254, 255):
        plain = sum(log_p[0 if digit >> place & 1 else 1][:, place] for place in range(8))
        assert torch.allclose(head(hidden, key, request)[:, 0, digit], plain, atol=1e-3)


def test_a_digit_head_sees_key_and_request_past_all_layers_once_they_were_taught():
    (hidden, key, request), nothing = inputs_of(3), torch.zeros(3, 4)
    torch.manual_seed(0)
    fresh = DigitHead(8, 5, 4, 2)
    assert torch.equal(fresh(hidden, key, request), fresh(hidden, -key, nothing))
    stirred = head_of(2)
    assert not torch.allclose(stirred(hidden, key, request), stirred(hidden, key, nothing), atol=1e-2)
    assert not torch.allclose(stirred(hidden, key, request), stirred(hidden, -key, request), atol=1e-2)


def test_a_head_that_does_not_heed_the_rule_does_not_see_the_key():
    head, (hidden, key, request) = head_of(2), inputs_of(3)
    with torch.no_grad():
        head.heed.weight.zero_()
        head.heed.bias.fill_(-1e4)
    assert torch.equal(head(hidden, key, request), head(hidden, -key, request))


def taught_rule(placement: HashPlacement, steps: int = 150) -> DigitHead:
    """A head whose rule alone has learnt a placement."""
    torch.manual_seed(0)
    head = DigitHead(8, placement.key_dim, 4, placement.address_bits // 8)
    optimizer = Optimizer(head, 0.01, 1.0)
    for step in range(steps):
        key = torch.randn(1024, placement.key_dim, generator=generator(0, "keys", step))
        head.rule_loss(key, placement.address(key)).backward()
        optimizer.step(warmup_cosine(step, steps, 1e-2, 10))
    return head


@pytest.mark.parametrize(("address_bits", "align_words"), [(16, 1), (24, 4)])
def test_a_rule_learns_sign_addresses_exactly_also_of_keys_it_never_saw(address_bits, align_words):
    hash_bits = address_bits - align_words.bit_length() + 1
    placement = HashPlacement(5, hash_bits, align_words, address_bits, seed=3)
    head = taught_rule(placement)
    key = torch.randn(1000, 5, generator=generator(1, "unseen"))
    address, _ = best_k(head(torch.zeros(1000, 8), key, torch.zeros(1000, 4)), 4)
    right = address == placement.address(key).unsqueeze(1)
    assert right[:, 0].float().mean() > 0.95
    assert right.any(1).float().mean() > 0.995


def test_no_loss_but_its_own_teaches_a_rule_and_its_own_teaches_nothing_else():
    head, (hidden, key, request) = head_of(2), inputs_of(6)
    address = torch.arange(6) * 10_000
    address_loss(head(hidden, key, request), address).sum().backward()
    reached = {name for name, weight in head.named_parameters() if weight.grad is not None}
    assert reached == {name for name, _ in head.named_parameters() if not name.startswith("rule.")}
    head.zero_grad(set_to_none=True)
    head.rule_loss(key, address).backward()
    reached = {name for name, weight in head.named_parameters() if weight.grad is not None}
    assert reached == {"rule.linear.weight", "rule.linear.bias"}


def test_the_rule_is_taught_what_it_scores():
    """Its loss is the cross-entropy of the digits, were the rule all that is heeded and its scores not bounded."""
    head, (hidden, key, _) = head_of(3), inputs_of(4)
    with torch.no_grad():
        head.value.weight.zero_()
        head.value.bias.zero_()
        head.heed.bias.fill_(1e4)
        for weight in head.rule.parameters():
            weight *= 1e-4
    address = torch.tensor([0, 2**24 - 1, 70_000, 123_456])
    plain = address_loss(head(hidden, key, torch.zeros(4, 4)), address).mean()
    assert head.rule_loss(key, address).item() * RULE_GAIN == pytest.approx(plain.item(), rel=2e-2)


def test_a_rule_is_firm_where_it_is_sure_and_silent_at_first():
    key = torch.randn(6, 5, generator=torch.Generator().manual_seed(0))
    rule = SignRule(5, 7)
    assert not rule(key).any()
    stir(rule)
    score = rule(key)
    assert not score.requires_grad
    assert torch.equal(score.sign(), (key @ rule.linear.weight.T + rule.linear.bias).sign())
    assert score.abs().max() <= 1
    assert score.abs().min() > 0.99


@FEW
@given(st.integers(0, 2**20), st.lists(st.integers(0, 2**24 - 1), min_size=1, max_size=6))
def test_address_loss_is_minus_the_score_of_the_address(seed, addresses):
    log_prob = scores(len(addresses), 3, seed)
    loss = address_loss(log_prob, torch.tensor(addresses))
    for row, address in enumerate(addresses):
        plain = -sum(log_prob[row, place, address // 256 ** (2 - place) % 256] for place in range(3))
        assert loss[row].item() == pytest.approx(float(plain), rel=1e-5)
