"""Some SLMs are asked about some samples: each answers as it does alone, and learns from what it was asked."""

from dataclasses import replace

import pytest
import torch

from leworld.models.fleet import STACK_ROWS, STACK_SLMS
from leworld.models.routing_pairs import Pairs
from leworld.training.phase_runner import fleet_config
from leworld.training.slm_training import SLMGroup
from leworld.types import Credit, Proposals, Ranges
from tests.models.tiny import MODEL, PHASES, random_query, stir, tiny_world

NUM_SLMS, BATCH = 6, 9
WORLD = tiny_world("rules", num_tables=NUM_SLMS, char_dim=12)
ASKED = torch.tensor([[0, 3], [3, 1], [5, 0], [1, 0], [3, 4], [0, 1], [4, 3], [3, 0], [1, 5]])
"""Nobody asks 2."""


def group(slm_ids=None, **changed) -> SLMGroup:
    config = replace(fleet_config(replace(MODEL, num_slms=NUM_SLMS), PHASES, 0), **changed)
    made = SLMGroup(config, WORLD, slm_ids)
    for slm_id, slm in zip(made.slm_ids, made.slms, strict=True):
        stir(slm, seed=slm_id)
    return made


def credit_for(proposals: Proposals) -> Credit:
    random = torch.Generator().manual_seed(4)
    shape = proposals.start.shape
    return Credit(
        labels=Ranges(
            torch.randint(2**16 - 256, shape[:2], generator=random), torch.ones(shape[:2], dtype=torch.int64)
        ),
        label_weight=torch.rand(shape[:2], generator=random),
        candidate=torch.softmax(torch.randn(shape, generator=random), -1),
        candidate_weight=torch.rand(shape[:2], generator=random),
        hidden_grad=torch.randn(proposals.hidden.shape, generator=random) / 100,
    )


def test_pairs_are_listed_slm_by_slm_and_put_back():
    pairs = Pairs.of(ASKED)
    assert pairs.slm.tolist() == sorted(ASKED.flatten().tolist())
    assert all(int(slm) in ASKED[row] for row, slm in zip(pairs.row, pairs.slm, strict=True))
    record = Ranges(ASKED, ASKED * 10)
    assert pairs.take(record).start.tolist() == pairs.slm.tolist()
    assert torch.equal(pairs.put(pairs.take(record)).length, record.length)
    assert [slm for slm, _ in pairs.runs()] == [0, 1, 3, 4, 5]
    everyone = Pairs.all(4, 2)
    assert torch.equal(everyone.put(Ranges(everyone.slm, everyone.row)).start, torch.tensor([[0, 1]] * 4))


@pytest.mark.parametrize("batch", [BATCH, 1])
def test_each_slm_answers_as_when_all_are_asked(batch):
    fleet, query, shortlist = group(), random_query(WORLD.spec, batch), ASKED[:batch]
    everyone, some = fleet.propose(query), fleet.propose(query, shortlist)
    row = torch.arange(batch).unsqueeze(1)
    assert torch.equal(some.start, everyone.start[row, shortlist])
    assert torch.equal(some.length, everyone.length[row, shortlist])
    torch.testing.assert_close(some.hidden, everyone.hidden[row, shortlist], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(some.confidence, everyone.confidence[row, shortlist], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("rehearsal", [0, 8])
def test_batched_products_teach_what_plain_ones_do(rehearsal, monkeypatch):
    query = random_query(WORLD.spec, BATCH)
    batched = group(rehearsal_batch=rehearsal)
    assert batched.stack is not None
    plain = group(rehearsal_batch=rehearsal)
    plain.stack = None
    before = batched.state()
    for shortlist in (ASKED, None):
        gradients = []
        for fleet in (batched, plain):
            credit = credit_for(fleet.propose(query, shortlist, learn=True))
            gradients.append(fleet.learn([credit], 1e-3, ("joint", 0))[0])
        torch.testing.assert_close(*gradients, rtol=1e-3, atol=1e-5)
        moments, expected = batched.state(), plain.state()
        assert moments.keys() == expected.keys()
        # The weights are no measure: the first step of Adam is as long for a gradient of nothing but rounding.
        for name in (name for name in expected if "exp_avg." in name):
            torch.testing.assert_close(moments[name], expected[name], rtol=1e-3, atol=1e-5)
        if shortlist is not None:
            same = {int(name.split(".")[1]) for name in before if not torch.equal(before[name], batched.state()[name])}
            assert same == {0, 1, 3, 4, 5}


def test_few_slms_of_a_process_answer_to_the_bit_as_alone_and_many_samples_go_by_plain_products():
    few = group(list(range(STACK_SLMS - 1)))
    assert few.stack is None
    many, query = group(), random_query(WORLD.spec, STACK_ROWS + 1)
    together = many.propose(query)
    for slm_id in range(NUM_SLMS):
        alone = group([slm_id]).propose(query)
        assert torch.equal(alone.hidden[:, 0], together.hidden[:, slm_id])


def test_the_mean_of_a_loss_is_over_all_samples():
    """Three samples of nine ask SLM 3 alone: its step is that of nine samples of which six teach nothing."""
    shortlist = torch.tensor([[0], [3], [0], [3], [1], [1], [3], [1], [0]])
    query, first, second = random_query(WORLD.spec, BATCH), group(rehearsal_batch=0), group(rehearsal_batch=0)
    credit = credit_for(first.propose(query, shortlist, learn=True))
    first.learn([credit], 1e-3, ("joint", 0))
    everyone = second.propose(query, torch.full((BATCH, 1), 3), learn=True)
    mine = (shortlist == 3).float()
    second.learn(
        [
            replace(
                credit_for(everyone),
                label_weight=credit.label_weight * mine,
                candidate_weight=credit.candidate_weight * mine,
                hidden_grad=credit.hidden_grad * mine.unsqueeze(-1),
                candidate=credit.candidate,
                labels=credit.labels,
            )
        ],
        1e-3,
        ("joint", 0),
    )
    found, expected = first.state(), second.state()
    for name in (name for name in expected if name.startswith("slm.3.adam.exp_avg.")):
        torch.testing.assert_close(found[name], expected[name], rtol=1e-3, atol=1e-6)
