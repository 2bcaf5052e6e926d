import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from leworld.errors import ConfigError, DataError, RangeError
from leworld.memory import WaySet


def place(ways, *records):
    return ways.place(np.array([page for page, _ in records]), np.array([fitness for _, fitness in records], float))


def test_free_ways_fill_in_order_and_only_then_evict():
    ways = WaySet(64)
    placed = place(ways, *[(3, 1.0)] * 4)
    assert placed.address.tolist() == [768, 832, 896, 960]
    assert not placed.evicted.any()
    assert place(ways, (3, 0.0)).evicted.tolist() == [True]


def test_the_least_fit_goes_first_then_the_oldest():
    ways = WaySet(64)
    place(ways, (0, 2.0), (0, 1.0), (0, 1.0), (0, 3.0))
    assert place(ways, (0, 9.0), (0, 9.0), (0, 9.0)).address.tolist() == [64, 128, 0]


def test_pages_do_not_compete():
    ways = WaySet(256)
    assert place(ways, (0, 1.0), (1, 1.0), (0, 1.0)).evicted.tolist() == [False, False, True]


def test_a_released_way_is_free_whatever_its_fitness_was():
    ways = WaySet(128)
    place(ways, (2, 5.0), (2, 1.0))
    ways.release(np.array([512]))
    assert ways.used(2).tolist() == [False, True]
    placed = place(ways, (2, 0.0))
    assert (placed.address.tolist(), placed.evicted.tolist()) == ([512], [False])


def test_of_released_ways_the_first_is_taken():
    ways = WaySet(128)
    place(ways, (0, 5.0), (0, 1.0))
    ways.release(np.array([0, 128]))
    assert place(ways, (0, 0.0)).address.tolist() == [0]


@settings(max_examples=40, deadline=None)
@given(st.sampled_from([64, 100, 128]), st.lists(st.tuples(st.integers(0, 2), st.integers(0, 3)), max_size=30))
def test_ways_agree_with_a_plain_page(record_words, records):
    ways, pages = WaySet(record_words), {}
    placed = place(ways, *records)
    for i, (page, fitness) in enumerate(records):
        held = pages.setdefault(page, {})
        free = [way for way in range(256 // record_words) if way not in held]
        way = free[0] if free else min(held, key=lambda w: held[w])
        assert placed.evicted[i] == (not free)
        assert placed.address[i] == page * 256 + way * record_words
        held[way] = (fitness, i)
    assert all(ways.used(page).sum() == len(held) for page, held in pages.items())


def test_bad_requests_are_refused_before_anything_is_placed():
    ways = WaySet(32, num_pages=4)
    for bad in (-1, 4):
        with pytest.raises(RangeError, match=f"page {bad}"):
            place(ways, (0, 1.0), (bad, 1.0))
    with pytest.raises(DataError, match="NaN"):
        place(ways, (0, np.nan))
    with pytest.raises(DataError, match="fitness"):
        ways.place(np.array([0, 1]), np.array([1.0]))
    assert not ways.used(0).any()
    for address in (0, 5, 1024):
        with pytest.raises(RangeError, match=f"address {address}"):
            ways.release(np.array([address]))
    for record_words in (0, 257):
        with pytest.raises(ConfigError, match="record_words"):
            WaySet(record_words)
