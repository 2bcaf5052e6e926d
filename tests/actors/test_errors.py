"""Errors that travel."""

import pickle

import pytest
from ray.exceptions import ActorUnschedulableError

from actors.errors import ActorError, LostError
from actors.ray.actor_calls import translate
from leworld.errors import LeWorldError, RangeError


def test_unpickled_error_says_the_same():
    error = ActorError("SLM actor 1", "died", "resume")
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is ActorError
    assert str(copy) == str(error) == "SLM actor 1 died: resume"
    assert (copy.actor, copy.problem, copy.way_out) == ("SLM actor 1", "died", "resume")
    assert isinstance(copy, LeWorldError)


def test_our_own_errors_come_out_as_themselves():
    own = RangeError("range 3 is outside")
    assert translate(own, "memory shard 0") is own


@pytest.mark.parametrize("message", ["", "first\nsecond"])
def test_foreign_errors_become_one_line_with_the_actor(message: str):
    found = str(translate(ValueError(message), "memory shard 0"))
    assert found.startswith("memory shard 0 failed with ValueError")
    assert "leworld resume" in found
    assert "\n" not in found
    assert "second" not in found


def test_an_actor_whose_machine_is_gone_is_lost():
    found = translate(ActorUnschedulableError("The node specified does not exist any more"), "SLM actor 2 (SLM 2)")
    assert type(pickle.loads(pickle.dumps(found))) is LostError
    assert str(found).startswith("SLM actor 2 (SLM 2) was lost with its machine: continue from the last checkpoint")
