"""SLMs join and leave a run that goes on."""

from dataclasses import replace

import pytest
import torch

from leworld.errors import ConfigError
from leworld.models.membership import PROBATION_STEPS, own_parts
from leworld.training.phase_runner import PhaseRunner
from leworld.types import Query
from leworld.worlds import World
from tests.models.tiny import MODEL, PHASES, random_query, tiny_trainer, tiny_world

TABLES, BATCH = 4, 9


@pytest.fixture(scope="module")
def world() -> World:
    return tiny_world("rules", num_tables=TABLES, char_dim=10)


def begun(world: World, shortlist: int | None = None, steps: int = 60) -> PhaseRunner:
    """In the middle of the joint phase; every weight was moved, so that all of them count."""
    joint = replace(PHASES.joint, steps=steps, lr=3e-3)
    phases = replace(PHASES, joint=joint, refine=replace(PHASES.refine, steps=0))
    made = tiny_trainer(world, replace(MODEL, num_slms=TABLES, shortlist_size=shortlist), phases, stirred=True)
    go(made, 4)
    return made


def go(trainer: PhaseRunner, steps: int) -> list[float]:
    """So many steps of the joint phase: what each lost."""
    losses: list[float] = []
    for progress in trainer.steps():
        if progress.position.phase == "joint":
            losses.append(progress.metrics["loss"])
        if len(losses) == steps:
            break
    return losses


def query(world: World) -> Query:
    return random_query(world.spec, BATCH)


def asked_by(trainer: PhaseRunner, steps: int) -> set[int]:
    """The numbers of the SLMs that a training asks."""
    fleet, found = trainer.train_state.fleet, set()
    plain = fleet.propose

    def propose(query, shortlist=None, *, learn=False):
        places = range(fleet.num_slms) if shortlist is None else shortlist.unique().tolist()
        found.update(fleet.members[place] for place in places)
        return plain(query, shortlist, learn=learn)

    fleet.propose = propose
    go(trainer, steps)
    fleet.propose = plain
    return found


@pytest.mark.parametrize("shortlist", [None, 2])
def test_no_prediction_changes_when_an_slm_joins_and_it_is_asked_in_the_end(world, shortlist):
    trainer = begun(world, shortlist)
    before = trainer.train_state.system.predict(query(world))
    trainer.join(TABLES)
    assert trainer.train_state.fleet.members == [0, 1, 2, 3, 4]
    after = trainer.train_state.system.predict(query(world))
    if shortlist is None:
        torch.testing.assert_close(after.next_state, before.next_state, rtol=0, atol=1e-6)
        assert torch.equal(after.mask, before.mask)
    else:
        assert torch.equal(after.next_state, before.next_state)
    assert after.shortlist is not None
    assert TABLES not in after.shortlist
    assert TABLES in asked_by(trainer, PROBATION_STEPS - 1)
    assert trainer.train_state.blm.probation == [0, 0, 0, 0, 1]
    assert not (trainer.train_state.system.predict(query(world)).shortlist == TABLES).any()
    go(trainer, 1)
    assert trainer.train_state.blm.probation == [0] * 5
    with torch.no_grad():
        trainer.train_state.blm.router.key[TABLES] += 20 * trainer.train_state.blm.router.score.weight[0].sign()
    everyone = trainer.train_state.blm.shortlist(query(world))
    assert (everyone == TABLES).any()


def test_one_that_left_is_never_asked_again_and_the_others_are_as_they_were(world):
    trainer = begun(world, 2)
    blm = trainer.train_state.blm
    kept = {name: blm.get_parameter(name).detach().clone() for name in own_parts(blm)}
    moments = {
        name: trainer.train_state.optimizer.adam.state[blm.get_parameter(name)]["exp_avg"].clone() for name in kept
    }
    trainer.leave(1)
    assert trainer.train_state.fleet.members == [0, 2, 3]
    for name, (axis, width) in own_parts(blm).items():
        now = blm.get_parameter(name)
        rows = [i for place in (0, 2, 3) for i in range(place * width, (place + 1) * width)]
        assert torch.equal(now, kept[name].index_select(axis, torch.tensor(rows)))
        moment = trainer.train_state.optimizer.adam.state[now]["exp_avg"]
        assert torch.equal(moment, moments[name].index_select(axis, torch.tensor(rows)))
    assert asked_by(trainer, 20) == {0, 2, 3}
    step = trainer.train_state.system.predict(query(world))
    assert step.over(blm.num_slms).mask.shape == (BATCH, 3)


def test_the_loss_goes_on_falling_over_all_changes(world):
    trainer = begun(world, 2, steps=400)
    first = go(trainer, 60)
    trainer.join(5)
    assert trainer.train_state.tables.tolist() == [0, 1, 2, 3, 1]
    second = go(trainer, 60)
    trainer.leave(1)
    assert trainer.train_state.tables.tolist() == [0, 2, 3, 1]
    third = go(trainer, 60)

    def mean(losses: list[float]) -> float:
        return sum(losses[-30:]) / 30

    assert sum(first[:10]) / 10 > mean(first)
    assert mean(second) < mean(first) * 1.05
    assert mean(third) < mean(second) * 1.05
    assert mean(third) < mean(first)


def test_all_phases_go_on_with_other_members(world):
    for shortlist in (None, 2):
        trainer = tiny_trainer(world, replace(MODEL, num_slms=TABLES, shortlist_size=shortlist), stirred=True)
        steps = trainer.steps()
        next(steps)
        trainer.join(4)
        trainer.leave(2)
        done = [progress.position for progress in steps]
        assert done[-1].phase == "refine"
        assert trainer.train_state.fleet.members == [0, 1, 3, 4]


def test_an_slm_that_joins_is_pre_trained_as_the_others(world):
    trainer = begun(world)
    trainer.join(6)
    other = tiny_trainer(world, replace(MODEL, num_slms=TABLES)).train_state.fleet
    other.host([6])
    other.pretrain(0, PHASES.pretrain.slm_steps)()
    state = trainer.train_state.fleet.state()
    assert all(torch.equal(tensor, state[name]) for name, tensor in other.state().items())


def test_what_cannot_be_is_refused(world):
    trainer = begun(world)
    with pytest.raises(ConfigError, match="SLM 3 cannot join: numbers up to 3 were given; take a higher one"):
        trainer.join(3)
    with pytest.raises(ConfigError, match="SLM 7 cannot leave: there are 0, 1, 2, 3; name one of several"):
        trainer.leave(7)
    for slm_id in (0, 1, 2):
        trainer.leave(slm_id)
    with pytest.raises(ConfigError, match="SLM 3 cannot leave"):
        trainer.leave(3)
    assert go(trainer, 2)
