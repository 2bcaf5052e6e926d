import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from leworld.errors import ConfigError
from leworld.models.addressing import BASE, KEY_GAIN, REQUEST_GAIN, DigitHead, address_loss, best_k, digits_of
from leworld.models.slm import SLMConfig
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


def test_bit_scores_alone_make_a_digit_of_independent_bits():
    head, (hidden, key, request) = head_of(1), inputs_of(3)
    with torch.no_grad():
        head.value.weight.zero_()
        head.value.bias.zero_()
    keyed = torch.sigmoid(hidden @ head.heed.weight.T + head.heed.bias) * (key @ head.key.weight.T)
    bits = head.bit(hidden) + KEY_GAIN * keyed + REQUEST_GAIN * (request @ head.request.weight.T)
    # With no free scores yet, each bit is a coin of its own: p(bit) = sigmoid(2 * score).
    log_p = torch.nn.functional.logsigmoid(2 * bits), torch.nn.functional.logsigmoid(-2 * bits)
    for digit in (0, 1, 77, 254, 255):
        plain = sum(log_p[0 if digit >> place & 1 else 1][:, place] for place in range(8))
        assert torch.allclose(head(hidden, key, request)[:, 0, digit], plain, atol=1e-3)


def test_a_digit_head_sees_key_and_request_past_all_layers_once_a_request_is_worth_it():
    (hidden, key, request), nothing = inputs_of(3), torch.zeros(3, 4)
    torch.manual_seed(0)
    fresh = DigitHead(8, 5, 4, 2)
    assert torch.equal(fresh(hidden, key, request), fresh(hidden, key, nothing))
    assert not torch.allclose(fresh(hidden, key, request), fresh(hidden, -key, request), atol=1e-2)
    stirred = head_of(2)
    assert not torch.allclose(stirred(hidden, key, request), stirred(hidden, key, nothing), atol=1e-2)


def test_a_head_that_does_not_heed_the_key_does_not_see_it():
    head, (hidden, key, request) = head_of(2), inputs_of(3)
    with torch.no_grad():
        head.heed.weight.zero_()
        head.heed.bias.fill_(-1e4)
    assert torch.equal(head(hidden, key, request), head(hidden, -key, request))


@FEW
@given(st.integers(0, 2**20), st.lists(st.integers(0, 2**24 - 1), min_size=1, max_size=6))
def test_address_loss_is_minus_the_score_of_the_address(seed, addresses):
    log_prob = scores(len(addresses), 3, seed)
    loss = address_loss(log_prob, torch.tensor(addresses))
    for row, address in enumerate(addresses):
        plain = -sum(log_prob[row, place, address // 256 ** (2 - place) % 256] for place in range(3))
        assert loss[row].item() == pytest.approx(float(plain), rel=1e-5)
