import copy
import math
from dataclasses import replace

import pytest
import torch

from leworld.errors import ConfigError
from leworld.models.blm import Prediction
from leworld.models.forward_pass import ForwardPass
from leworld.models.system import System
from leworld.models.tag_head import SURE, tag_loss
from leworld.rng import generator
from leworld.training.data_parallel import ALONE
from leworld.training.phase_runner import PhaseRunner
from leworld.training.refine import (
    RefineConfig,
    asked_metrics,
    delay,
    first_requests,
    foresight_loss,
    guide,
    make_requests,
    refine_step,
    request_worth,
    sent,
    to_credit,
)
from leworld.training.slm_training import SLMGroup
from leworld.training.train_state import TrainState
from leworld.types import Batch, Ranges
from tests.models.tiny import PHASES, tiny_trainer, tiny_world

CONFIG = replace(PHASES.refine, horizon=4, guided=1.0, steps=1)


@pytest.fixture(scope="module")
def world():
    return tiny_world("pointers")


def ask_gradients(
    world, config: RefineConfig, horizon: int = 4, step: int = 1, *, deaf: bool = True
) -> dict[str, torch.Tensor]:
    """The gradients of the BLM's ask heads in the middle one of 3 steps; if ``deaf``, of what the SLMs alone teach."""
    learner = tiny_trainer(world, stirred=True).train_state
    with torch.no_grad():
        # A BLM that does not hear its own request, and predicts without notes: what is left is what the SLMs send back.
        for heard in (learner.blm.info_query, learner.blm.tags.request, learner.blm.told) if deaf else ():
            heard.weight.zero_()
    found = {}
    plain = learner.optimizer.step

    def take_step(lr: float) -> float:
        heads = ("ask", "norm_ask", "norm_notes", "records.notes")
        for name, weight in [item for item in learner.blm.named_parameters() if item[0].startswith(heads)]:
            found[name] = torch.zeros_like(weight) if weight.grad is None else weight.grad.clone()
        return plain(lr)

    learner.optimizer.step = take_step
    refine_step(learner, replace(config, steps=3, horizon=horizon), step)
    return found


def test_what_slms_are_taught_reaches_the_head_that_asks(world):
    taught = ask_gradients(world, CONFIG)
    assert all(gradient.abs().max() > 1e-7 for gradient in taught.values())
    twice = ask_gradients(world, replace(CONFIG, request_weight=2.0))
    for name, gradient in taught.items():
        assert torch.allclose(twice[name], 2 * gradient, rtol=1e-4, atol=1e-8)


def test_without_weight_or_without_a_next_step_no_request_is_taught(world):
    weightless, first = ask_gradients(world, replace(CONFIG, request_weight=0.0)), ask_gradients(world, CONFIG, step=0)
    for silent in (weightless, first, ask_gradients(world, CONFIG, horizon=1)):
        assert all(gradient.abs().max() == 0 for gradient in silent.values())


def test_a_blm_that_hears_its_requests_teaches_them_too_but_not_without_weight(world):
    heads = ("ask", "norm_ask")
    for weight, taught in ((1e-9, True), (0.0, False)):
        found = ask_gradients(world, replace(CONFIG, request_weight=weight), deaf=False)
        moved = {name: bool(g.abs().max() > 1e-7) for name, g in found.items() if name.split(".")[0] in heads}
        assert moved
        assert all(value == taught for value in moved.values())


def test_requests_arrive_one_step_later_and_never_cross_sequences():
    made = torch.arange(1.0, 9.0).unsqueeze(1)
    assert delay(made, 4).flatten().tolist() == [0, 1, 2, 3, 0, 5, 6, 7]
    assert delay(made, 1).flatten().tolist() == [0] * 8
    assert delay(made, 8).flatten().tolist() == [0, 1, 2, 3, 4, 5, 6, 7]


def test_the_request_made_last_is_made_by_a_step_that_received_one(world):
    trainer = tiny_trainer(world, stirred=True)
    learner = trainer.train_state
    sequences = world.batch("train", CONFIG.sequences, generator(learner.seed, "refine", 0))
    batch = sequences.fold_time().at(0)
    everyone = torch.ones(len(batch.current), dtype=torch.bool)
    first = first_requests(learner, CONFIG, batch, None, everyone, 4)
    assert not first.view(-1, 4, first.shape[1])[:, 0].any()
    assert not first.requires_grad
    second = delay(make_requests(learner, CONFIG, batch, None, first, everyone).request, 4).detach()
    assert not torch.equal(first, second)
    found = []
    plain = learner.fleet.propose
    learner.fleet.propose = lambda query, shortlist=None, *, learn=False: (
        found.append((learn, query.info_query.clone())) or plain(query, learn=learn)
    )
    refine_step(learner, CONFIG, 0)
    # Worth and the first requests are found without any, the second ones with the first, and those are taught.
    assert [learn for learn, _ in found] == [False, False, False, True]
    for query, expected in zip([query for _, query in found], (0 * first, 0 * first, first, second), strict=True):
        assert torch.allclose(query, expected, atol=1e-6)


def test_guided_rows_send_every_request_and_others_those_above_the_price():
    made = Prediction(torch.zeros(4, 1), torch.tensor([[1.0], [2.0], [3.0], [4.0]]), torch.tensor([0.0, 0.0, 0.3, 0.2]))
    guided = torch.tensor([True, False, False, False])
    assert sent(made, guided, 0.2).flatten().tolist() == [1, 0, 3, 0]
    assert sent(made, ~guided, 0.2).flatten().tolist() == [0, 2, 3, 4]


def test_foresight_is_judged_by_what_the_next_step_found_and_never_across_sequences():
    random = torch.Generator().manual_seed(0)
    foreseen, worth = torch.randn(12, generator=random), torch.randn(12, generator=random)
    plain = sum((foreseen[i] - worth[i + 1]) ** 2 for i in range(12) if i % 4 != 3) / 12
    assert foresight_loss(foreseen, worth, 4).item() == pytest.approx(float(plain), rel=1e-5)
    assert foresight_loss(foreseen, worth, 1).item() == 0


def test_slms_meet_the_requests_of_the_step_before(world):
    trainer = tiny_trainer(world, stirred=True)
    fleet = trainer.train_state.fleet
    heard = []
    plain = fleet.propose

    def propose(query, shortlist=None, *, learn=False):
        heard.append((learn, query.info_query.clone()))
        return plain(query, learn=learn)

    fleet.propose = propose
    refine_step(trainer.train_state, replace(CONFIG, sequences=3), 0)
    [received] = [query for learn, query in heard if learn]
    by_step = received.view(3, 4, -1)
    assert not by_step[:, 0].any()
    assert (by_step[:, 1:].abs().amax(-1) > 0).all()


def test_guided_rows_read_what_the_write_log_names_where_it_knows():
    proposed = Ranges(torch.tensor([[1, 2], [3, 4]]), torch.tensor([[5, 5], [5, 5]]))
    labels = Ranges(torch.tensor([[10, 20], [30, 40]]), torch.tensor([[2, 0], [2, 2]]))
    found = guide(proposed, labels, torch.tensor([True, False]))
    assert found.start.tolist() == [[10, 2], [3, 4]]
    assert found.length.tolist() == [[2, 5], [5, 5]]


def test_tags_are_taught_bit_by_bit_where_the_record_is_known():
    random = torch.Generator().manual_seed(0)
    scores, bits = torch.randn(4, 2, 3, generator=random), torch.randint(0, 2, (4, 2, 3), generator=random)
    known = torch.tensor([[True, False], [False, False], [True, True], [False, True]])
    plain = []
    for row, table in known.nonzero().tolist():
        for score, bit in zip(scores[row, table].tolist(), bits[row, table].tolist(), strict=True):
            p = 1 / (1 + math.exp(-2 * score))
            plain.append(-math.log(p if bit else 1 - p))
    assert tag_loss(scores, 2.0 * bits - 1, known).item() == pytest.approx(sum(plain) / len(plain), rel=1e-5)
    assert tag_loss(scores, 2.0 * bits - 1, known & False).item() == 0
    assert tag_loss(scores[..., :0], bits[..., :0].float(), known).item() == 0


def test_the_weight_of_requests_grows_from_0_over_the_phase():
    config = RefineConfig(steps=11, request_weight=0.8)
    assert [config.request_weight_at(step) for step in (0, 5, 10)] == pytest.approx([0.0, 0.4, 0.8])
    assert RefineConfig(steps=1, request_weight=0.8).request_weight_at(0) == 0


def folded(trainer: PhaseRunner) -> Batch:
    return trainer.train_state.world.batch("train", 4, torch.Generator().manual_seed(0)).fold_time().at(0)


def expecting_the_right(learner: TrainState, batch: Batch) -> System:
    """A system whose BLM expects the tags of what the write log names."""
    system, plain = learner.system, learner.blm.sense
    forward = ForwardPass(system, learner.query(batch))
    (index,) = forward.read(batch.labels)
    tags = SURE * forward.records.tags[index, 0].detach()
    system.blm = copy.copy(system.blm)
    system.blm.sense = lambda query, seen, shortlist: replace(plain(query, seen), tags=tags)
    return system


def test_worth_is_the_part_of_the_error_that_right_reads_save(world):
    trainer = tiny_trainer(world, stirred=True)
    # Random notes would make every believed read a bad one.
    torch.nn.init.zeros_(trainer.train_state.blm.told.weight)
    batch = folded(trainer)
    without, worth = request_worth(trainer.train_state, batch, None, ALONE.part(len(batch.current)))
    everyone = torch.ones(len(worth), 3)
    query = trainer.train_state.query(batch)
    proposals = trainer.train_state.fleet.propose(query).ranges()
    plain = trainer.train_state.system.predict(query, ranges=proposals)

    def error(step) -> torch.Tensor:
        return ((step.next_state - batch.target) / world.spec.scale).square().mean(-1)

    # Like for like: everything is read in both, so that the mask has no part in the difference.
    proposed = trainer.train_state.system.predict(query, ranges=proposals, mask=everyone)
    right = expecting_the_right(trainer.train_state, batch).predict(query, ranges=batch.labels, mask=everyone)
    assert torch.allclose(without, error(plain), rtol=1e-3, atol=1e-5)
    expected = ((error(proposed) - error(right)) / error(proposed).mean()).clamp(-1, 1)
    assert torch.allclose(worth, expected, rtol=1e-3, atol=1e-4)
    assert (plain.mask == 0).any()
    assert 0 < (worth > 0).float().mean() < 1


def test_keyed_addresses_count_as_configured_and_asked_ones_by_their_worth(world):
    trainer = tiny_trainer(world, stirred=True)
    batch = folded(trainer)
    proposals = trainer.train_state.fleet.propose(trainer.train_state.query(batch))
    proposals.hidden.requires_grad_()
    proposals.hidden.grad = torch.randn_like(proposals.hidden)
    worth = torch.linspace(-1, 1, len(batch.current))
    credit = to_credit(replace(CONFIG, label_weight=0.25), batch, proposals, worth)
    for row in range(len(worth)):
        for table in range(3):
            expected = 0.25 if batch.keyed[row, table] else max(0.0, worth[row].item())
            assert credit.label_weight[row, table].item() == pytest.approx(expected)
    assert torch.equal(credit.hidden_grad, proposals.hidden.grad)
    assert not credit.candidate_weight.any()


def test_hits_are_counted_apart_for_keyed_and_asked_addresses(world):
    trainer = tiny_trainer(world)
    batch = folded(trainer)
    proposals = trainer.train_state.fleet.propose(trainer.train_state.query(batch))
    right = replace(proposals, start=torch.where(batch.keyed, batch.labels.start, 0).unsqueeze(-1))
    assert asked_metrics(batch, right) == {"hit_top1": 1.0, "hit_asked": 0.0}
    unknown = replace(batch, labels=Ranges(batch.labels.start, batch.labels.length * 0))
    assert asked_metrics(unknown, right) == {}


@pytest.mark.parametrize(
    ("settings", "named"),
    [({"guided": 1.1}, "phases.refine.guided 1.1"), ({"horizon": 0}, "horizon 0"), ({"lr": -1.0}, "lr -1.0"),
     ({"sequences": 0}, "sequences 0"), ({"warmup_steps": 0}, "warmup_steps 0"), ({"slm_lr": float("nan")}, "nan")],
)  # fmt: skip
def test_bad_settings_are_named_in_one_line(settings, named):
    with pytest.raises(ConfigError) as caught:
        RefineConfig(**settings)
    assert named in str(caught.value)
    assert "\n" not in str(caught.value)


def test_asking_without_learning_leaves_no_proposals_behind(world):
    trainer = tiny_trainer(world)
    refine_step(trainer.train_state, CONFIG, 0)
    assert isinstance(trainer.train_state.fleet, SLMGroup)
    assert trainer.train_state.fleet.kept == []
