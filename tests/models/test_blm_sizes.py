"""The defaults are the system of 13.5 M parameters that this house was designed around."""

import pytest
import torch

from leworld.models.codec import Codec
from leworld.models.fleet import num_parameters
from leworld.models.slm import SLM, SLMConfig
from leworld.models.system import ModelConfig, build_blm
from tests.models.tiny import spec_of

CODEC, SLM_SIZE, BLM_SIZE = 21_024, 744_705, 11_219_395


def test_codec_is_exactly_as_designed():
    assert num_parameters(Codec()) == CODEC


def test_slm_is_within_3_percent():
    assert num_parameters(SLM(SLMConfig(), 64, 32, 128, 2)) == pytest.approx(SLM_SIZE, rel=0.03)


def test_blm_and_the_whole_are_within_3_percent():
    blm = num_parameters(build_blm(ModelConfig(), spec_of(), 0)) - CODEC
    assert blm == pytest.approx(BLM_SIZE, rel=0.03)
    whole = CODEC + blm + 3 * num_parameters(SLM(SLMConfig(), 64, 32, 128, 2))
    assert whole == pytest.approx(CODEC + BLM_SIZE + 3 * SLM_SIZE, rel=0.03)


@pytest.mark.parametrize("address_bits", [8, 16, 24, 32])
def test_a_wider_memory_adds_the_scores_of_its_digits_and_no_more(address_bits):
    digits = address_bits // 8
    head = SLM(SLMConfig(), 64, 32, 128, digits).digits
    # Free and bit scores of the hidden, the rule of the key, bit scores of the request, and how much the rule counts.
    assert num_parameters(head) == digits * ((128 + 1) * (256 + 8) + (32 + 1) * 8 + 128 * 8) + 128 + 1
    assert head(torch.zeros(1, 128), torch.zeros(1, 32), torch.zeros(1, 128)).shape == (1, digits, 256)
