import math
from dataclasses import replace

import pytest
import torch

from leworld.errors import ConfigError
from leworld.models.router import Routing, mask_ste
from leworld.rng import generator
from leworld.training.data_parallel import ALONE
from leworld.training.joint import (
    JointConfig,
    Scores,
    hit_metrics,
    joint_step,
    mask_metrics,
    routing_loss,
    scored_rows,
    to_credit,
)
from leworld.training.pretrain import PretrainConfig
from leworld.types import Ranges
from tests.models.tiny import PHASES, tiny_trainer, tiny_world


@pytest.fixture(scope="module")
def world():
    return tiny_world("rules")


@pytest.fixture
def learner(world):
    return tiny_trainer(world, stirred=True).train_state


def sample(learner, count: int = 8):
    batch = learner.samples(count, count, torch.Generator().manual_seed(0)).batch
    return batch, learner.fleet.propose(learner.query(batch))


def scores_for(rows: list[int], slms: int = 3, k: int = 3) -> Scores:
    random = torch.Generator().manual_seed(4)
    mask = torch.randint(0, 2, (len(rows), slms), generator=random).float()
    candidate = torch.softmax(torch.randn(len(rows), slms, k, generator=random), -1)
    return Scores(torch.tensor(rows), mask, candidate, torch.rand(len(rows), slms, generator=random), len(rows))


def test_credit_names_labels_where_keyed_and_candidates_where_scored(learner):
    batch, proposals = sample(learner)
    batch = replace(batch, keyed=torch.arange(24).view(8, 3) % 2 == 0)
    proposals.hidden.requires_grad_()
    proposals.hidden.grad = torch.randn_like(proposals.hidden)
    config, scores = replace(PHASES.joint, credit_weight=0.5), scores_for([6, 1])
    everyone = ALONE.part(len(batch.current))
    credit = to_credit(config, batch, proposals, scores, everyone, 0.25)
    assert torch.equal(credit.label_weight, 0.25 * batch.keyed.float())
    assert torch.equal(credit.labels.start, batch.labels.start)
    assert torch.equal(credit.candidate[[6, 1]], scores.candidate)
    assert not credit.candidate[[0, 2, 3, 4, 5, 7]].any()
    # Two rows of eight are scored, so each stands for four.
    assert torch.allclose(credit.candidate_weight[[6, 1]], 0.5 * 4 * scores.weight)
    assert torch.equal(credit.hidden_grad, proposals.hidden.grad)
    assert not to_credit(config, batch, proposals, scores, everyone, 0.0).label_weight.any()


def test_routing_loss_is_hindsights_cross_entropy_and_the_routers_own_terms():
    logit = torch.randn(5, 3, generator=torch.Generator().manual_seed(1))
    mask, prob = mask_ste(logit, 0.5, None)
    routing, scores = Routing(logit, prob, mask), scores_for([4, 2])
    config = JointConfig(mask_weight=0.3, balance_weight=0.7, entropy_weight=1.1)
    plain = []
    for row, wanted in zip([4, 2], scores.mask.tolist(), strict=True):
        for value, bit in zip(logit[row].tolist(), wanted, strict=True):
            p = 1 / (1 + math.exp(-value))
            plain.append(-math.log(p if bit else 1 - p))
    expected = 0.3 * sum(plain) / 6 + 0.7 * routing.balance_loss().item() + 1.1 * routing.entropy().item()
    assert routing_loss(config, routing, scores, ALONE, ALONE.part(5)).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(("part", "count"), [(0.0, 1), (0.25, 5), (0.5, 10), (1.0, 20)])
def test_scored_rows_are_a_part_of_the_samples_and_never_none(part, count):
    rows = scored_rows(20, part, torch.Generator().manual_seed(0))
    assert len(rows) == len(set(rows.tolist())) == count
    assert 0 <= rows.min() <= rows.max() < 20


def test_temperature_falls_geometrically_from_first_to_last_step():
    config = JointConfig(steps=5, temperature=2.0, temperature_end=0.125)
    assert [config.temperature_at(step) for step in range(5)] == pytest.approx([2, 1, 0.5, 0.25, 0.125])
    assert config.temperature_at(9) == pytest.approx(0.125)
    assert JointConfig(steps=1).temperature_at(0) == 1.0


def test_hits_are_counted_where_the_address_can_be_known(learner):
    batch, proposals = sample(learner)
    start = batch.labels.start.unsqueeze(-1).repeat(1, 1, 3) + 1
    start[:2, :, 0] -= 1
    start[2:4, :, 2] -= 1
    metrics = hit_metrics(batch, replace(proposals, start=start))
    assert metrics == {"hit_top1": 0.25, "hit_topk": 0.5}
    unknown = Ranges(batch.labels.start, batch.labels.length * 0)
    assert hit_metrics(replace(batch, labels=unknown), proposals) == {}
    assert hit_metrics(replace(batch, keyed=batch.keyed & False), proposals) == {}


def test_masks_are_measured_by_the_plain_decision(learner):
    batch, _ = sample(learner)
    logit = torch.where(batch.relevant, 1.0, -1.0)
    logit[:2] = -logit[:2]
    metrics = mask_metrics(batch, logit, batch.relevant, None, range(3))
    assert metrics["exact_mask"] == 0.75
    assert metrics["reads"] == pytest.approx((logit > 0).float().sum(1).mean().item())
    # A subset is not whole where one who matters was not asked.
    more = torch.cat([batch.relevant, torch.tensor([[True]] + [[False]] * (len(logit) - 1))], dim=1)
    shortlist = torch.tensor([[0, 2, 3]]).expand(len(logit), -1)
    some = mask_metrics(batch, logit.abs() * (2.0 * batch.relevant - 1), more, shortlist, [0, 1, 2, 7])
    assert some["exact_mask"] == 1 - 1 / len(logit)
    # By number, those that were not asked too.
    used = batch.relevant.float().mean(0).tolist()
    assert [some[f"use_{i}"] for i in (0, 1, 2, 7)] == pytest.approx([used[0], 0, *used[1:]])
    assert "exact_mask" not in mask_metrics(replace(batch, relevant=None), logit, None, None, range(3))


@pytest.mark.parametrize(("name", "forgotten"), [("rules", 0.0), ("physics", 0.0), ("physics", 1.0)])
def test_a_step_teaches_from_reads_that_were_made_and_what_is_not_forgotten(name, forgotten):
    """The step's own error follows from its parts; noise and spoiling are off."""
    learner = tiny_trainer(tiny_world(name), stirred=True).train_state
    config = replace(
        PHASES.joint, irrelevant=0.0, dropped=0.0, blind=0.0, cut=0.0, forgotten=forgotten, temperature=1e-6,
        temperature_end=1e-6,
    )  # fmt: skip
    samples = learner.samples(config.sequences, config.samples, generator(learner.seed, "joint", 0), keyed=True)
    batch, seen = samples.batch, learner.blm.observe(samples.episodes.past, samples.episodes.current)
    assert (seen is None) == (name == "rules")
    if seen is not None:
        seen = seen.flatten(0, 1)[samples.rows] * (1 - forgotten)
    query = learner.query(batch)
    step = learner.system.predict(query, seen=seen, ranges=learner.fleet.propose(query).ranges())
    expected = ((step.next_state - batch.target) / learner.world.spec.scale).square().mean().item()
    assert joint_step(learner, config, 0)["loss"] == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize(
    ("config", "settings", "named"),
    [
        (JointConfig, {"irrelevant": -0.1}, "phases.joint.irrelevant -0.1 is outside [0, 1]"),
        (JointConfig, {"scored": 1.5}, "phases.joint.scored 1.5"),
        (JointConfig, {"temperature": 0.0}, "phases.joint.temperature 0.0 is not above 0"),
        (JointConfig, {"temperature_end": 0.0}, "temperature_end 0.0"),
        (JointConfig, {"lr": float("nan")}, "phases.joint.lr nan"),
        (JointConfig, {"forgotten": 1.5}, "phases.joint.forgotten 1.5"),
        (PretrainConfig, {"blind": 2.0}, "phases.pretrain.blind 2.0"),
        (PretrainConfig, {"forgotten": -0.5}, "phases.pretrain.forgotten -0.5"),
        (PretrainConfig, {"dropped": float("nan")}, "phases.pretrain.dropped nan"),
        (PretrainConfig, {"slm_batch": 0}, "phases.pretrain.slm_batch 0"),
        (PretrainConfig, {"samples": 0}, "phases.pretrain.samples 0"),
    ],
)
def test_bad_settings_are_named_in_one_line(config, settings, named):
    with pytest.raises(ConfigError) as caught:
        config(**settings)
    assert named in str(caught.value)
    assert "\n" not in str(caught.value)
