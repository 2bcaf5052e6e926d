from dataclasses import dataclass, replace
from types import SimpleNamespace

import pytest
import torch

from leworld.evaluation.trials import free_running, no_request, oracle_choice, teacher_forced
from leworld.types import Proposals, Query, Ranges, Step
from leworld.worlds.base import WorldSpec
from tests.models.tiny import MODEL, spec_of, tiny_trainer, tiny_world

QUERY_DIM = MODEL.blm.query_dim


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module", params=["rules", "pointers", "physics", "seed"])
def world(request):
    return tiny_world(request.param)


@pytest.fixture(scope="module")
def system(world):
    return tiny_trainer(world, stirred=True).train_state.system


@dataclass
class Drift:
    """A system that adds ``push`` to the state, asks for what step it is at, counts the steps that it observes, and
    remembers what it was told."""

    spec: WorldSpec
    push: float = 0.25

    def __post_init__(self) -> None:
        self.blm = SimpleNamespace(config=SimpleNamespace(query_dim=QUERY_DIM))
        self.tables, self.queries, self.observed, self.seen = None, [], [], []

    def observe(self, query, seen=0) -> int:
        self.observed.append(query)
        return (seen or 0) + 1

    def predict(self, query, *, seen, ranges=None, mask=None, redirect=None) -> Step:
        self.queries.append(query)
        self.seen.append(seen)
        batch, target_dim = len(query.current), self.spec.target_dim
        start = torch.zeros(batch, 3, 1, dtype=torch.int64)
        proposals = Proposals(
            start, start + 1, start < 0, start.float(), torch.zeros(batch, 3), torch.zeros(batch, 3, 4)
        )  # fmt: skip
        requested = torch.full((batch, QUERY_DIM), float(len(self.queries)))
        reads = Ranges(start[..., 0], start[..., 0])
        next_state, none = query.current[:, :target_dim] + self.push, torch.zeros(batch, 3)
        return Step(next_state, none, reads, none.long(), proposals, requested, none, none)


def test_free_running_equals_teacher_forcing_at_the_first_step_and_leaves_it_after(world, system):
    batch = world.batch("test", 6, generator())
    forced, free = teacher_forced(system, batch).error, free_running(system, batch)
    assert free.shape == forced.shape == batch.shape
    assert torch.equal(free[:, 0], forced[:, 0])
    assert not torch.allclose(free[:, 1:], forced[:, 1:])


def test_a_trial_has_all_steps_in_order(world, system):
    batch = world.batch("test", 5, generator())
    trial = teacher_forced(system, batch)
    slms = MODEL.num_slms
    assert trial.error.shape == (5, world.spec.horizon)
    assert trial.mask.shape == trial.reads.shape == (5, world.spec.horizon, slms)
    assert trial.start.shape == (5, world.spec.horizon, slms, MODEL.slm.candidates)
    assert trial.mask.any(-1).all()
    assert torch.equal(trial.reads > 0, trial.mask)
    # One read, or all candidates.
    assert set(trial.reads.flatten().tolist()) <= {0, 1, MODEL.slm.candidates}
    assert not trial.reads.is_floating_point()
    first = system.predict(_query(batch.at(0)))
    assert torch.equal(trial.start[:, 0], first.proposals.start)
    expected = ((first.next_state - batch.target[:, 0]) / world.spec.scale).square().mean(-1)
    assert torch.allclose(trial.error[:, 0], expected)


def _query(now):
    return Query(now.past, now.current, now.characteristics, torch.zeros(len(now.current), QUERY_DIM))


def test_free_running_feeds_back_its_own_states_and_the_true_actions():
    world = tiny_world("physics")
    batch = world.batch("test", 4, generator())
    drift = Drift(world.spec)
    errors = free_running(drift, batch)
    state_dim, action = world.spec.target_dim, slice(world.spec.target_dim, None)
    for t, query in enumerate(drift.queries):
        own = batch.current[:, 0, :state_dim] + 0.25 * t
        assert torch.allclose(query.current[:, :state_dim], own, atol=1e-5)
        assert torch.equal(query.current[:, action], batch.current[:, t, action])
        before = batch.past[:, 0] if t == 0 else drift.queries[t - 1].current
        assert torch.equal(query.past, before)
        assert torch.equal(query.characteristics, batch.characteristics[:, t])
        assert (query.info_query == t).all()
        expected = ((own + 0.25 - batch.target[:, t]) / world.spec.scale).square().mean(-1)
        assert torch.allclose(errors[:, t], expected, rtol=1e-4)
    assert len(drift.queries) == world.spec.horizon


def test_teacher_forcing_shows_true_states_and_passes_requests_on():
    world = tiny_world("physics")
    batch = world.batch("test", 4, generator())
    drift = Drift(world.spec)
    trial = teacher_forced(drift, batch)
    for t, query in enumerate(drift.queries):
        assert torch.equal(query.current, batch.current[:, t])
        assert torch.equal(query.past, batch.past[:, t])
        assert (query.info_query == t).all()
    assert not trial.mask.any()
    quiet = Drift(world.spec)
    teacher_forced(quiet, batch, request=no_request)
    assert all(not query.info_query.any() for query in quiet.queries)
    changed = Drift(world.spec)
    teacher_forced(changed, batch, request=lambda requested: requested * 10)
    assert [query.info_query[0, 0].item() for query in changed.queries] == [0, 10, 20, 30]


def test_free_running_observes_the_first_step_alone():
    world = tiny_world("physics")
    batch, drift = world.batch("test", 4, generator()), Drift(world.spec)
    free_running(drift, batch)
    assert drift.observed == drift.queries[:1]
    assert drift.seen == [1] * world.spec.horizon


def test_teacher_forcing_observes_every_step_before_it_is_predicted_and_carries_what_was_seen():
    world = tiny_world("physics")
    batch, drift = world.batch("test", 4, generator()), Drift(world.spec)
    teacher_forced(drift, batch)
    assert drift.observed == drift.queries
    assert drift.seen == [1, 2, 3, 4]


def test_each_step_is_predicted_by_what_was_seen_of_its_episode():
    world = tiny_world("physics")
    system, batch = tiny_trainer(world, stirred=True).train_state.system, world.batch("test", 4, generator())
    trial = teacher_forced(system, batch, request=no_request)
    seen = system.blm.observe(batch.past, batch.current)
    for t in range(world.spec.horizon):
        found = system.predict(_query(batch.at(t)), seen=seen[:, t]).next_state
        expected = ((found - batch.target[:, t]) / world.spec.scale).square().mean(-1)
        assert torch.allclose(trial.error[:, t], expected, rtol=1e-3)
    last = system.predict(_query(batch.at(3))).next_state
    assert not torch.allclose(last, found, rtol=1e-3)


def test_a_perfect_system_makes_no_error():
    spec = spec_of(state_dim=2, target_dim=2, char_dim=3, horizon=4, scale=torch.ones(2))
    world = tiny_world("rules")
    batch = world.batch("test", 3, generator())
    steps = 0.5 * torch.arange(4.0).view(1, 4, 1)
    current = torch.randn(3, 1, 2, generator=generator()) + steps
    batch = replace(
        batch.map(lambda tensor: tensor[:, :1].repeat(1, 4, *[1] * (tensor.dim() - 2))),
        current=current, past=current, target=current + 0.5,
    )  # fmt: skip
    for errors in (teacher_forced(Drift(spec, 0.5), batch).error, free_running(Drift(spec, 0.5), batch)):
        assert errors.max() < 1e-10


def test_oracle_reads_what_the_log_names_and_trusts_what_is_known_and_relevant(world, system):
    batch = world.batch("test", 5, generator())
    now = batch.at(0)
    ranges, mask = oracle_choice(now)
    assert torch.equal(ranges.start, now.labels.start)
    known = now.labels.length > 0
    for row in range(5):
        for table in range(3):
            relevant = now.relevant is None or bool(now.relevant[row, table])
            assert mask[row, table] == float(bool(known[row, table]) and relevant)
    trial = teacher_forced(system, batch, oracle=True)
    assert torch.equal(trial.mask[:, 0], mask.bool())
    assert torch.equal(trial.reads[:, 0], mask.long())
    step = system.predict(_query(now), ranges=ranges, mask=mask)
    assert torch.equal(step.reads.length, now.labels.length * mask.long())
    expected = ((step.next_state - now.target) / world.spec.scale).square().mean(-1)
    assert torch.allclose(trial.error[:, 0], expected)


def test_oracle_with_no_known_label_reads_nothing():
    world = tiny_world("rules")
    system = tiny_trainer(world).train_state.system
    batch = world.batch("test", 2, generator())
    blank = replace(batch, labels=Ranges(batch.labels.start, batch.labels.length * 0))
    trial = teacher_forced(system, blank, oracle=True)
    assert not trial.reads.any()
    assert not trial.mask.any()
    assert trial.error.isfinite().all()


def test_trials_are_repeatable_and_change_nothing(world, system):
    batch = world.batch("test", 3, generator())
    before = {name: tensor.clone() for name, tensor in system.blm.state_dict().items()}
    first, second = teacher_forced(system, batch), teacher_forced(system, batch)
    assert torch.equal(first.error, second.error)
    assert torch.equal(first.start, second.start)
    assert all(torch.equal(tensor, before[name]) for name, tensor in system.blm.state_dict().items())
    assert system.fleet.kept == []
