import numpy as np
import pytest

from leworld.errors import ConfigError, RangeError
from leworld.memory import Field, Schema, WordStore, fill_experience, fill_random, fill_structured, read_experience

SCHEMA = Schema((Field("state", "uint", 5, 9), Field("reward", "float16"), Field("done", "bits")), record_words=3)


def rng(seed=0):
    return np.random.default_rng(seed)


def plain_structured(num_words, context):
    """The seed's four regions, word by word."""
    quarter, words = num_words // 4, []
    words += [1 << (i % 32) for i in range(quarter)]
    words += [int(word) for word in context]
    words += list(range(quarter))
    words += [words[i] ^ words[quarter + i] for i in range(quarter)]
    return words


@pytest.mark.parametrize("bits", [8, 16])
def test_structured_memory_is_the_seeds_four_regions(bits):
    store, num_words = WordStore(bits), 1 << bits
    fill_structured(store, rng())
    words = store.snapshot().words.reshape(-1)
    quarter = num_words // 4
    assert words.tolist() == plain_structured(num_words, words[quarter : 2 * quarter])
    assert len(np.unique(words[quarter : 2 * quarter])) > 0.99 * quarter


def test_random_words_have_all_bits_even():
    store = WordStore(16)
    receipts = fill_random(store, rng())
    words = store.snapshot().words
    assert words.shape == (256, 256)
    assert sum(len(receipt.start) for receipt in receipts) == 256
    shares = [float((words >> bit & 1).mean()) for bit in range(32)]
    assert all(0.49 < share < 0.51 for share in shares)


@pytest.mark.parametrize("fill", [fill_random, fill_structured])
def test_same_generator_same_memory(fill):
    stores = [WordStore(16) for _ in range(3)]
    for store, seed in zip(stores, (1, 1, 2), strict=True):
        fill(store, rng(seed))
    same, again, other = (store.snapshot().words for store in stores)
    np.testing.assert_array_equal(same, again)
    assert (same != other).any()


def test_random_fills_only_the_pages_given_whatever_the_width():
    store = WordStore(32)
    fill_random(store, rng(), pages=[(1 << 24) - 1, 5])
    assert store.snapshot().pages.tolist() == [5, (1 << 24) - 1]
    assert fill_random(store, rng(), pages=[]) == []
    for page in (-1, 1 << 24):
        with pytest.raises(RangeError, match=f"page {page}"):
            fill_random(store, rng(), pages=[page])


@pytest.mark.parametrize("fill", [fill_random, fill_structured])
def test_a_memory_too_wide_is_not_filled_whole(fill):
    with pytest.raises(ConfigError, match="32 address bits"):
        fill(WordStore(32), rng())


def test_experience_is_read_back_as_it_was():
    store, random = WordStore(24), rng()
    fields = {
        "state": random.integers(0, 512, (1000, 5)),
        "reward": random.standard_normal((1000, 1)).astype(np.float16),
        "done": random.integers(0, 2, (1000, 1)),
    }
    receipt = fill_experience(store, SCHEMA, fields, start=70_001)
    assert (len(receipt.start), receipt.start[1], receipt.length[0]) == (1000, 70_004, 3)
    back = read_experience(store, SCHEMA, 1000, start=70_001)
    for name, values in fields.items():
        np.testing.assert_array_equal(back[name], values)


def test_experience_fills_to_the_last_word_and_not_past_it():
    fields = {"state": np.ones((2, 5), int), "reward": np.ones((2, 1)), "done": np.ones((2, 1))}
    store = WordStore(8)
    fill_experience(store, SCHEMA, fields, start=250)
    assert read_experience(store, SCHEMA, 2, start=250)["state"].tolist() == [[1] * 5] * 2
    with pytest.raises(RangeError, match="range 1"):
        fill_experience(store, SCHEMA, fields, start=251)
    assert store.sequence == 1


def test_no_experience_is_fine():
    store = WordStore(8)
    fill_experience(
        store, SCHEMA, {"state": np.zeros((0, 5), int), "reward": np.zeros((0, 1)), "done": np.zeros((0, 1))}
    )
    assert read_experience(store, SCHEMA, 0)["state"].shape == (0, 5)
    assert store.allocated_pages == 0
