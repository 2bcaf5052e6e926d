import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from leworld.errors import ConfigError
from leworld.memory import WordStore
from leworld.models.fleet import join_proposals, to_proposals
from leworld.models.slm import SLM, SLMConfig, SLMOutput
from tests.models.tiny import random_query, spec_of, stir

LAST = 2**16


def output_at(start: list[int], length: int) -> SLMOutput:
    """An SLM that is all but sure of one start a sample and of a length."""
    batch = len(start)
    digits = torch.zeros(batch, 2, 256)
    for row, address in enumerate(start):
        digits[row, 0, address // 256] = digits[row, 1, address % 256] = 40.0
    lengths = torch.zeros(batch, 256)
    lengths[:, length - 1] = 40.0
    logs = torch.log_softmax(digits, -1), torch.log_softmax(lengths, -1)
    return SLMOutput(*logs, torch.zeros(batch), torch.zeros(batch, 4))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.one_of(st.integers(0, LAST - 1), st.integers(LAST - 260, LAST - 1)), min_size=1, max_size=4),
       st.integers(1, 256), st.integers(1, 8))  # fmt: skip
def test_proposals_are_clipped_at_the_end_of_memory_and_say_so(starts, length, k):
    proposals = to_proposals(output_at(starts, length), k, LAST)
    assert proposals.start.shape == proposals.length.shape == proposals.clipped.shape == (len(starts), k)
    assert proposals.start[:, 0].tolist() == starts
    assert torch.equal(proposals.length, (LAST - proposals.start).clamp(max=length))
    assert torch.equal(proposals.clipped, proposals.start + length > LAST)
    assert (proposals.length >= 1).all()
    words = WordStore(16).read(proposals.start.flatten().numpy(), proposals.length.flatten().numpy())
    assert len(words.words) == proposals.length.sum()
    assert (proposals.log_prob.diff(dim=-1) <= 0).all()


def test_the_last_word_can_be_proposed_and_read():
    store = WordStore(16)
    store.write(np.array([LAST - 1]), np.array([[77]], np.uint32))
    proposals = to_proposals(output_at([LAST - 1], 256), 1, LAST)
    best = proposals.ranges()
    assert (best.start.item(), best.length.item(), proposals.clipped.item()) == (LAST - 1, 1, True)
    assert store.read(best.start.numpy(), best.length.numpy()).words.tolist() == [77]
    exact = to_proposals(output_at([LAST - 256], 256), 1, LAST)
    assert (exact.length.item(), exact.clipped.item()) == (256, False)


def test_groups_side_by_side_are_one_fleet():
    outputs = [output_at([5, 9], 3), output_at([700, 2], 200), output_at([LAST - 1, 0], 2)]
    columns = [to_proposals(output, 3, LAST).map(lambda x: x.unsqueeze(1)) for output in outputs]
    whole = join_proposals(columns)
    joined = join_proposals([join_proposals(columns[:1]), join_proposals(columns[1:])])
    for name, tensor in vars(whole).items():
        assert torch.equal(tensor, getattr(joined, name)), name
    assert whole.ranges(1).start.tolist() == whole.start[..., 1].tolist()


def test_an_slm_looks_at_all_four_inputs_and_normalises_its_answers():
    torch.manual_seed(0)
    spec = spec_of(state_dim=4, char_dim=3)
    slm = SLM(SLMConfig(16, 2, 2, 3), 4, 3, 8, 2)
    stir(slm)
    query = random_query(spec, 5)
    output = slm(query)
    assert output.digits.shape == (5, 2, 256)
    assert output.hidden.shape == (5, 16)
    assert torch.allclose(output.length.exp().sum(-1), torch.ones(5), atol=1e-5)
    for name in ("past", "current", "characteristics", "info_query"):
        other = slm(random_query(spec, 5, seed=1).__class__(**{**vars(query), name: getattr(query, name) + 1}))
        assert not torch.allclose(other.digits, output.digits, atol=1e-3), name
        assert not torch.allclose(other.hidden, output.hidden, atol=1e-3), name
        assert not torch.allclose(other.confidence_logit, output.confidence_logit, atol=1e-3), name


def test_a_request_has_no_effect_on_a_new_slm():
    torch.manual_seed(0)
    slm = SLM(SLMConfig(16, 2, 2, 3), 4, 3, 8, 2)
    query = random_query(spec_of(state_dim=4, char_dim=3), 5)
    other = query.__class__(query.past, query.current, query.characteristics, query.info_query * 3)
    assert torch.equal(slm(query).digits, slm(other).digits)


@pytest.mark.parametrize(("width", "heads"), [(16, 3), (16, 0), (16, -1), (15, 2)])
def test_heads_that_do_not_divide_the_width_are_refused(width, heads):
    with pytest.raises(ConfigError, match=f"slm: d_model {width} is not a multiple of num_heads {heads}"):
        SLMConfig(d_model=width, num_heads=heads)
