import json

import pytest
import torch

from leworld.errors import DataError
from leworld.evaluation.capacity import Width, hit_figures, measure_capacity
from leworld.evaluation.claim_pictures import Dot, draw_capacity, draw_claims
from leworld.memory import WordStore
from leworld.types import Proposals, Query
from leworld.worlds import RulesConfig, RulesWorld


class KnowingFleet:
    """Proposes the right address first, or second, for all samples whose key it is asked for."""

    num_slms = 3

    def __init__(self, world: RulesWorld, place: int) -> None:
        self.world = world
        self.place = place

    def propose(self, query: Query) -> Proposals:
        key = query.characteristics[:, 3:]
        right = torch.stack([placement.address(key) for placement in self.world.placements], dim=1)
        start = torch.zeros(*right.shape, 4, dtype=torch.int64)
        start[..., self.place] = right
        length = torch.full_like(start, 2)
        numbers = torch.zeros(start.shape)
        return Proposals(start, length, numbers.bool(), numbers, numbers[..., 0], numbers)


def width(address_bits: int, place: int = 0) -> Width:
    world = RulesWorld(RulesConfig("hard", address_bits=address_bits, num_keys=40), 0)
    memory = WordStore(address_bits)
    for split in ("train", "test"):
        world.populate(memory, split)
    return Width(world, KnowingFleet(world, place), memory, 8)  # pyright: ignore


def test_hits_are_counted_on_test_samples():
    assert hit_figures(width(24), 0, 50) == {"hit_top1": 1.0, "hit_top4": 1.0}
    assert hit_figures(width(24, place=2), 0, 50)["hit_top1"] < 0.1
    assert hit_figures(width(24, place=2), 0, 50)["hit_top4"] == 1.0


def test_the_study_is_plain_and_its_ratios_are_to_the_first_width():
    study = measure_capacity([width(16), width(24), width(32)], 0, samples=40, batch=10, repeats=3)
    assert json.loads(json.dumps(study)) == study
    assert [each["address_bits"] for each in study["widths"]] == [16, 24, 32]
    first, *others = study["widths"]
    assert (first["hit_ratio"], first["cost_ratio"], first["pages"]) == (1.0, 1.0, 256)
    for each in others:
        assert each["pages"] <= 2 * 3 * 40
        assert each["lookup_s"] >= max(each["propose_s"], each["read_s"]) > 0
        assert each["cost_ratio"] > 0


def test_pictures_refuse_to_draw_nothing(tmp_path):
    with pytest.raises(DataError):
        draw_capacity({}, tmp_path / "none.png")
    with pytest.raises(DataError):
        draw_claims([], tmp_path / "none.png")


def test_claims_below_zero_and_without_interval_are_drawn(tmp_path):
    dots = [
        Dot("a", "b", 0.0, -1.0, 1.0, (0.0, -1.0), (None, 1.0), "met"),
        Dot("a", "c", 50.0, None, None, (50.0,), (0.95, 1.05), "missed"),
    ]
    draw_claims(dots, tmp_path / "claims.png")
    assert (tmp_path / "claims.png").stat().st_size > 0
