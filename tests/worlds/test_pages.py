import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from leworld.worlds.pages import plan_pages


@given(st.lists(st.integers(0, 3), max_size=30), st.integers(1, 256))
def test_plan_equals_writing_blocks_one_by_one(pages, block_words):
    home = np.array(pages, dtype=np.int64) * 256
    plan = plan_pages(home, block_words)
    owner = np.full(4 * 256, -1)
    for block, start in enumerate(plan.start):
        owner[start : start + block_words] = block
        assert start // 256 == pages[block]
        assert (start + block_words - 1) // 256 == pages[block]
    for block, start in enumerate(plan.start):
        intact = (owner[start : start + block_words] == block).all()
        assert intact == plan.alive[block]
    assert plan.evictions == (~plan.alive).sum()
    assert plan.collisions == len(pages) - len(set(pages))


def test_a_full_page_loses_its_oldest_block():
    plan = plan_pages(np.zeros(4, dtype=np.int64), 100)
    assert plan.start.tolist() == [0, 100, 0, 100]
    assert plan.alive.tolist() == [False, False, True, True]
