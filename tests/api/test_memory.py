"""Memory of a model: writes are known at once, and erased to the bit in any order."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import leworld
from leworld.api.memory import ModelMemory
from leworld.api.units import UserUnits
from leworld.errors import DataError, RangeError
from leworld.memory import WordStore
from tests.models.tiny import spec_of

STATE, ACTION = np.array([0.6, 0.8, -1.0]), np.array([0.5])


def plain_memory(bits: int = 8) -> ModelMemory:
    return ModelMemory(WordStore(bits), UserUnits(spec_of(), None))


def whole(memory: ModelMemory) -> np.ndarray:
    return memory.read([0], [256])[0]


def predictions(model: leworld.Model, characteristics: np.ndarray) -> np.ndarray:
    session = model.session(characteristics)
    return np.stack([session.predict(STATE * size, ACTION).next_state for size in (1.0, 0.9, 0.8)])


def test_a_write_is_known_at_once_and_erased_to_the_bit(model, characteristics, episodes):
    before, words = predictions(model, characteristics), model.memory.snapshot()
    receipt = model.memory.write(episodes)
    assert (receipt.written, receipt.left_out) == (33, 7)
    after = predictions(model, characteristics)
    assert np.abs(after - before).max() > 1e-3
    model.memory.erase(receipt)
    assert predictions(model, characteristics).tobytes() == before.tobytes()
    again = model.memory.snapshot()
    kept = np.isin(again.pages, words.pages)
    assert (again.words[kept] == words.words).all()
    assert not again.words[~kept].any()


def test_a_session_goes_on_with_what_was_written(model, characteristics, episodes):
    session = model.session(characteristics)
    first = session.predict(STATE, ACTION).next_state
    model.memory.write(episodes)
    assert np.abs(model.session(characteristics).predict(STATE, ACTION).next_state - first).max() > 1e-3
    assert len(session.predict(STATE, ACTION).reads) > 0


def test_what_was_written_can_be_read_in_the_users_units(model, characteristics, episodes):
    receipt = model.memory.write(episodes)
    rows = [model.memory.transitions(words) for words in model.memory.read(receipt.start, receipt.length)]
    states = np.concatenate([row["states"] for row in rows])
    expected = np.concatenate([episodes["states"][0, :20], episodes["states"][1, :13]])
    np.testing.assert_allclose(states, expected, atol=0.15)
    following = np.concatenate([row["next_states"] for row in rows])
    moved = np.concatenate([episodes["states"][0, 1:], episodes["states"][1, 1:14]])
    np.testing.assert_allclose(following, moved, atol=0.3)
    np.testing.assert_allclose(np.concatenate([row["actions"] for row in rows])[:20], episodes["actions"][0], atol=0.05)
    assert len({tag for row in rows for tag in row["tags"]}) == 1


def test_fewer_transitions_fill_the_rest_with_records_of_nobody(model, characteristics, episodes):
    short = {name: part[:1, :5] if name == "actions" else part[:1, :6] for name, part in episodes.items()}
    receipt = model.memory.write(short)
    assert (receipt.written, receipt.left_out) == (5, 0)
    tags = [model.memory.transitions(words)["tags"] for words in model.memory.read(receipt.start, receipt.length)]
    own = int(model.units.format.tags(model.units.characteristics(characteristics[None])))
    assert [int((part == own).sum()) for part in tags] == [2, 2, 1]


def test_episodes_of_several_bodies_and_ends(model, episodes):
    keys = np.random.default_rng(2).standard_normal((2, 6))
    receipt = model.memory.write({**episodes, "characteristics": keys, "ends": np.array([20, 3])})
    assert receipt.written == 23
    assert len(receipt.start) == 6


def test_episodes_that_do_not_fit_are_named(model, episodes):
    cases = [
        (
            {"states": episodes["states"][..., :2]},
            "episodes['states'] has shape (2, 21, 2): world physics needs 3 columns",
        ),
        ({"actions": np.zeros((2, 19, 1))}, "episodes: array 'actions' has shape (2, 19, 1), which does not go with"),
        (
            {"characteristics": np.zeros((2, 5))},
            "episodes['characteristics'] has shape (2, 5): world physics needs 6 columns",
        ),
        ({"action": np.zeros((2, 20, 1))}, "episodes: array 'action' is not known (did you mean 'actions'?)"),
        ({"states": np.full((2, 21, 3), np.inf)}, "episodes: array 'states' is inf at (0, 0, 0)"),
    ]
    before = model.memory.version
    for change, line in cases:
        with pytest.raises(DataError) as error:
            model.memory.write({**episodes, **change})
        assert line in str(error.value)
    without = {name: part for name, part in episodes.items() if name != "actions"}
    with pytest.raises(DataError, match=r"episodes\['actions'\] has shape \(2, 20, 0\): world physics needs 1 columns"):
        model.memory.write(without)
    with pytest.raises(DataError, match="episodes is a list: give a mapping"):
        model.memory.write([episodes])
    assert model.memory.version == before


def test_where_memory_holds_no_transitions_words_are_to_be_written():
    memory = plain_memory()
    with pytest.raises(
        DataError, match=r"world plain does not hold transitions: .* memory.write_words\(start, words\)"
    ):
        memory.write({})
    receipt = memory.write_words([3, 9], np.full((2, 4), 7, np.uint32))
    assert whole(memory).sum() == 56
    memory.erase(receipt)
    assert not whole(memory).any()


def test_words_outside_are_refused_and_nothing_changes():
    memory = plain_memory()
    for start in ([254], [-1], [300]):
        with pytest.raises(RangeError):
            memory.write_words(start, np.ones((1, 4), np.uint32))
    for words in (np.ones((1, 4)), [[1, 2]]):
        with pytest.raises(DataError, match="uint32"):
            memory.write_words([0], words)
    for start, words in (
        (0, np.ones((1, 4), np.uint32)),
        ([0], np.ones(4, np.uint32)),
        ([0, 9], np.ones((1, 4), np.uint32)),
    ):
        with pytest.raises((RangeError, DataError)):
            memory.write_words(start, words)
    for start in (0.5, [0.5], ["a"]):
        with pytest.raises((RangeError, DataError)):
            memory.read(start, [1])
    assert memory.read([], []) == []
    assert memory.version == 0
    assert not whole(memory).any()


def test_what_a_later_write_covers_stays_and_comes_back_as_it_was_before_both():
    memory = plain_memory()
    first = memory.write_words([0], np.full((1, 8), 1, np.uint32))
    second = memory.write_words([4], np.full((1, 8), 2, np.uint32))
    memory.erase(first)
    assert whole(memory)[:12].tolist() == [0] * 4 + [2] * 8
    memory.erase(second)
    assert not whole(memory).any()


def test_a_receipt_is_good_once_and_for_its_own_memory():
    memory, other = plain_memory(), plain_memory()
    receipt = memory.write_words([0], np.ones((1, 4), np.uint32))
    other.write_words([0], np.ones((1, 4), np.uint32))
    with pytest.raises(DataError, match="receipt of write 1: it was erased already or is of another model"):
        other.erase(receipt)
    memory.erase(receipt)
    with pytest.raises(DataError, match="it was erased already"):
        memory.erase(receipt)


BLOCK = st.tuples(st.integers(0, 40), st.integers(1, 12))


@settings(max_examples=100, deadline=None)
@given(writes=st.lists(st.lists(BLOCK, min_size=1, max_size=3), max_size=6), data=st.data())
def test_memory_is_the_writes_that_were_not_erased_in_their_order(writes, data):
    memory, live = plain_memory(), []
    for number, blocks in enumerate(writes, start=1):
        start, length = [begin for begin, _ in blocks], blocks[0][1]
        words = number * 100 + np.arange(len(start) * length, dtype=np.uint32).reshape(len(start), length)
        live.append((memory.write_words(start, words), start, words))
        if data.draw(st.booleans()):
            memory.erase(live.pop(data.draw(st.integers(0, len(live) - 1)))[0])
        expected = WordStore(8)
        for _, begin, written in live:
            expected.write(begin, written)
        assert (whole(memory) == expected.read([0], [256]).words).all()
