from dataclasses import replace

import pytest
import torch

from leworld.errors import ConfigError
from leworld.memory import HashPlacement
from leworld.models.blm import BLM, BLMConfig, Prediction, Slots, trust_features
from leworld.models.pooling import Pooled
from leworld.models.system import build_blm, from_change, to_change
from leworld.optim import Optimizer, warmup_cosine
from leworld.rng import generator
from leworld.types import Proposals, Query
from leworld.worlds.base import WorldSpec
from tests.models.tiny import MODEL, random_query, spec_of, stir

SPEC = spec_of(state_dim=4, target_dim=3, char_dim=5, scale=torch.tensor([0.5, 1.0, 4.0]), tag=(24, 8))


@pytest.fixture
def blm() -> BLM:
    made = build_blm(MODEL, SPEC, 0)
    stir(made, size=0.1)
    return made


def slots_for(batch: int = 4) -> Slots:
    random = torch.Generator().manual_seed(2)
    widths = MODEL.blm.d_model, MODEL.blm.read_dim
    return Slots(*(torch.randn(batch, 3, width, generator=random) for width in widths))


def pooled_of(slots: Slots) -> Pooled:
    one = torch.zeros(*slots.content.shape[:-1], 1)
    return Pooled(content=slots.content, notes=slots.notes, belief=one, valid=one == 0)


def nudged(tensor: torch.Tensor, slm: int) -> torch.Tensor:
    """The same, but for one SLM's slot."""
    other = tensor.clone()
    other[:, slm] += 1
    return other


def changed(query: Query, name: str) -> Query:
    return replace(query, **{name: getattr(query, name) + 0.5})


@pytest.mark.parametrize("name", ["past", "current", "characteristics", "info_query"])
def test_every_input_reaches_the_prediction_the_request_its_worth_and_the_mask(blm, name):
    query, proposals, slots = random_query(SPEC, 4), proposals_for(), slots_for()
    mask = torch.ones(4, 3)
    outcomes = []
    for shortlist in (query, changed(query, name)):
        senses = blm.sense(shortlist)
        prediction = blm.predict(senses, slots, mask)
        logit = blm.route(senses, proposals).logit
        outcomes.append((prediction.change, prediction.request, prediction.worth, logit))
    for first, second in zip(*outcomes, strict=True):
        assert (first - second).abs().max() > 1e-4


def proposals_for(batch: int = 4) -> Proposals:
    random = torch.Generator().manual_seed(1)
    start = torch.randint(2**16, (batch, 3, 2), generator=random)
    return Proposals(
        start=start,
        length=torch.ones_like(start),
        clipped=start < 0,
        log_prob=-torch.rand(batch, 3, 2, generator=random),
        confidence=torch.rand(batch, 3, generator=random),
        hidden=torch.randn(batch, 3, MODEL.slm.d_model, generator=random),
    )


def test_a_masked_slot_tells_nothing_and_a_trusted_one_does(blm):
    senses, slots = blm.sense(random_query(SPEC, 4)), slots_for()
    mask = torch.tensor([1.0, 0.0, 1.0]).expand(4, 3)
    before = blm.predict(senses, slots, mask).change
    for slm in range(3):
        after = blm.predict(senses, slots.map(lambda tensor, slm=slm: nudged(tensor, slm)), mask).change
        assert torch.equal(before, after) == (slm == 1)


def test_notes_of_trusted_reads_reach_the_request_and_the_prediction_past_the_layers(blm):
    senses, slots = blm.sense(random_query(SPEC, 4)), slots_for()
    mask = torch.tensor([1.0, 0.0, 1.0]).expand(4, 3)
    before = blm.predict(senses, slots, mask)
    told = blm.told.weight.detach().unflatten(1, (3, -1)).sum(-1)
    for slm in range(3):
        after = blm.predict(senses, replace(slots, notes=nudged(slots.notes, slm)), mask)
        # What notes say of the change is linear in them.
        plain = before.change + mask[0, slm] * told[:, slm]
        assert torch.allclose(after.change, plain, atol=1e-5)
        assert torch.equal(before.request, after.request) == (slm == 1)
    assert told.abs().min() > 1e-3


def test_what_is_linear_in_the_inputs_is_added_past_the_layers(blm):
    query, slots, mask = random_query(SPEC, 4), slots_for(), torch.ones(4, 3)
    senses = blm.sense(query)
    inputs = torch.cat([query.past, query.current, query.characteristics], dim=1)
    assert torch.allclose(senses.drift, inputs @ blm.drift.weight.T + blm.drift.bias, atol=1e-5)
    moved = blm.predict(replace(senses, drift=senses.drift + 1), slots, mask)
    assert torch.allclose(moved.change, blm.predict(senses, slots, mask).change + 1, atol=1e-5)


def test_key_and_request_say_which_tags_to_expect_of_each_table(blm):
    query = random_query(SPEC, 4)
    tags = blm.sense(query).tags
    assert tags.shape == (4, 3, 8)
    for name in ("characteristics", "info_query"):
        other = blm.sense(replace(query, **{name: -getattr(query, name)})).tags
        assert ((tags - other).abs().amax(-1) > 1e-4).all()
    for name in ("past", "current"):
        assert torch.equal(blm.sense(changed(query, name)).tags, tags)


def test_no_loss_but_its_own_teaches_the_rule_of_tags_and_its_own_teaches_nothing_else(blm):
    query = random_query(SPEC, 4)
    rule = {"tags.rule.linear.weight", "tags.rule.linear.bias"}
    blm.sense(query).tags.sum().backward()
    assert not [name for name, weight in blm.named_parameters() if name in rule and weight.grad is not None]
    blm.zero_grad(set_to_none=True)
    blm.tags.rule_loss(query.characteristics, torch.arange(12).view(4, 3)).backward()
    assert {name for name, weight in blm.named_parameters() if weight.grad is not None} == rule


def test_tags_of_each_table_are_learnt_for_keys_never_seen():
    head = build_blm(MODEL, SPEC, 0).tags
    placements = [HashPlacement(5, 8, 1, 8, seed=0, table=table) for table in range(3)]

    def drawn(count: int, *name: str | int) -> tuple[torch.Tensor, torch.Tensor]:
        key = torch.randn(count, 5, generator=generator(0, *name))
        return key, torch.stack([placement.tag(key, 8) for placement in placements], dim=1)

    optimizer = Optimizer(head, 0.01, 1.0)
    for step in range(150):
        head.rule_loss(*drawn(1024, "keys", step)).backward()
        optimizer.step(warmup_cosine(step, 150, 1e-2, 10))
    key, tags = drawn(1000, "unseen")
    score = head.rule(key).unflatten(1, (3, 8))
    found = ((score > 0).long() << torch.arange(8)).sum(-1)
    assert (found == tags).float().mean() > 0.97


def test_a_request_is_made_only_where_its_foreseen_worth_is_above_the_price():
    request = torch.randn(4, 8, generator=torch.Generator().manual_seed(3))
    prediction = Prediction(torch.zeros(4, 3), request, torch.tensor([-0.5, 0.0, 0.25, 0.75]))
    for price, shortlist in ((0.25, [0, 0, 0, 1]), (0.0, [0, 0, 1, 1]), (-1.0, [1, 1, 1, 1]), (0.75, [0, 0, 0, 0])):
        assert torch.equal(prediction.info_query(price), request * torch.tensor(shortlist).unsqueeze(1))


def test_what_a_request_is_worth_is_learnt_without_bending_the_prediction(blm):
    prediction = blm.predict(blm.sense(random_query(SPEC, 4)), slots_for(), torch.ones(4, 3))
    prediction.worth.sum().backward()
    reached = {name.split(".")[0] for name, weight in blm.named_parameters() if weight.grad is not None}
    assert reached == {"worth"}


def test_slots_are_told_apart(blm):
    senses, slots = blm.sense(random_query(SPEC, 4)), slots_for()
    swapped, mask = replace(slots, content=slots.content[:, [1, 0, 2]]), torch.ones(4, 3)
    assert (blm.predict(senses, slots, mask).change - blm.predict(senses, swapped, mask).change).abs().max() > 1e-4


def test_hidden_and_trust_reach_the_slot_beside_what_was_read(blm):
    proposals, slots = proposals_for(), slots_for()
    trust = trust_features(proposals)
    plain = slots.content + blm.slm_hidden(proposals.hidden) + trust @ blm.trust.weight.T
    found = blm.slots(pooled_of(slots), proposals)
    assert torch.allclose(found.content, plain, atol=1e-5)
    assert (found.content - slots.content).abs().max() > 1e-3
    assert torch.equal(found.notes, slots.notes)


def test_trust_features_stay_in_their_bounds():
    extreme = replace(
        proposals_for(2), confidence=torch.tensor([[0.0, 0.5, 1.0]] * 2), log_prob=torch.tensor([[[-900.0]] * 3] * 2)
    )
    assert trust_features(extreme)[0].tolist() == [[-1.0, -1.0], [0.0, -1.0], [1.0, -1.0]]
    sure = replace(extreme, log_prob=torch.zeros(2, 3, 1))
    assert trust_features(sure)[0, :, 1].tolist() == [0.0, 0.0, 0.0]


def test_what_starts_at_zero_has_no_effect_yet():
    fresh = build_blm(MODEL, SPEC, 0)
    query, slots = random_query(SPEC, 4), slots_for()
    senses = fresh.sense(query)
    assert torch.equal(senses.state, fresh.sense(changed(query, "info_query")).state)
    assert not senses.drift.any()
    assert not senses.tags.any()
    assert not fresh.predict(senses, slots, torch.ones(4, 3)).change.any()
    found = fresh.slots(pooled_of(slots), proposals_for())
    assert torch.equal(found.content, slots.content)


@pytest.mark.parametrize("residual", [False, True])
def test_change_and_state_invert_each_other(residual):
    spec: WorldSpec = replace(SPEC, residual=residual)
    random = torch.Generator().manual_seed(0)
    current, target = torch.randn(6, 4, generator=random), torch.randn(6, 3, generator=random)
    change = to_change(spec, current, target)
    plain = (target - (current[:, :3] if residual else 0)) / torch.tensor([0.5, 1.0, 4.0])
    assert torch.allclose(change, plain)
    assert torch.allclose(from_change(spec, current, change), target, atol=1e-6)


def test_same_seed_same_bits_and_the_global_generator_is_left_alone():
    torch.manual_seed(7)
    before = torch.get_rng_state()
    first, second, other = build_blm(MODEL, SPEC, 3), build_blm(MODEL, SPEC, 3), build_blm(MODEL, SPEC, 4)
    assert torch.equal(before, torch.get_rng_state())
    pairs = list(zip(first.parameters(), second.parameters(), other.parameters(), strict=True))
    assert all(torch.equal(a, b) for a, b, _ in pairs)
    assert not all(torch.equal(a, c) for a, _, c in pairs)


@pytest.mark.parametrize("settings", [{"num_heads": 5}, {"num_heads": 0}, {"read_heads": 7}, {"read_dim": 129}])
def test_heads_that_do_not_divide_the_width_are_refused(settings):
    with pytest.raises(ConfigError, match="is not a multiple of num_heads") as caught:
        BLMConfig(**settings)
    assert str(caught.value).startswith("blm.read" if "read" in next(iter(settings)) else "blm:")


@pytest.mark.parametrize("name", ["fit_features", "fit_dim"])
@pytest.mark.parametrize("size", [0, 1, 4097])
def test_sizes_of_the_regression_out_of_range_are_refused(name, size):
    with pytest.raises(ConfigError, match=rf"^blm\.{name} {size} is outside \[2, 4096\]"):
        BLMConfig(**{name: size})


def test_a_price_that_is_no_number_is_refused():
    with pytest.raises(ConfigError, match=r"blm\.request_price nan is no number"):
        BLMConfig(request_price=float("nan"))
