"""The model of cost counts what it says, and finds constants again that made the measurements."""

from dataclasses import fields, replace

import pytest

from cluster.placement.cost_model import Constants, Place, Sizes, counts, fit, largest, node_bytes, seconds, touched

SIZES = Sizes(
    slm_flops=1e6, slm_parameters=1e5, blm_flops=2e6, slot_flops=1e6, joint_flops=3e7, blm_parameters=6e5,
    own_parameters=8e3, row_bytes=600, pair_bytes=350,
)  # fmt: skip
TRUE = Constants(2e-3, 3e-4, 1e-9, 2e-10, 2e-10, 1e-7, 5e-4, 3e-9)


def test_boxes_hit_are_all_of_them_in_the_end():
    assert touched(1, 5) == 1
    assert touched(10, 1) == pytest.approx(1)
    assert touched(10, 2) == pytest.approx(1.9)
    assert touched(10, 1e4) == pytest.approx(10)


def test_a_prediction_follows_those_asked_and_the_keys_alone_follow_all():
    few, many = (counts(Place(slms, 3, 64, actors=30), SIZES, joint=False) for slms in (48, 4800))
    assert {name for name in few if few[name] != many[name]} == {"key"}
    assert many["key"] == 100 * few["key"]
    everyone = counts(Place(48, 48, 64, actors=30), SIZES, joint=False)
    assert everyone["slm"] == 16 * few["slm"]
    assert everyone["key"] == 0


def test_a_joint_step_follows_all_by_the_parameters_of_the_blm_and_the_keys():
    few, many = (counts(Place(slms, 3, 64, actors=30), SIZES, joint=True) for slms in (4800, 48000))
    grown = {name for name in few if many[name] > 1.5 * few[name]}
    assert grown == {"key", "blm_step"}


def test_memory_of_a_node_falls_with_the_nodes_but_for_the_blm():
    one, ten = (node_bytes(Place(1000, 3, nodes=n, actors=10, words=1e9), SIZES) for n in (1, 10))
    assert one["words"] == 10 * ten["words"] == 4e9
    assert one["SLMs"] == 10 * ten["SLMs"]
    assert one["BLM"] == ten["BLM"]
    assert largest(one) == "words"


@pytest.mark.parametrize("joint", [False, True])
def test_constants_are_found_again(joint):
    places = [
        Place(slms, asked, batch, actors, parallel=2)
        for slms in (3, 12, 48, 192)
        for asked in (3, slms)
        for batch in (1, 8, 64)
        for actors in (1, 3)
    ]
    rows = [counts(place, SIZES, joint=joint) for place in places]
    measured = [sum(seconds(place, SIZES, TRUE, joint=joint).values()) for place in places]
    found = fit(rows, measured, replace(Constants(), fixed=TRUE.fixed))
    refound = [sum(seconds(place, SIZES, found, joint=joint).values()) for place in places]
    assert refound == pytest.approx(measured, rel=1e-3)
    assert all(getattr(found, field.name) >= 0 for field in fields(found))


def test_no_constant_is_negative_whatever_was_measured():
    rows = [{"fixed": 1.0, "call": float(n)} for n in (1, 2, 3)]
    found = fit(rows, [3.0, 2.0, 1.0])
    assert found.call == 0
    assert 1 < found.fixed < 3
