from fractions import Fraction

import numpy as np
import pytest
import torch

from leworld.errors import ConfigError, DataError, RangeError
from leworld.memory import AppendPlacement, HashPlacement


def keys(num, dim=16, seed=0):
    return torch.randn(num, dim, generator=torch.Generator().manual_seed(seed))


def make(hash_bits=8, align_words=256, address_bits=16, seed=3, table=0):
    return HashPlacement(16, hash_bits, align_words, address_bits, seed, table)


def test_address_is_the_number_of_its_bits():
    placement, x = make(hash_bits=6, align_words=32), keys(50)
    plain = [32 * sum(int(bit) << i for i, bit in enumerate(row)) for row in placement.bits(x).tolist()]
    assert placement.address(x).tolist() == plain
    assert placement.address(x).dtype == torch.int64
    assert placement.bits(x).shape == (50, 6)


@pytest.mark.parametrize(
    ("hash_bits", "align_words", "address_bits"), [(8, 256, 16), (32, 1, 32), (24, 256, 32), (1, 1, 8)]
)
def test_addresses_lie_in_the_memory(hash_bits, align_words, address_bits):
    address = make(hash_bits, align_words, address_bits).address(keys(200))
    assert 0 <= int(address.min()) <= int(address.max()) < 1 << address_bits
    assert (address % align_words == 0).all()
    assert len(address.unique()) > 1


def test_address_depends_on_neither_batch_nor_scale():
    placement, x = make(hash_bits=16, align_words=1), keys(300)
    whole = placement.address(x)
    assert torch.equal(whole, torch.cat([placement.address(row[None]) for row in x]))
    assert torch.equal(whole, placement.address(x * 8))
    assert torch.equal(whole, placement.address(x.double()))


def test_signs_of_keys_close_to_a_border_are_those_of_an_exact_sum():
    placement, x = make(hash_bits=1, align_words=1), keys(300).double()
    normal = placement._projection[:, 0]
    # Moved onto the border and rounded: float32 sums would get many of these signs wrong.
    close = (x - (x @ normal)[:, None] * normal / normal.square().sum()).float()
    exact = [
        sum(Fraction(a) * Fraction(b) for a, b in zip(row, normal.tolist(), strict=True)) for row in close.tolist()
    ]
    assert placement.address(close).tolist() == [int(value > 0) for value in exact]


def test_near_keys_share_more_bits_than_far_ones():
    placement, x = make(hash_bits=16, align_words=1), keys(200)
    bits = placement.bits(x)
    near, far = placement.bits(x + 0.1 * keys(200, seed=1)), placement.bits(keys(200, seed=2))
    assert (bits == near).float().mean() > 0.9
    assert 0.4 < (bits == far).float().mean() < 0.6


def test_same_seed_same_address_and_others_differ():
    x = keys(500)
    same = make(hash_bits=16, align_words=1).address(x)
    assert torch.equal(same, make(hash_bits=16, align_words=1).address(x))
    assert (same != make(16, 1, table=1).address(x)).float().mean() > 0.9
    assert (same != make(16, 1, seed=4).address(x)).float().mean() > 0.9


@pytest.mark.parametrize("hash_bits", [1, 5, 16, 24])
def test_bits_look_along_directions_at_right_angles_as_far_as_the_key_reaches(hash_bits):
    planes = make(hash_bits, align_words=1, address_bits=24)._projection
    for first in range(0, hash_bits, 16):
        block = planes[:, first : first + 16]
        assert torch.allclose(block.T @ block, torch.eye(block.shape[1], dtype=torch.float64), atol=1e-9)


def test_addresses_spread_evenly():
    placement = make(hash_bits=4, align_words=1)
    shares = placement.address(keys(8000)).bincount(minlength=16) / 8000
    assert 0.045 < float(shares.min()) <= float(shares.max()) < 0.08


def test_more_hash_bits_refine_an_address():
    x = keys(100)
    assert torch.equal(make(hash_bits=4).address(x), make(hash_bits=8).address(x) % (16 * 256))


def test_tags_are_independent_of_addresses():
    placement, x = make(hash_bits=8), keys(2000)
    tag = placement.tag(x, 8)
    assert 0 <= int(tag.min()) <= int(tag.max()) < 256
    shared = (placement.bits(x) == torch.stack([tag >> i & 1 for i in range(8)], 1)).float().mean(0)
    assert 0.25 < float(shared.min()) <= float(shared.max()) < 0.75
    assert torch.equal(placement.tag(x, 32) & 255, tag)


def test_no_keys_and_zero_keys():
    assert make().address(keys(0)).shape == (0,)
    assert make().address(torch.zeros(2, 16)).tolist() == [0, 0]


@pytest.mark.parametrize(
    "setting",
    [
        {"hash_bits": 9},
        {"hash_bits": 0},
        {"align_words": 3},
        {"align_words": 0},
        {"align_words": 512},
        {"address_bits": 12},
        {"seed": -1},
        {"table": -1},
    ],
)
def test_bad_settings_are_refused(setting):
    with pytest.raises(ConfigError, match=next(iter(setting))):
        make(**setting)


def test_bad_keys_and_tags_are_refused():
    with pytest.raises(DataError, match="shape"):
        make().address(keys(3, dim=15))
    with pytest.raises(DataError, match="NaN"):
        make().address(torch.full((1, 16), torch.nan))
    for num_bits in (0, 33):
        with pytest.raises(ConfigError, match=f"{num_bits} bits"):
            make().tag(keys(1), num_bits)


def test_log_order_fills_to_the_last_word_and_not_past_it():
    log = AppendPlacement(8)
    assert log.address(2, 100).tolist() == [0, 100]
    with pytest.raises(RangeError, match="256"):
        log.address(1, 57)
    assert log.address(0, 1).tolist() == []
    assert log.address(1, 56).tolist() == [200]
    assert log.next_address == 256
    with pytest.raises(RangeError, match="257 words"):
        log.address(1, 1)


def test_log_order_goes_on_where_it_is_told():
    assert AppendPlacement(16, start=40).address(2, 8).dtype == np.int64
    assert AppendPlacement(16, start=40).address(2, 8).tolist() == [40, 48]
    for start in (-1, 65537):
        with pytest.raises(RangeError, match="start"):
            AppendPlacement(16, start=start)
