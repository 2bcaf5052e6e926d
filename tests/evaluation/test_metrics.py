import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from leworld.errors import DataError
from leworld.evaluation import metrics
from leworld.evaluation.seeds import mean_interval
from leworld.types import Ranges


def test_error_is_mean_of_squared_scaled_differences() -> None:
    prediction, target = torch.tensor([[1.0, 4.0]]), torch.tensor([[0.0, 0.0]])
    assert metrics.errors(prediction, target, torch.tensor([1.0, 2.0])).tolist() == [2.5]


@given(st.integers(1, 4), st.integers(1, 5), st.integers(0, 10**6))
@settings(max_examples=20, deadline=None)
def test_mse_is_the_mean_of_errors(batch: int, width: int, seed: int) -> None:
    random = torch.Generator().manual_seed(seed)
    prediction, target = torch.randn(2, batch, 3, width, generator=random)
    scale = 0.5 + torch.rand(width, generator=random)
    plain = sum(
        ((float(prediction[b, t, y]) - float(target[b, t, y])) / float(scale[y])) ** 2
        for b in range(batch)
        for t in range(3)
        for y in range(width)
    ) / (batch * 3 * width)
    assert metrics.errors(prediction, target, scale).shape == (batch, 3)
    assert metrics.mse(prediction, target, scale) == pytest.approx(plain, rel=1e-5)


def test_shapes_that_differ_are_refused() -> None:
    with pytest.raises(DataError, match=r"\(2, 3\).*\(2, 1\)"):
        metrics.errors(torch.zeros(2, 3), torch.zeros(2, 1), torch.ones(3))


def test_interval_of_single_samples_is_the_textbook_one() -> None:
    a, b = torch.tensor([1.0, 2.0, 3.0, 6.0]), torch.zeros(4)
    found = metrics.paired_interval(a, b)
    half = 1.959964 * math.sqrt(14 / 3) / 2
    assert found.mean == pytest.approx(3.0)
    assert (found.low, found.high) == (pytest.approx(3 - half, abs=1e-5), pytest.approx(3 + half, abs=1e-5))


def test_repeated_samples_do_not_narrow_the_interval() -> None:
    a = torch.tensor([1.0, 2.0, 3.0, 6.0])
    once = metrics.paired_interval(a, torch.zeros(4))
    assert metrics.paired_interval(a.unsqueeze(1).expand(4, 50), torch.zeros(4, 50)) == once


def test_rows_are_the_groups_by_default() -> None:
    a = torch.randn(6, 5, generator=torch.Generator().manual_seed(0))
    groups = torch.arange(6).unsqueeze(1).expand(6, 5) * 10
    by_rows, by_name = (metrics.paired_interval(a, torch.zeros_like(a), names) for names in (None, groups))
    assert by_rows.mean == pytest.approx(by_name.mean)
    assert by_rows.low == pytest.approx(by_name.low)


def test_each_group_counts_once_whatever_its_size() -> None:
    found = metrics.paired_interval(torch.tensor([4.0, 4.0, 4.0, 0.0]), torch.zeros(4), torch.tensor([5, 5, 5, 9]))
    assert found.mean == pytest.approx(2.0)


def test_interval_covers_the_truth_about_95_times_in_100() -> None:
    random = torch.Generator().manual_seed(1)
    covered = 0
    for _ in range(400):
        a, b = torch.randn(2, 60, generator=random)
        found = metrics.paired_interval(a + 0.3, b)
        covered += found.low <= 0.3 <= found.high
    assert 0.91 <= covered / 400 <= 0.98


def test_ratio_of_proportional_errors_is_sharp() -> None:
    b = torch.rand(20, generator=torch.Generator().manual_seed(0)) + 0.5
    found = metrics.ratio_interval(3 * b, b)
    assert found.to_dict() == pytest.approx({"mean": 3.0, "low": 3.0, "high": 3.0}, abs=1e-5)


def test_ratio_interval_covers_the_truth_about_95_times_in_100() -> None:
    random = torch.Generator().manual_seed(2)
    covered = 0
    for _ in range(400):
        a, b = torch.rand(2, 80, generator=random)
        found = metrics.ratio_interval(2 * a, b)
        covered += found.low <= 2 <= found.high
    assert 0.91 <= covered / 400 <= 0.98


def test_interval_of_a_positive_figure_does_not_reach_below_0() -> None:
    kept = metrics.Interval(2.0, 0.5, 3.5)
    assert metrics.positive(kept) is kept
    found = metrics.positive(metrics.Interval(2.0, -1.0, 5.0))
    assert (found.mean, found.low, found.high) == pytest.approx((2.0, 2 * math.exp(-1.5), 2 * math.exp(1.5)))
    nothing = metrics.Interval(0.0, 0.0, 0.0)
    assert metrics.positive(nothing) is nothing


def test_ratio_interval_of_two_unlike_groups_is_positive() -> None:
    found = metrics.ratio_interval(torch.tensor([0.01, 4.0]), torch.ones(2))
    assert 0 < found.low < found.mean < found.high


@pytest.mark.parametrize("deviation", [0.5, 1.2])
def test_log_scale_interval_covers_the_mean_of_skewed_errors_as_often_as_the_plain_one(deviation) -> None:
    random = np.random.default_rng(0)
    draws = random.lognormal(0, deviation, (2000, 5))
    plain = [mean_interval(seeds) for seeds in draws.tolist()]
    mean = math.exp(deviation**2 / 2)

    def covered(found: list[metrics.Interval]) -> float:
        return sum(interval.low <= mean <= interval.high for interval in found) / len(found)

    assert covered([metrics.positive(interval) for interval in plain]) >= covered(plain) - 0.01


def test_intervals_that_cannot_be_are_refused() -> None:
    one, two = torch.ones(1), torch.ones(2)
    with pytest.raises(DataError, match="has 1"):
        metrics.paired_interval(one, one)
    with pytest.raises(DataError, match="not paired"):
        metrics.paired_interval(one, two)
    with pytest.raises(DataError, match="do not fit"):
        metrics.paired_interval(two, two, torch.zeros(3, dtype=torch.int64))
    with pytest.raises(DataError, match="mean 0"):
        metrics.ratio_interval(two, torch.zeros(2))


@given(st.integers(1, 6), st.integers(1, 3), st.integers(1, 5), st.data())
@settings(max_examples=30, deadline=None)
def test_hit_agrees_with_a_plain_search(samples: int, slms: int, candidates: int, data: st.DataObject) -> None:
    k = data.draw(st.integers(1, candidates))
    random = torch.Generator().manual_seed(data.draw(st.integers(0, 10**6)))
    start = torch.randint(4, (samples, slms, candidates), generator=random)
    label = torch.randint(4, (samples, slms), generator=random)
    plain = [[int(label[m, n]) in start[m, n, :k].tolist() for n in range(slms)] for m in range(samples)]
    assert metrics.hit(start, label, k).tolist() == plain


@pytest.mark.parametrize("k", [0, 3])
def test_k_outside_the_candidates_is_refused(k: int) -> None:
    with pytest.raises(DataError, match=f"k is {k} but 2 candidates"):
        metrics.hit(torch.zeros(1, 1, 2, dtype=torch.int64), torch.zeros(1, 1, dtype=torch.int64), k)


def test_only_known_and_counted_addresses_are_counted() -> None:
    start = torch.tensor([[[7], [8], [9]]])
    labels = Ranges(torch.tensor([[7, 8, 0]]), torch.tensor([[1, 0, 1]]))
    assert metrics.hit_rate(start, labels, 1) == 0.5
    assert metrics.hit_rate(start, labels, 1, torch.tensor([[True, True, False]])) == 1.0
    assert metrics.hit_rate(start, labels, 1, torch.tensor([[False, True, False]])) is None


def test_a_mask_is_exact_only_as_a_whole() -> None:
    relevant = torch.tensor([[True, False], [True, True]])
    mask = torch.tensor([[True, False], [True, False]])
    assert metrics.exact_mask(mask, relevant) == 0.5
