import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from leworld.errors import DataError
from leworld.memory import checksum, pack_bits, unpack_bits

words_of_any_shape = arrays(np.uint32, array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4))


@settings(max_examples=50, deadline=None)
@given(words_of_any_shape, st.sampled_from([np.float32, np.uint8, np.bool_]))
def test_pack_inverts_unpack(words, dtype):
    bits = unpack_bits(words, dtype)
    assert bits.shape == (*words.shape, 32)
    assert bits.dtype == dtype
    np.testing.assert_array_equal(pack_bits(bits), words)


def test_least_significant_bit_comes_first():
    words = np.array([0, 1, 1 << 31, 0b1011], np.uint32)
    plain = [[(int(word) >> bit) & 1 for bit in range(32)] for word in words]
    np.testing.assert_array_equal(unpack_bits(words), plain)


def test_strided_words_unpack_as_their_copy():
    words = np.arange(24, dtype=np.uint32).reshape(4, 6)[::2, ::-3]
    np.testing.assert_array_equal(unpack_bits(words), unpack_bits(words.copy()))


@pytest.mark.parametrize(
    "bits", [np.zeros((2, 31)), np.zeros(()), np.full(32, 2), np.full(32, 0.5), np.full(32, np.nan)]
)
def test_pack_refuses_what_is_no_word(bits):
    with pytest.raises(DataError):
        pack_bits(bits)


@pytest.mark.parametrize("words", [np.array([-1]), np.array([0.5]), np.array([1], np.uint64), [1]])
def test_unpack_refuses_what_is_not_uint32(words):
    with pytest.raises(DataError, match="uint32"):
        unpack_bits(words)


def test_checksum_is_that_of_little_endian_bytes():
    words = np.array([[1, 0x01020304]], np.uint32)
    assert checksum(words) == zlib.crc32(b"\x01\x00\x00\x00\x04\x03\x02\x01") == checksum(words.astype(">u4"))
