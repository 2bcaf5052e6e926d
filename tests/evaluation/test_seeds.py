import math

import pytest

from leworld.errors import DataError
from leworld.evaluation.seeds import mean_interval, next_interval, student_95


def test_interval_over_five_seeds_by_hand():
    values = [1.0, 2.0, 3.0, 4.0, 5.0]
    half = 2.776 * math.sqrt(2.5) / math.sqrt(5)
    found = mean_interval(values)
    assert (found.mean, found.low, found.high) == pytest.approx((3.0, 3 - half, 3 + half))
    assert next_interval(values).high == pytest.approx(3 + 2.776 * math.sqrt(2.5) * math.sqrt(1.2))


@pytest.mark.parametrize(("freedom", "factor"), [(1, 12.706), (30, 2.042), (31, 2.0395), (60, 2.0003), (1000, 1.9623)])
def test_factors_are_those_of_the_tables(freedom, factor):
    assert student_95(freedom) == pytest.approx(factor, abs=2e-3)


@pytest.mark.parametrize("interval", [mean_interval, next_interval])
def test_one_seed_has_no_interval(interval):
    for values in ([], [1.0]):
        with pytest.raises(DataError, match="needs 2"):
            interval(values)
