"""The same parts as real Ray actors: the same bits, and errors that say who and what to do."""

import os
import re
import signal
import time
from collections.abc import Iterator

import numpy as np
import pytest
import ray

from actors.errors import ActorError, LostError
from actors.memory.sharded_store import ShardedStore
from actors.ray.actor_calls import gather
from actors.training import system_actors as launching
from actors.training.system_actors import Handles, launch
from cluster.placement.topology import spread
from tests.actors.training.systems import Small, run, same_bits, small

pytestmark = pytest.mark.ray


class Sleeper:
    """An actor that does as it is told."""

    def sleep(self, seconds: float) -> float:
        time.sleep(seconds)
        return seconds

    def fail(self, message: str) -> None:
        raise ValueError(message)

    def refuse(self) -> None:
        raise ActorError("deep inside", "said no", "ask again")

    def die(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


@pytest.fixture(scope="module")
def system(ray_cluster) -> Small:
    return small()


@pytest.fixture(scope="module")
def sleepers(ray_cluster):
    actors = [ray.remote(num_cpus=0)(Sleeper).remote() for _ in range(2)]
    ray.get([actor.sleep.remote(0.0) for actor in actors], timeout=60)
    return actors


def start(actors, method: str, messages: dict[int, tuple], timeout_s: float = 20.0):
    """Call some of the two; wait for the answers later."""
    refs = [getattr(actors[target], method).remote(*given) for target, given in messages.items()]
    return lambda: gather(refs, [("first", "second")[target] for target in messages], timeout_s)


@pytest.fixture(scope="module", params=[(3, 1), (1, 4)], ids=["3 actors, 1 shard", "1 actor, 4 shards"])
def handles(system: Small, request: pytest.FixtureRequest) -> Iterator[Handles]:
    slm_actors, shards = request.param
    handles = launch(system.slms, system.world, shards, spread(3, slm_actors), 60.0)
    yield handles
    handles.stop()


def test_ray_matches_one_process_to_the_bit(system: Small, handles: Handles):
    metrics, state = run(system.learner(handles.fleet(), handles.memory()))
    expected_metrics, expected_state = run(system.learner())
    assert metrics == expected_metrics
    assert same_bits(state, expected_state)


def test_an_slm_joins_in_a_process_of_its_own_and_leaves_while_the_run_goes_on(system: Small, handles: Handles):
    learner = system.learner(handles.fleet(), handles.memory())
    fleet, losses, members = learner.runner.train_state.fleet, [], []
    for progress in learner.steps():
        losses.append(progress.metrics.get("loss"))
        members.append(list(fleet.members))
        if progress.position.phase == "joint" and progress.position.step == 1:
            learner.runner.join(3)
        if progress.position.phase == "refine" and progress.position.step == 1:
            learner.runner.leave(3)
    assert [0, 1, 2, 3] in members
    assert members[-1] == [0, 1, 2]
    assert all(loss == loss for loss in losses)
    state = learner.state()
    assert {name.split(".")[1] for name in state.slms} == {"0", "1", "2"}
    system.learner().load_state(state)


def test_what_is_lost_with_its_machine_is_made_anew_once(system: Small, handles: Handles, monkeypatch):
    """Machines cannot be lost here: the first looks at a memory and at SLM actors find that they were."""
    lost = {"stat": 1, "serve": 1}
    stat, when_up = ShardedStore.stat, launching.when_up

    def stat_unless_lost(store: ShardedStore):
        if lost.pop("stat", 0):
            raise ActorError("shard 0", "has no leader", "wait")
        return stat(store)

    def up_unless_lost(actors, method, given, names, timeout_s):
        if lost.pop("serve", 0):
            raise LostError(names[0], "was lost with its machine", "resume")
        return when_up(actors, method, given, names, timeout_s)

    monkeypatch.setattr(ShardedStore, "stat", stat_unless_lost)
    monkeypatch.setattr(launching, "when_up", up_unless_lost)
    before = handles.memory(handles.memory_name)
    before.write(np.array([5]), np.ones((1, 1), np.uint32))
    name = handles.living_memory()
    assert name != handles.memory_name
    anew = handles.memory(name)
    assert not anew.read(np.array([5]), np.array([1])).words.any()
    anew.write(np.array([5]), np.full((1, 1), 7, np.uint32))
    assert handles.living_memory() == name
    assert handles.memory().read(np.array([5]), np.array([1])).words.tolist() == [7]
    learner = system.learner(handles.fleet(), handles.memory())
    assert handles.anew.keys() == {"memory", 0}
    learner.load_state(system.learner().state())
    assert same_bits(run(learner)[1], run(system.learner())[1])
    assert len(handles.processes()) == len(handles.slm_actors) + handles.memory_config.shards


def test_a_shard_that_dies_comes_back_with_its_words_and_an_slm_actor_is_named(handles: Handles):
    # Comes last: nothing can be asked of these SLM actors any more.
    memory, fleet, processes = handles.memory(), handles.fleet(), handles.processes()
    before = memory.snapshot()
    shard, slms = processes[0], processes[-1]
    assert shard.name == "memory shard 0"
    os.kill(shard.pid, signal.SIGKILL)
    after = memory.snapshot()
    assert (after.words == before.words).all()
    assert (after.pages == before.pages).all()
    os.kill(slms.pid, signal.SIGKILL)
    with pytest.raises(ActorError, match=rf"^{re.escape(slms.name)} died: "):
        fleet.state()


def test_slow_actor_is_named(sleepers):
    answers = start(sleepers, "sleep", {0: (0.0,), 1: (1.5,)}, 1.0)
    with pytest.raises(ActorError, match=r"^second did not answer in 1 s: raise cluster\.timeout_s"):
        answers()


def test_failing_actor_is_named_in_one_line(sleepers):
    with pytest.raises(ActorError) as caught:
        start(sleepers, "fail", {1: ("bad luck\nmore",)})()
    assert str(caught.value).startswith("second failed with ValueError (bad luck)")


def test_our_errors_cross_the_border_as_themselves(sleepers):
    with pytest.raises(ActorError, match=r"^deep inside said no: ask again$"):
        start(sleepers, "refuse", {0: ()})()


def test_gather_keeps_the_order(sleepers):
    refs = [sleepers[0].sleep.remote(0.2), sleepers[1].sleep.remote(0.0)]
    assert gather(refs, ["first", "second"], 20.0) == [0.2, 0.0]
    assert gather([], [], 1.0) == []
