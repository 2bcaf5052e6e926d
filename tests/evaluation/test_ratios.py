import pytest
import torch

from leworld.evaluation.baselines import WITH_MEMORY
from leworld.evaluation.ratios import best_no_memory, our_ratios, ratio

OURS = torch.tensor([[0.1, 0.2], [0.3, 0.2]])
ERRORS = {
    "copy_last": OURS * 8, "gru": OURS * 4, "knn": OURS * 2, "least_squares": OURS / 8,
    "gru_context": OURS / 2, "oracle": OURS / 4,
}  # fmt: skip


def test_the_best_without_memory_is_neither_told_nor_shown_the_memory() -> None:
    assert best_no_memory(ERRORS) == "gru"


def test_ratios_are_ours_over_theirs() -> None:
    found = our_ratios(OURS, ERRORS, 0.1, None)
    means = {name: None if value is None else value["mean"] for name, value in found.items()}
    with_memory = {"knn": 0.5, "least_squares": 8.0, "gru_context": 2.0}
    assert means == pytest.approx({"floor": 2.0, "oracle": 4.0, "no_memory": 0.25, **with_memory})
    floor = found["floor"]
    assert floor is not None
    # Half of 0.5 between the two rows' ratios 1.5 and 2.5, times 1.96.
    assert floor["high"] - floor["mean"] == pytest.approx(0.98, abs=1e-3)


def test_what_a_world_has_not_is_none() -> None:
    found = our_ratios(OURS, {"gru": OURS}, None, None)
    assert {name for name, value in found.items() if value is None} == {"floor", "oracle", *WITH_MEMORY}
    assert our_ratios(OURS, {"gru": OURS}, 0.0, None)["floor"] is None
    assert ratio(OURS, torch.zeros_like(OURS), None) is None


def test_groups_are_what_counts_as_independent() -> None:
    errors, floor = torch.rand(8, 3, generator=torch.Generator().manual_seed(0)), torch.full((8, 3), 0.5)
    apart, paired = (
        ratio(errors, floor, groups)
        for groups in (None, torch.arange(8).div(4, rounding_mode="floor")[:, None].expand(8, 3))
    )
    assert apart is not None
    assert paired is not None
    assert apart["mean"] == pytest.approx(paired["mean"], rel=1e-5)
    assert apart["high"] != paired["high"]
