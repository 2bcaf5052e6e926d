import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from leworld.memory import PAGE_WORDS
from leworld.worlds.page_plan import plan_ways, way_words

NUM_PAGES = 3


@pytest.mark.parametrize(
    ("block", "way"), [(1, 1), (2, 2), (3, 4), (4, 4), (5, 8), (22, 32), (128, 128), (129, 256), (256, 256)]
)
def test_a_way_is_the_power_of_two_that_holds_a_block(block, way):
    assert way_words(block) == way


def plain_plan(homes: list[int], step: int) -> tuple[list[int], list[int], int]:
    """Block by block: where each was written, who holds each place in the end, and how many homes were taken."""
    holders: list[int | None] = [None] * (NUM_PAGES * PAGE_WORDS // step)
    ways, places, collisions = PAGE_WORDS // step, [], 0
    for block, home in enumerate(homes):
        page, own = home // step // ways, home // step % ways
        collisions += holders[home // step] is not None
        for offset in range(ways):
            place = page * ways + (own + offset) % ways
            if holders[place] is None:
                break
        else:
            place = home // step
        holders[place] = block
        places.append(place * step)
    return places, [block for block in holders if block is not None], collisions


@st.composite
def crowded(draw) -> tuple[list[int], int]:
    block_words = draw(st.sampled_from([1, 22, 32, 60, 64, 100, 128, 129, 256]))
    step = way_words(block_words)
    ways = st.integers(0, NUM_PAGES * PAGE_WORDS // step - 1)
    return [way * step for way in draw(st.lists(ways, max_size=40))], block_words


@given(crowded())
def test_plan_equals_placing_blocks_one_by_one(case):
    homes, block_words = case
    plan = plan_ways(np.array(homes, dtype=np.int64), block_words)
    places, survivors, collisions = plain_plan(homes, way_words(block_words))
    assert plan.start.tolist() == places
    assert sorted(np.flatnonzero(plan.alive).tolist()) == sorted(survivors)
    assert plan.collisions == collisions
    assert plan.evictions == len(homes) - len(survivors)


@given(crowded())
def test_blocks_stay_in_their_page_and_those_alive_are_intact(case):
    homes, block_words = case
    plan = plan_ways(np.array(homes, dtype=np.int64), block_words)
    owner = np.full(NUM_PAGES * PAGE_WORDS, -1)
    for block, start in enumerate(plan.start):
        assert start // PAGE_WORDS == (start + block_words - 1) // PAGE_WORDS == homes[block] // PAGE_WORDS
        owner[start : start + block_words] = block
    for block, start in enumerate(plan.start):
        assert (owner[start : start + block_words] == block).all() == plan.alive[block]


def test_a_taken_way_sends_a_block_to_the_next_free_one_and_round_the_page():
    plan = plan_ways(np.array([256 + 192, 256 + 192, 256 + 192, 256 + 64]), 33)
    assert plan.start.tolist() == [448, 256, 320, 384]
    assert plan.alive.all()
    assert (plan.collisions, plan.evictions) == (3, 0)


def test_in_a_full_page_a_block_takes_its_own_way_from_its_holder():
    plan = plan_ways(np.array([0, 0, 0, 128]), 100)
    assert plan.start.tolist() == [0, 128, 0, 128]
    assert plan.alive.tolist() == [False, False, True, True]
    assert (plan.collisions, plan.evictions) == (3, 2)


def test_no_blocks_and_the_input_is_left_alone():
    plan = plan_ways(np.array([], dtype=np.int64), 5)
    assert (len(plan.start), plan.collisions, plan.evictions) == (0, 0, 0)
    home = np.array([0, 0])
    plan_ways(home, 128)
    assert home.tolist() == [0, 0]
