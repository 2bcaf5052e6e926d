"""SLMs in several actors learn what they learn in one process.

With one actor, or one SLM an actor, sums are taken in the same order, so everything is equal to the bit. With two SLMs
in one of two actors, the info query's gradient is summed in another order: equal to rounding.
"""

import pytest
import torch

from actors.training.remote_fleet import RemoteFleet
from actors.training.slm_actor import SLMActor
from leworld.errors import CheckpointError, ConfigError
from leworld.memory import WordStore
from leworld.training.slm_training import SLMGroup
from tests.actors.memory.peers import LocalPeers
from tests.actors.memory.shards import Shards
from tests.actors.training.systems import Small, run, same_bits, small
from tests.models.test_routing_pairs import credit_for
from tests.models.tiny import random_query
from tests.training.pretend_gpu import PretendGPU


@pytest.fixture(scope="module")
def system() -> Small:
    return small()


@pytest.fixture(scope="module")
def reference(system: Small):
    return run(system.learner())


def actors(system: Small, slm_ids) -> RemoteFleet:
    hosts = [SLMActor(f"SLM actor {i}", system.slms, system.world, ids) for i, ids in enumerate(slm_ids)]
    return RemoteFleet(LocalPeers(hosts), slm_ids)


def test_one_process_twice_gives_the_same_bits(system: Small, reference):
    metrics, state = run(system.learner())
    assert metrics == reference[0]
    assert same_bits(state, reference[1])


@pytest.mark.parametrize(("slm_ids", "num_shards"), [(((0, 1, 2),), 4), (((0,), (1,), (2,)), 1)])
def test_actors_match_one_process_to_the_bit(system: Small, reference, slm_ids, num_shards: int, tmp_path):
    shards = Shards(tmp_path, system.world.spec.address_bits)
    try:
        metrics, state = run(system.learner(actors(system, slm_ids), shards.make(*range(num_shards))))
    finally:
        shards.close()
    assert metrics == reference[0]
    assert same_bits(state, reference[1])


def test_uneven_actors_match_one_process_to_rounding(system: Small, reference):
    metrics, state = run(system.learner(actors(system, ((0,), (1, 2)))))
    losses, expected = ([step["loss"] for step in part] for part in (metrics, reference[0]))
    assert losses == pytest.approx(expected, rel=1e-3)
    weights = {name for name in state.blm if name.startswith("model.")}
    for name in weights:
        torch.testing.assert_close(state.blm[name], reference[1].blm[name], rtol=1e-2, atol=1e-3)


def test_a_learner_on_a_gpu_reaches_its_actors(system: Small, reference):
    with PretendGPU() as gpu:
        learner = system.learner(actors(system, ((0,), (1,), (2,))), device="cuda")
        assert {weight.device.type for weight in learner.system.blm.parameters()} == {"cuda"}
        metrics, _ = run(learner)
    assert gpu.num_marked > 1000
    losses, expected = ([step["loss"] for step in part] for part in (metrics, reference[0]))
    assert losses == pytest.approx(expected, rel=1e-3)


def test_one_message_an_actor_a_step(system: Small):
    fleet = actors(system, ((0,), (1, 2)))
    learner = system.learner(fleet)
    for progress in learner.steps():
        if progress.position.phase == "joint":
            break
    fleet.slm_actors.calls.clear()
    next(learner.steps())
    assert fleet.slm_actors.calls == [(0, "propose"), (1, "propose"), (0, "learn"), (1, "learn")]


def test_state_moves_between_numbers_of_actors(system: Small):
    one, three = SLMGroup(system.slms, system.world), actors(system, ((0,), (1,), (2,)))
    one.pretrain(0, 3)()
    three.load_state(one.state())
    found, expected = three.state(), one.state()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert one.pretrain(3, 2)() == three.pretrain(3, 2)()


def test_state_of_fewer_slms_is_refused_before_anything_changes(system: Small):
    learner = system.learner()
    state = learner.state()
    state.slms.pop(next(name for name in state.slms))
    fewer = {name: tensor for name, tensor in state.slms.items() if not name.startswith("slm.2.")}
    with pytest.raises(CheckpointError, match="2 SLMs, this system 3"):
        learner.load_state(type(state)(state.position, state.blm, fewer, state.memory))


def test_learner_goes_on_from_its_state_to_the_same_bits(system: Small, reference):
    first = system.learner()
    for progress in first.steps():
        if progress.position.phase == "joint" and progress.position.step == 2:
            break
    second = system.learner(memory=WordStore(system.world.spec.address_bits))
    second.load_state(first.state())
    metrics, state = run(second)
    assert metrics == reference[0][-len(metrics) :]
    assert same_bits(state, reference[1])


def test_a_run_can_only_be_cut_where_all_parts_stand(system: Small):
    learner = system.learner()
    cuts = [progress.position.step for progress in learner.steps() if learner.can_be_cut(progress)]
    # SLMs pre-train in chunks of 25; then every step will do: 4 joint, 3 refining.
    assert cuts == [25, 26, 1, 2, 3, 4, 1, 2, 3]


@pytest.mark.parametrize("slm_ids", [((0, 1, 2, 3, 4, 5),), ((0, 1), (2,), (3, 4, 5)), ((0, 1, 2, 3), (4, 5))])
def test_actors_are_asked_about_their_samples_alone_and_teach_the_same(slm_ids):
    system = small("model.num_slms=6", "world.settings.num_tables=6", "world.settings.char_dim=12")
    asked = torch.tensor([[0, 3], [3, 1], [5, 0], [1, 0], [0, 1]])
    query = random_query(system.world.spec, len(asked), system.config.model.blm.query_dim)
    one, several = SLMGroup(system.slms, system.world), actors(system, slm_ids)
    gradients = []
    for fleet in (one, several):
        proposals = fleet.propose(query, asked, learn=True)
        gradients += fleet.learn([credit_for(proposals)], 1e-3, ("joint", 0))
        gradients.append(proposals.hidden)
    torch.testing.assert_close(gradients[:2], gradients[2:], rtol=1e-3, atol=1e-5)
    hosts = [target for target, ids in enumerate(slm_ids) if set(ids) & {0, 1, 3, 5}]
    calls = several.slm_actors.calls
    assert calls == [(t, "propose_some") for t in hosts] + [(t, "learn") for t in hosts]
    found, expected = several.state(), one.state()
    assert found.keys() == expected.keys()
    for name in (name for name in expected if "exp_avg." in name):
        torch.testing.assert_close(found[name], expected[name], rtol=1e-3, atol=1e-5)


def changing(system: Small, fleet=None):
    """A run in which an SLM joins and two leave, and its learner."""
    learner = system.learner(fleet)
    losses = []
    for progress in learner.steps():
        losses.append(progress.metrics.get("loss"))
        if progress.position.phase == "joint" and progress.position.step == 1:
            learner.runner.join(3)
        if progress.position.phase == "joint" and progress.position.step == 2:
            learner.runner.leave(1)
        if progress.position.phase == "refine" and progress.position.step == 1:
            learner.runner.leave(0)
    return losses, learner


@pytest.mark.parametrize("slm_ids", [((0, 1, 2),), ((0,), (1, 2)), ((0,), (1,), (2,))])
def test_slms_join_and_leave_actors_as_one_process(system: Small, slm_ids):
    def recruit(slm_id: int) -> LocalPeers:
        return LocalPeers([SLMActor(f"SLM actor of SLM {slm_id}", system.slms, system.world, (slm_id,))])

    fleet = actors(system, slm_ids)
    fleet.recruit = recruit
    losses, learner = changing(system, fleet)
    expected, reference = changing(system)
    assert losses == pytest.approx(expected, rel=1e-3)
    assert fleet.members == reference.runner.train_state.fleet.members == [2, 3]
    first, second = learner.state(), reference.state()
    assert first.slms.keys() == second.slms.keys()
    # Another learner, whose actors are as they were left, takes it up; and so does one process.
    again = actors(system, slm_ids)
    again.recruit = recruit
    for other in (system.learner(again), system.learner()):
        other.load_state(first)
        assert other.runner.train_state.fleet.members == [2, 3]
        assert same_bits(other.state(), first)


def test_a_state_of_all_is_taken_up_by_actors_that_dropped_an_slm(system: Small):
    fleet = actors(system, ((0, 1), (2,)))
    learner = system.learner(fleet)
    state = learner.state()
    learner.runner.leave(1)
    fresh = RemoteFleet(fleet.slm_actors, ((0, 1), (2,)))
    other = system.learner(fresh)
    other.load_state(state)
    assert same_bits(other.state(), state)


def test_an_actor_that_was_lost_can_be_left(system: Small):
    fleet = actors(system, ((0,), (1,), (2,)))
    learner = system.learner(fleet)
    hosts = fleet.slm_actors.objects
    hosts[1].group = None
    learner.runner.leave(1)
    query = random_query(system.world.spec, 3, system.config.model.blm.query_dim)
    assert fleet.propose(query).start.shape[:2] == (3, 2)


def test_without_a_way_to_start_actors_nobody_joins(system: Small):
    learner = system.learner(actors(system, ((0, 1, 2),)))
    with pytest.raises(ConfigError, match="SLM 3 cannot join: this fleet cannot start actors"):
        learner.runner.join(3)
