"""Second looks, with belief told by hand: a record is believed by where its range starts."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from leworld.models.system import ModelConfig, System
from leworld.types import Ranges
from tests.models.tiny import MODEL, random_query, tiny_trainer, tiny_world

WORLD = tiny_world("physics")
BATCH = 12
EVERYONE = torch.ones(BATCH, 3)
Belief = Callable[[Tensor], Tensor]


class Listening:
    """A memory that keeps the starts and lengths of each call."""

    def __init__(self, memory) -> None:
        self.memory, self.address_bits, self.calls = memory, memory.address_bits, []

    def read(self, start, length):
        self.calls.append((torch.from_numpy(start.copy()), torch.from_numpy(length.copy())))
        return self.memory.read(start, length)

    def ranges(self, call: int) -> list[tuple[int, int]]:
        """What one call read, ranges without words left out."""
        start, length = self.calls[call]
        return sorted(pair for pair in zip(start.tolist(), length.tolist(), strict=True) if pair[1])


def system_of(belief: Belief, model: ModelConfig = MODEL) -> tuple[System, Listening]:
    """A system that believes by ``belief`` of the (R,) starts, a probability."""
    learner = tiny_trainer(WORLD, model, stirred=True).train_state
    memory, pool = Listening(learner.memory), learner.blm.pool

    def told(senses, records, index):
        pooled = pool(senses, records, index)
        logit = torch.logit(belief(memory.calls[-1][0][index])).unsqueeze(-1)
        return replace(pooled, belief=logit.expand_as(pooled.belief))

    learner.blm.pool = told
    return System(learner.blm, learner.fleet, memory, WORLD.spec), memory


def scattered(start: Tensor) -> Tensor:
    """A belief of its own for every start, more often below 0.5 than above."""
    return ((start * 7919 % 9973 + 1) / 9975) ** 3


def doubted(start: Tensor) -> Tensor:
    return scattered(start) * 0.49


def read_confidence(start: Tensor) -> Tensor:
    return 0.5 + doubted(start)


def test_a_believed_best_candidate_is_never_followed_by_another_read():
    system, memory = system_of(read_confidence)
    step = system.predict(random_query(WORLD.spec, BATCH), mask=EVERYONE)
    assert len(memory.calls) == 1
    assert torch.equal(step.num_reads_tried, EVERYONE.long())
    assert torch.equal(step.reads.start, step.proposals.start[..., 0])


def test_a_doubted_read_is_followed_by_the_others_in_one_call_and_the_most_believed_is_used():
    system, memory = system_of(scattered)
    query = random_query(WORLD.spec, BATCH)
    step = system.predict(query, mask=EVERYONE)
    belief, others, outcomes = scattered(step.proposals.start), set(), set()
    for row in range(BATCH):
        for slm in range(3):
            doubtful = bool(belief[row, slm, 0] < 0.5)
            used = int(belief[row, slm].argmax()) if doubtful else 0
            outcomes.add((doubtful, used > 0))
            assert step.num_reads_tried[row, slm] == (3 if doubtful else 1)
            assert step.reads.start[row, slm] == step.proposals.start[row, slm, used]
            assert step.reads.length[row, slm] == step.proposals.length[row, slm, used]
            assert step.read_confidence[row, slm] == pytest.approx(belief[row, slm, used].item(), abs=1e-4)
            assert step.first_read_confidence[row, slm] == pytest.approx(belief[row, slm, 0].item(), abs=1e-4)
            if doubtful:
                start, length = (x[row, slm, 1:].tolist() for x in (step.proposals.start, step.proposals.length))
                others |= set(zip(start, length, strict=True))
    assert outcomes == {(False, False), (True, False), (True, True)}
    assert len(memory.calls) == 2
    assert memory.ranges(1) == sorted(others)
    again = system.predict(query, mask=EVERYONE, ranges=step.reads)
    assert torch.allclose(step.next_state, again.next_state, atol=1e-3)
    first = system.predict(query, mask=EVERYONE, ranges=step.proposals.ranges())
    assert not torch.allclose(step.next_state, first.next_state, atol=1e-2)


def test_rows_that_are_not_doubted_are_as_without_doubt_bit_by_bit():
    query = random_query(WORLD.spec, BATCH)
    plain = system_of(read_confidence)[0].predict(query, mask=EVERYONE)
    own = set(plain.proposals.start[: BATCH // 2, :, 0].flatten().tolist())
    known = torch.tensor(sorted(own - set(plain.proposals.start[BATCH // 2 :, :, 0].flatten().tolist())))

    def partly(start: Tensor) -> Tensor:
        return torch.where(torch.isin(start, known), read_confidence(start), doubted(start))

    step = system_of(partly)[0].predict(query, mask=EVERYONE)
    sure = (step.num_reads_tried == 1).all(1)
    assert 0 < sure.sum() < BATCH
    for name in ("next_state", "info_query", "read_confidence", "num_reads_tried"):
        assert torch.equal(getattr(step, name)[sure], getattr(plain, name)[sure])
    assert not torch.equal(step.next_state[~sure], plain.next_state[~sure])


def test_who_is_not_trusted_is_not_looked_at_again():
    system, memory = system_of(doubted)
    mask = torch.tensor([[1.0, 0.0, 1.0], [0.0, 1.0, 0.0], [0.0, 0.0, 0.0]]).repeat(BATCH // 3, 1)
    step = system.predict(random_query(WORLD.spec, BATCH), mask=mask)
    assert torch.equal(step.num_reads_tried, 3 * mask.long())
    trusted = mask.bool()
    for call, candidates in enumerate((step.proposals.start[..., :1], step.proposals.start[..., 1:])):
        assert {start for start, _ in memory.ranges(call)} == set(candidates[trusted].flatten().tolist())
    assert torch.equal(step.reads.length > 0, trusted)


def test_where_ranges_are_given_there_is_no_second_look():
    system, memory = system_of(doubted)
    lengths = torch.tensor([[4, 9, 0]]).expand(BATCH, 3)
    step = system.predict(random_query(WORLD.spec, BATCH), ranges=Ranges(lengths * 8, lengths), mask=EVERYONE)
    assert len(memory.calls) == 1
    assert torch.equal(step.num_reads_tried, (lengths > 0).long())


def test_an_slm_of_one_candidate_has_no_other_to_look_at():
    system, memory = system_of(doubted, replace(MODEL, slm=replace(MODEL.slm, candidates=1)))
    step = system.predict(random_query(WORLD.spec, BATCH), mask=EVERYONE)
    assert len(memory.calls) == 1
    assert torch.equal(step.num_reads_tried, EVERYONE.long())


def test_a_redirection_applies_to_second_looks_too():
    system, memory = system_of(scattered)

    def moved(ranges: Ranges) -> Ranges:
        return Ranges((ranges.start + 1) % 2**15, ranges.length)

    step = system.predict(random_query(WORLD.spec, BATCH), mask=EVERYONE, redirect=moved)
    start = (step.proposals.start + 1) % 2**15
    belief = scattered(start)
    doubtful = belief[..., 0] < 0.5
    assert 0 < doubtful.sum() < 3 * BATCH
    assert {first for first, _ in memory.ranges(0)} == set(start[..., 0].flatten().tolist())
    assert {first for first, _ in memory.ranges(1)} == set(start[doubtful][:, 1:].flatten().tolist())
    used = torch.where(doubtful, belief.argmax(-1), 0).unsqueeze(-1)
    assert torch.equal(step.reads.start, start.gather(-1, used).squeeze(-1))


def test_of_equal_belief_the_best_candidate_is_kept():
    system, _ = system_of(lambda start: torch.full(start.shape, 0.25))
    step = system.predict(random_query(WORLD.spec, BATCH), mask=EVERYONE)
    assert torch.equal(step.reads.start, step.proposals.start[..., 0])
    assert torch.equal(step.num_reads_tried, 3 * EVERYONE.long())


def test_a_world_of_rules_is_looked_at_again_too():
    world = tiny_world("rules")
    system = tiny_trainer(world, stirred=True).train_state.system
    torch.nn.init.constant_(system.blm.pooling.doubt, 50.0)
    step = system.predict(random_query(world.spec, BATCH), mask=EVERYONE)
    assert torch.equal(step.num_reads_tried, 3 * EVERYONE.long())
