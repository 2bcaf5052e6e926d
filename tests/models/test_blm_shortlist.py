"""Few of many SLMs are asked: the prediction is that of all of them with the others unread and out of the sum."""

from dataclasses import replace

import pytest
import torch

from leworld.errors import ConfigError
from leworld.models.forward_pass import of_shortlist
from leworld.models.routing_pairs import apply_own, rows_of
from leworld.models.slm_health import SLMHealth
from leworld.models.system import ModelConfig, System, build_blm, preference
from leworld.training.phase_runner import PhasesConfig
from leworld.types import Query
from tests.models.tiny import MODEL, PHASES, filled, random_query, stir, tiny_trainer, tiny_world

NUM_SLMS, ASKED, BATCH = 6, 2, 7
WORLD = tiny_world("rules", difficulty="wide", num_tables=NUM_SLMS, char_dim=12)


def model(shortlist: int | None) -> ModelConfig:
    return replace(MODEL, num_slms=NUM_SLMS, shortlist_size=shortlist)


def trainer(shortlist: int | None, phases: PhasesConfig = PHASES):
    made = tiny_trainer(WORLD, model(shortlist), phases, stirred=True)
    with torch.no_grad():
        made.train_state.blm.router.key.normal_(generator=torch.Generator().manual_seed(5))
    return made


def query() -> Query:
    return random_query(WORLD.spec, BATCH)


def test_own_maps_are_the_linear_layer_on_zeros_for_all_others():
    random = torch.Generator().manual_seed(0)
    weight = torch.randn(5, NUM_SLMS * 3, generator=random, requires_grad=True)
    shortlist = torch.tensor([[0, 4], [4, 5], [2, 4], [0, 1]])
    x = torch.randn(4, 2, 3, generator=random, requires_grad=True)
    whole = torch.zeros(4, NUM_SLMS, 3).scatter(1, shortlist.unsqueeze(-1).expand_as(x), x)
    expected = whole.flatten(1) @ weight.T
    found = apply_own(weight, x, shortlist)
    torch.testing.assert_close(found, expected)
    for one, two in zip(
        torch.autograd.grad(found.sin().sum(), (weight, x)),
        torch.autograd.grad(expected.sin().sum(), (weight, x)),
        strict=True,
    ):
        torch.testing.assert_close(one, two)


def test_everything_an_slm_has_of_its_own_is_found_for_those_asked():
    blm, shortlist = build_blm(model(ASKED), WORLD.spec, 0), torch.tensor([[1, 4], [0, 5], [2, 4], [0, 1], [3, 5]])
    stir(blm)
    some = random_query(WORLD.spec, len(shortlist))
    everyone, few = blm.sense(some), blm.sense(some, shortlist=shortlist)
    torch.testing.assert_close(few.tags, of_shortlist(everyone.tags, shortlist))
    assert torch.equal(few.state, everyone.state)
    torch.testing.assert_close(
        blm.router.alone(few.state, shortlist=shortlist).logit,
        of_shortlist(blm.router.alone(few.state).logit, shortlist),
    )
    assert torch.equal(rows_of(blm.pooling.slot, None), blm.pooling.slot)
    assert torch.equal(rows_of(blm.pooling.slot, shortlist)[2, 1], blm.pooling.slot[4])


@pytest.mark.parametrize("shortlist", [None, NUM_SLMS])
def test_asking_as_many_as_there_are_is_asking_all(shortlist):
    learner = trainer(shortlist).train_state
    assert learner.blm.shortlist(query()) is None
    step, plain = learner.system.predict(query()), trainer(None).train_state.system.predict(query())
    assert step.shortlist is None
    assert torch.equal(step.next_state, plain.next_state)


def test_the_shortlist_are_the_best_keys_and_no_one_else_is_asked_or_read():
    learner = trainer(ASKED).train_state
    blm, shortlist = learner.blm, learner.blm.shortlist(query())
    score = blm.router.alone(blm.sense(query()).state).logit
    assert torch.equal(shortlist, score.topk(ASKED).indices.sort(-1).values)
    assert len(shortlist.unique()) > ASKED
    told = []
    plain = learner.fleet.propose
    learner.fleet.propose = lambda *given, **named: told.append(given[1]) or plain(*given, **named)
    step = learner.system.predict(query())
    assert torch.equal(step.shortlist, shortlist)
    assert [tuple(part.shape) for part in told] == [(BATCH, ASKED)]
    assert step.mask.shape == step.num_reads_tried.shape == (BATCH, ASKED)
    over = step.over(NUM_SLMS)
    assert over.shortlist is None
    assert over.over(NUM_SLMS) is over
    assert torch.equal(over.mask.gather(1, shortlist), step.mask)
    assert over.reads.length.sum() == step.reads.length.sum()
    outside = torch.ones(BATCH, NUM_SLMS, dtype=torch.bool).scatter(1, shortlist, False)
    assert (over.proposals.start[outside] == -1).all()
    assert (over.mask[outside] == 0).all()
    assert torch.equal(learner.system.wanted(query(), over.proposals), over.mask > 0.5)


def test_a_given_mask_is_asked_first_and_the_excluded_last():
    learner = trainer(ASKED).train_state
    mask = torch.zeros(BATCH, NUM_SLMS)
    mask[:, 3] = 1
    step = learner.system.predict(query(), mask=mask).over(NUM_SLMS)
    assert torch.equal(step.mask, mask)
    usual = learner.blm.shortlist(query())
    health = SLMHealth.fresh(1, NUM_SLMS)
    bad = int(usual.flatten().mode().values)
    health = replace(health, excluded=torch.arange(NUM_SLMS).unsqueeze(0) == bad, wait=health.wait + 2)
    step = learner.system.predict(query(), health=health)
    assert not (step.shortlist == bad).any()
    assert torch.equal(step.shortlist[(usual != bad).all(1)], usual[(usual != bad).all(1)])
    nobody = replace(health, excluded=health.wait > 0)
    assert learner.system.predict(query(), health=nobody).mask.sum() == 0


def test_a_preference_decides_before_any_score():
    mask, allowed = torch.tensor([[1.0, 0, 0]]), torch.tensor([[1.0, 0, 1]])
    assert preference(None, None) is None
    assert preference(mask, None).tolist() == [[1, 0, 0]]
    assert preference(None, allowed).tolist() == [[0, -1, 0]]
    assert preference(mask, allowed).tolist() == [[1, -1, 0]]


@pytest.mark.parametrize("shortlist", [0, NUM_SLMS + 1])
def test_a_number_that_cannot_be_asked_is_refused(shortlist):
    with pytest.raises(ConfigError, match=rf"model.shortlist_size {shortlist} is outside \[1, {NUM_SLMS}\]"):
        model(shortlist)


def test_all_phases_train_with_few_asked_and_teach_whom_to_ask():
    made = trainer(ASKED)
    before = made.train_state.blm.router.key.detach().clone()
    for progress in made.steps():
        if progress.position.phase != "refine" and "loss" in progress.metrics:
            assert 0 <= progress.metrics["recall"] <= 1
    assert not torch.equal(before, made.train_state.blm.router.key)
    assert filled(WORLD).snapshot() is not None
    assert isinstance(made.train_state.system, System)


@pytest.mark.parametrize("name", ["pointers", "physics"])
def test_other_worlds_train_with_few_asked(name):
    world = tiny_world(name, num_tables=4)
    made = tiny_trainer(world, replace(MODEL, num_slms=4, shortlist_size=2), stirred=True)
    losses = [progress.metrics["loss"] for progress in made.steps() if "loss" in progress.metrics]
    assert len(losses) == 6
    assert all(loss == loss for loss in losses)
