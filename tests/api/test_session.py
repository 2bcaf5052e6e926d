"""Sessions: what they keep, what they answer, and what they refuse."""

import numpy as np
import pytest
import torch

from leworld.errors import DataError
from leworld.types import Query

STATE, ACTION = np.array([0.6, 0.8, -1.0]), np.array([0.5])


def walk(model, characteristics, states, actions):
    session = model.session(characteristics)
    return [session.predict(state, action) for state, action in zip(states, actions, strict=True)]


def test_a_step_has_numpy_arrays_in_the_users_units(model, characteristics):
    step = model.session(characteristics).predict(STATE, ACTION)
    assert step.next_state.shape == (3,)
    assert step.next_state.dtype == np.float64
    assert np.abs(step.next_state - STATE).max() < 3
    assert step.mask.shape == (3,)
    assert step.mask.dtype == bool


def test_reads_say_which_words_by_whom_and_how_confident(model, characteristics, episodes):
    model.memory.write(episodes)
    step = model.session(characteristics).predict(STATE, ACTION)
    assert [read.slm for read in step.reads] == [
        slm for slm, trusted in zip(model.slms, step.mask, strict=True) if trusted
    ]
    home = model.units.format.home(model.units.characteristics(characteristics[None]))[0].tolist()
    assert step.reads
    for read in step.reads:
        assert read.length == len(read.words) == 22
        assert (read.words == model.memory.read([read.start], [read.length])[0]).all()
        if read.start == home[read.slm]:
            assert read.confidence > 0.5


def test_a_batch_is_its_episodes_side_by_side(model, episodes):
    keys = np.random.default_rng(0).standard_normal((4, 6))
    states, actions = episodes["states"][0, :12].reshape(3, 4, 3), episodes["actions"][0, :12].reshape(3, 4, 1)
    together = walk(model, keys, states, actions)
    for row in range(4):
        for whole, one in zip(together, walk(model, keys[row], states[:, row], actions[:, row]), strict=True):
            np.testing.assert_allclose(whole.next_state[row], one.next_state, atol=1e-5)
            assert (whole.mask[row] == one.mask).all()
            assert [(read.slm, read.start) for read in whole.reads[row]] == [
                (read.slm, read.start) for read in one.reads
            ]
            np.testing.assert_allclose(
                *([r.confidence for r in part] for part in (whole.reads[row], one.reads)), atol=1e-5
            )


def test_a_batch_of_one_keeps_its_axis(model, characteristics):
    step = model.session(characteristics[None]).predict(STATE[None], ACTION[None])
    assert step.next_state.shape == (1, 3)
    assert (step.next_state[0] == model.session(characteristics).predict(STATE, ACTION).next_state).all()


def test_a_transition_counts_as_seen_from_the_call_that_gives_its_second_state(model, characteristics, episodes):
    states, actions = episodes["states"][0], episodes["actions"][0]
    found = walk(model, characteristics, states[:3], actions[:3])
    system, units = model.system, model.units
    inputs = units.inputs(states[:3], actions[:3])
    key, request, seen = units.characteristics(characteristics[None]), torch.zeros(1, 8), None
    for t in range(3):
        query = Query(inputs[max(t - 1, 0)][None], inputs[t][None], key, request)
        seen = system.observe(query, seen)
        step = system.predict(query, seen=seen)
        request = step.info_query
        assert (found[t].next_state == units.user_state(step.next_state)[0]).all()


def test_sessions_do_not_know_of_each_other(model, characteristics, episodes):
    states, actions = episodes["states"][0, :4], episodes["actions"][0, :4]
    alone = walk(model, characteristics, states, actions)
    first, second = model.session(characteristics), model.session(characteristics)
    for t in range(4):
        second.predict(states[3 - t], actions[t])
        assert (first.predict(states[t], actions[t]).next_state == alone[t].next_state).all()


def test_a_rollout_is_imagined_step_by_step(model, characteristics, episodes):
    states, actions = episodes["states"][0], episodes["actions"][0]
    session, system, units = model.session(characteristics), model.system, model.units
    for t in range(2):
        session.predict(states[t], actions[t])
    path = session.rollout(states[2], actions[2:7])
    assert path.states.shape == (5, 3)
    assert path.mask.shape == (5, 3)
    key, current = units.characteristics(characteristics[None]), units.inputs(states[2:3], actions[2:3])
    query = Query(units.inputs(states[1:2], actions[1:2]), current, key, session._request)
    seen = system.observe(query, session._seen)
    for t in range(5):
        step = system.predict(query, seen=seen)
        assert (path.states[t] == units.user_state(step.next_state)[0]).all()
        move = units.model_actions(actions[3 + t : 4 + t])
        query = Query(query.current, torch.cat([step.next_state, move], dim=-1), key, step.info_query)


def test_the_first_step_of_a_rollout_is_a_prediction_and_the_session_stays(model, characteristics, episodes):
    states, actions = episodes["states"][0], episodes["actions"][0]
    session, other = model.session(characteristics), model.session(characteristics)
    for t in range(5):
        path = session.rollout(states[t], actions[t:])
        step = other.predict(states[t], actions[t])
        assert (path.states[0] == step.next_state).all()
        assert (path.mask[0] == step.mask).all()
        assert (session.predict(states[t], actions[t]).next_state == step.next_state).all()


def test_candidates_are_rolled_out_side_by_side(model, characteristics, episodes):
    random = np.random.default_rng(0)
    keys, sets = random.standard_normal((2, 6)), random.uniform(-2, 2, size=(2, 5, 4, 1))
    states = episodes["states"][:, 0]
    many = model.session(keys).rollout(states, sets)
    assert many.states.shape == (2, 5, 4, 3)
    assert many.mask.shape == (2, 5, 4, 3)
    for body in range(2):
        one = model.session(keys[body])
        np.testing.assert_allclose(one.rollout(states[body], sets[body]).states, many.states[body], atol=1e-4)
        for k in range(5):
            np.testing.assert_allclose(one.rollout(states[body], sets[body, k]).states, many.states[body, k], atol=1e-4)
    assert model.session(keys).rollout(states, sets[:, 0]).states.shape == (2, 4, 3)


@pytest.mark.parametrize(
    ("state", "action", "line"),
    [
        (STATE[:2], ACTION, "state has shape (2,): world physics needs (3,) here"),
        (STATE[None], ACTION, "state has shape (1, 3): world physics needs (3,) here"),
        (STATE, [0.5, 0.5], "action has shape (2,): world physics needs (1,) here"),
        (STATE, 0.5, "action has shape (): world physics needs (1,) here"),
        (STATE, None, "action is not an array of numbers: give one of shape (1,)"),
        ([0.1, np.nan, 0], ACTION, "state is nan at (1,): give finite numbers"),
        (["a", "b", "c"], ACTION, "state is not an array of numbers: give one of shape (3,)"),
        ([[1.0], [1.0, 2.0]], ACTION, "state is not an array of numbers: give one of shape (3,)"),
    ],
)
def test_what_does_not_fit_is_named(model, characteristics, state, action, line):
    session = model.session(characteristics)
    with pytest.raises(DataError) as error:
        session.predict(state, action)
    assert str(error.value) == line
    fresh = model.session(characteristics)
    assert (session.predict(STATE, ACTION).next_state == fresh.predict(STATE, ACTION).next_state).all()


def test_shapes_of_sessions_and_rollouts_are_named(model, characteristics):
    with pytest.raises(DataError, match=r"characteristics has shape \(5,\): world physics needs \(6,\) here"):
        model.session(characteristics[:5])
    with pytest.raises(DataError, match=r"characteristics has shape \(1, 2, 3\): world physics needs \(6,\) here"):
        model.session(np.zeros((1, 2, 3)))
    with pytest.raises(DataError, match=r"state has shape \(3, 3\): world physics needs \(2, 3\) here"):
        model.session(np.zeros((2, 6))).predict(np.zeros((3, 3)), np.zeros((2, 1)))
    session = model.session(characteristics)
    with pytest.raises(DataError, match=r"actions has shape \(4,\): world physics needs \(H, 1\) here"):
        session.rollout(STATE, np.zeros(4))
    with pytest.raises(DataError, match=r"actions has shape \(2, 4, 2\): world physics needs \(K, H, 1\) here"):
        session.rollout(STATE, np.zeros((2, 4, 2)))
    with pytest.raises(DataError, match=r"actions has shape \(0, 1\): world physics needs \(H, 1\) here"):
        session.rollout(STATE, np.zeros((0, 1)))


def test_slms_that_are_not_believed_are_shut_out_until_something_is_written(model, characteristics, episodes):
    session = model.session(characteristics, watch_health=True)
    steps = [session.predict(STATE, ACTION) for _ in range(8)]
    assert steps[0].mask.all()
    assert not all(step.mask.all() for step in steps[1:])
    session.rollout(STATE, np.zeros((2, 3, 1)))
    model.memory.write(episodes)
    assert session.predict(STATE, ACTION).mask.all()
