from dataclasses import replace

import pytest
import torch

from leworld.errors import CheckpointError
from leworld.models.fleet import join_proposals
from leworld.models.slm import SLM
from leworld.training.phase_runner import fleet_config
from leworld.training.slm_training import SLMGroup, SLMTrainingConfig
from leworld.types import Credit, Proposals, Query, Ranges
from leworld.worlds import World
from tests.models.tiny import MODEL, PHASES, random_query, same_state, stir, tiny_world

BATCH = 6
NOW = ("joint", 0)


@pytest.fixture(scope="module")
def world() -> World:
    return tiny_world("rules")


def group(world: World, slm_ids: list[int] | None = None, **changed) -> SLMGroup:
    """SLMs whose weights depend on their number alone, all of them moved off zero."""
    made = SLMGroup(replace(fleet_config(MODEL, PHASES, 0), **changed), world, slm_ids)
    for slm_id, slm in zip(made.slm_ids, made.slms, strict=True):
        stir(slm, seed=slm_id)
    return made


def credit_for(proposals: Proposals, seed: int = 0, known: bool = True) -> Credit:
    """Some labels right, some wrong, some unknown; random hindsight and gradients."""
    random = torch.Generator().manual_seed(seed)
    batch, slms, k = proposals.start.shape
    start = torch.randint(2**16 - 256, (batch, slms), generator=random)
    start[::2] = proposals.start[::2, :, 0]
    length = torch.randint(1, 9, (batch, slms), generator=random) * known
    length[1] = 0
    return Credit(
        labels=Ranges(start, length),
        label_weight=torch.rand(batch, slms, generator=random),
        candidate=torch.softmax(torch.randn(batch, slms, k, generator=random), -1),
        candidate_weight=torch.rand(batch, slms, generator=random),
        hidden_grad=torch.randn(batch, slms, MODEL.slm.d_model, generator=random) / 100,
    )


def columns(credit: Credit, slms: slice) -> Credit:
    return credit.map(lambda tensor: tensor[:, slms])


def states(*groups: SLMGroup) -> dict[str, torch.Tensor]:
    return {name: tensor for part in groups for name, tensor in part.state().items()}


def test_two_groups_are_one_fleet_bit_by_bit(world):
    whole, first, second = group(world), group(world, [0]), group(world, [1, 2])
    assert same_state(states(first, second), whole.state())
    assert whole.pretrain(0, 3)() == first.pretrain(0, 3)() + second.pretrain(0, 3)()
    assert same_state(states(first, second), whole.state())
    for step in range(2):
        query = random_query(world.spec, BATCH, seed=step)
        proposals = whole.propose(query, learn=True)
        joined = join_proposals([first.propose(query, learn=True), second.propose(query, learn=True)])
        assert all(torch.equal(tensor, getattr(joined, name)) for name, tensor in vars(proposals).items())
        credit = credit_for(proposals, step)
        [gradient] = whole.learn([credit], 1e-2, ("joint", step))
        [left] = first.learn([columns(credit, slice(0, 1))], 1e-2, ("joint", step))
        [right] = second.learn([columns(credit, slice(1, 3))], 1e-2, ("joint", step))
        # Three numbers are summed in two orders, so to rounding only.
        assert torch.allclose(left + right, gradient, rtol=1e-5, atol=1e-8)
        assert gradient.abs().max() > 1e-4
        assert same_state(states(first, second), whole.state())


def test_asking_alone_keeps_nothing_and_changes_nothing(world):
    fleet = group(world)
    before, query = fleet.state(), random_query(world.spec, BATCH)
    proposals = fleet.propose(query)
    assert not fleet.kept
    assert same_state(before, fleet.state())
    assert not proposals.hidden.requires_grad
    learning = fleet.propose(query, learn=True)
    assert all(torch.equal(tensor, getattr(learning, name)) for name, tensor in vars(proposals).items())
    assert len(fleet.kept) == 1


def plain_loss(
    slm: SLM, config: SLMTrainingConfig, query: Query, proposals: Proposals, credit: Credit, i: int
) -> torch.Tensor:
    """What credit teaches one SLM, sample by sample."""
    output, total = slm(query), torch.zeros(())
    for b in range(len(query.current)):

        def log_prob(address: int, b: int = b) -> torch.Tensor:
            return output.digits[b, 0, address // 256] + output.digits[b, 1, address % 256]

        start, length = int(credit.labels.start[b, i]), int(credit.labels.length[b, i])
        if length > 0:
            sure = torch.sigmoid(output.confidence_logit[b])
            found = int(proposals.start[b, i, 0]) == start
            loss = -log_prob(start) - config.length_weight * output.length[b, length - 1]
            loss = loss - config.confidence_weight * torch.log(sure if found else 1 - sure)
            total = total + credit.label_weight[b, i] * loss
        for k, candidate in enumerate(proposals.start[b, i].tolist()):
            target = credit.candidate[b, i, k] * credit.candidate_weight[b, i]
            total = total - target * log_prob(candidate)
    return total / len(query.current)


def test_learn_takes_the_step_and_returns_the_query_gradient_of_plain_autograd(world):
    fleet, twin = (group(world, grad_clip=1e9, rehearsal_batch=0) for _ in range(2))
    queries = [random_query(world.spec, BATCH, seed=step) for step in range(2)]
    proposals = [fleet.propose(query, learn=True) for query in queries]
    credits = [credit_for(p, seed) for seed, p in enumerate(proposals)]

    leaves = [Query(q.past, q.current, q.characteristics, q.info_query.clone().requires_grad_()) for q in queries]
    for i, slm in enumerate(twin.slms):
        losses = []
        for query, shortlist, credit in zip(leaves, proposals, credits, strict=True):
            losses.append(plain_loss(slm, twin.config, query, shortlist, credit, i) / len(queries))
            losses.append((slm(query).hidden * credit.hidden_grad[:, i]).sum())
        sum(losses).backward()
        twin.optimizers[i].step(1e-3)

    gradients = fleet.learn(credits, 1e-3, NOW)
    for gradient, leaf in zip(gradients, leaves, strict=True):
        assert gradient.shape == (BATCH, MODEL.blm.query_dim)
        assert torch.allclose(gradient, leaf.info_query.grad, rtol=1e-3, atol=1e-5)
        assert gradient.abs().max() > 1e-3
    moments = {name: tensor for name, tensor in fleet.state().items() if "exp_avg." in name}
    for name, tensor in twin.state().items():
        if name in moments:
            assert torch.allclose(tensor, moments[name], rtol=1e-3, atol=1e-5), name


def test_unknown_labels_and_weights_of_zero_teach_nothing(world):
    fleet = group(world, rehearsal_batch=0, weight_decay=0.0)
    before = fleet.state()
    credit = credit_for(fleet.propose(random_query(world.spec, BATCH), learn=True), known=False)
    none = replace(credit, candidate=credit.candidate * 0, hidden_grad=credit.hidden_grad * 0)
    [gradient] = fleet.learn([none], 1e-3, NOW)
    assert gradient.abs().max() == 0
    assert all(torch.equal(tensor, fleet.state()[name]) for name, tensor in before.items())


def test_credit_moves_probability_to_the_candidate_that_helped(world):
    fleet, query = group(world, rehearsal_batch=0), random_query(world.spec, BATCH)
    first = fleet.propose(query)
    target = torch.zeros_like(first.log_prob)
    target[..., 2] = 1.0
    nothing = torch.zeros_like(first.confidence)
    hidden_grad = torch.zeros_like(first.hidden)
    wanted = first.start[..., 2]
    labels = Ranges(torch.zeros_like(wanted), torch.zeros_like(wanted))
    for _ in range(60):
        fleet.propose(query, learn=True)
        fleet.learn([Credit(labels, nothing, target, nothing + 1, hidden_grad)], 1e-2, NOW)
        # Hindsight names candidates of the proposal at hand: keep naming the same address.
        now = fleet.propose(query)
        target = (now.start == wanted.unsqueeze(-1)).float()
    assert (fleet.propose(query).start[..., 0] == wanted).float().mean() > 0.8


def test_state_round_trip_goes_on_with_the_same_bits(world):
    first, second = group(world), group(world)
    stir(*second.slms, seed=9)
    query = random_query(world.spec, BATCH)
    first.pretrain(0, 2)()
    second.propose(query, learn=True)
    second.load_state(first.state())
    assert not second.kept
    assert same_state(first.state(), second.state())
    for fleet in (first, second):
        fleet.pretrain(2, 2)()
        fleet.learn([credit_for(fleet.propose(query, learn=True))], 1e-3, NOW)
    assert same_state(first.state(), second.state())


def test_state_is_a_copy_and_has_weights_moments_and_steps(world):
    fleet = group(world, [2])
    assert all(name.startswith("slm.2.model.") for name in fleet.state())
    fleet.pretrain(0, 1)()
    state = fleet.state()
    kept = {name: tensor.clone() for name, tensor in state.items()}
    names = [name for name in state if name.startswith("slm.2.model.")]
    for name in names:
        plain = name.removeprefix("slm.2.model.")
        assert {f"slm.2.adam.{moment}.{plain}" for moment in ("exp_avg", "exp_avg_sq", "step")} <= state.keys()
    fleet.pretrain(1, 1)()
    assert same_state(kept, state)
    assert not same_state(fleet.state(), state)


def test_foreign_states_are_refused(world):
    fleet = group(world, [0])
    state = fleet.state()
    lacking = {name: tensor for name, tensor in state.items() if not name.endswith("norm.weight")}
    other = {name: tensor[:1] for name, tensor in state.items()}
    for foreign in (lacking, {**state, "slm.0.model.extra": torch.zeros(1)}, other, group(world, [1]).state()):
        with pytest.raises(CheckpointError) as caught:
            fleet.load_state(foreign)
        assert "\n" not in str(caught.value)
    assert same_state(fleet.state(), state)


class Listening:
    """A world that remembers the keys it gave."""

    def __init__(self, world: World) -> None:
        self.world, self.spec, self.given = world, world.spec, []

    def keys(self, batch_size, generator):
        self.given.append(self.world.keys(batch_size, generator))
        return self.given[-1]


def test_each_slm_pretrains_on_its_own_fresh_keys(world):
    listening = Listening(world)
    group(listening).pretrain(0, 2)()
    # In every step, keys for the SLM, after more of them for its rule, and that several times.
    sizes = [PHASES.pretrain.rule_batch] * PHASES.pretrain.rule_steps + [PHASES.pretrain.slm_batch]
    assert [len(keys.current) for keys in listening.given] == sizes * 3 * 2
    rows = {tuple(row) for keys in listening.given for row in keys.characteristics.tolist()}
    assert len(rows) == sum(sizes) * 3 * 2


def rules_of(fleet: SLMGroup) -> dict[str, torch.Tensor]:
    return {name: tensor for name, tensor in fleet.state().items() if ".model.digits.rule." in name}


def test_the_rule_of_addresses_is_practised_in_pretraining_alone(world):
    fleet = group(world, weight_decay=0.5)
    first = rules_of(fleet)
    fleet.pretrain(0, 2)()
    taught = rules_of(fleet)
    assert len(taught) == 2 * 3
    assert not any(torch.equal(tensor, first[name]) for name, tensor in taught.items())
    for step in range(2):
        proposals = fleet.propose(random_query(world.spec, BATCH), learn=True)
        fleet.learn([credit_for(proposals)], 1e-2, ("joint", step))
    assert same_state(rules_of(fleet), taught)


def test_rehearsal_draws_keys_by_phase_and_step(world):
    listening = Listening(world)
    fleet = group(listening, rehearsal_batch=5)
    query = random_query(world.spec, BATCH)
    for moment in (("joint", 0), ("joint", 1), ("refine", 0), ("joint", 0)):
        fleet.learn([credit_for(fleet.propose(query, learn=True))], 1e-3, moment)
    first = [keys.characteristics for keys in listening.given[::3]]
    assert [len(keys.current) for keys in listening.given] == [5] * 12
    assert torch.equal(first[0], first[3])
    assert len({tuple(row) for keys in first for row in keys.tolist()}) == 15
    quiet = Listening(world)
    fleet = group(quiet, rehearsal_batch=0)
    fleet.learn([credit_for(fleet.propose(query, learn=True))], 1e-3, NOW)
    assert not quiet.given
