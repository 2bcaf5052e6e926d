from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from leworld.errors import ConfigError, DataError, RangeError
from leworld.memory import check_address_bits, check_ranges, clip, expand
from leworld.memory.ranges import split_at_pages

ranges = st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 256)), max_size=8)


def as_arrays(pairs):
    return np.array([s for s, _ in pairs], np.int64), np.array([n for _, n in pairs], np.int64)


@pytest.mark.parametrize("bits", [8, 16, 24, 32])
def test_whole_digits_are_address_bits(bits):
    assert check_address_bits(bits) == bits


@pytest.mark.parametrize("bits", [-8, 0, 1, 7, 12, 31, 33, 40])
def test_other_address_bits_are_named(bits):
    with pytest.raises(ConfigError, match=f"address_bits {bits} "):
        check_address_bits(bits)


@pytest.mark.parametrize(("start", "length"), [(0, 0), (0, 256), (255, 1), (255, 0), (0, 1)])
def test_ranges_up_to_the_last_word_are_in(start, length):
    got = check_ranges([start], [length], 256)
    assert (got[0].item(), got[1].item()) == (start, length)


@pytest.mark.parametrize(
    ("start", "length"), [(-1, 1), (256, 0), (256, 1), (255, 2), (0, 257), (0, -1), (2**63 - 1, 256), (-(2**63), 1)]
)
def test_the_first_bad_range_is_named(start, length):
    with pytest.raises(RangeError, match=rf"range 1 \(start {start}, length {length}\)"):
        check_ranges([0, start, 999], [1, length, 1], 256)


@pytest.mark.parametrize(("start", "length"), [([0.0], [1]), ([0, 1], [1]), ([[0]], [[1]]), (["a"], [1])])
def test_what_is_no_range_is_refused(start, length):
    with pytest.raises(DataError):
        check_ranges(start, length, 256)


def test_no_ranges_are_fine():
    start, length = check_ranges([], [], 256)
    assert start.shape == length.shape == (0,)


def test_clip_leaves_what_lies_in_the_memory():
    start, length = np.array([0, 250, 255, 100, 255]), np.array([256, 6, 2, 256, 1])
    left, clipped = clip(start, length, 256)
    assert left.tolist() == [256, 6, 1, 156, 1]
    assert clipped.tolist() == [False, False, True, True, False]
    check_ranges(start, left, 256)


@settings(max_examples=60, deadline=None)
@given(ranges)
def test_expand_agrees_with_plain_ranges(pairs):
    addresses, offsets = expand(*as_arrays(pairs))
    plain = [list(range(s, s + n)) for s, n in pairs]
    assert addresses.tolist() == [address for row in plain for address in row]
    assert [addresses[a:b].tolist() for a, b in pairwise(offsets)] == plain


@settings(max_examples=60, deadline=None)
@given(ranges)
def test_split_keeps_every_word_and_crosses_no_page(pairs):
    start, length = as_arrays(pairs)
    index, part_start, part_length = split_at_pages(start, length)
    assert (part_length >= 1).all()
    assert (part_start // 256 == (part_start + part_length - 1) // 256).all()
    assert expand(part_start, part_length)[0].tolist() == expand(start, length)[0].tolist()
    assert np.repeat(index, part_length).tolist() == np.repeat(np.arange(len(pairs)), length).tolist()
