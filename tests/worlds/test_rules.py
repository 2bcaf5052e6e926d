import numpy as np
import pytest
import torch

from leworld.errors import ConfigError
from leworld.memory import WordStore
from leworld.worlds import RulesConfig, RulesWorld
from tests.worlds.reading import generator, linear_residual, plain_signs, populated, read_one

REGIONS = {"easy": 1, "medium": 2, "hard": 3}


@pytest.fixture(scope="module")
def world() -> RulesWorld:
    return RulesWorld(RulesConfig("hard"), 0)


def test_record_at_a_label_is_tagged_with_its_slot(world):
    memory, labels = populated(world), world.batch("test", 8, generator()).labels
    for start, length in zip(labels.start.flatten().tolist(), labels.length.flatten().tolist(), strict=True):
        assert length == world.spec.record_words == 2
        assert read_one(memory, start, length)[-1] & 0xFFFF == start // 2


def test_context_is_what_the_relevant_records_say(world):
    memory, batch = populated(world), world.batch("train", 4, generator())
    for b in range(4):
        for t in range(world.spec.horizon):
            signs = [plain_signs(int(read_one(memory, int(start), 2)[0])) for start in batch.labels.start[b, t]]
            drive = sum(0.25 * s for s, matters in zip(signs, batch.relevant[b, t], strict=True) if matters)
            assert torch.allclose(batch.context[b, t], drive)


@pytest.mark.parametrize("difficulty", ["easy", "medium", "hard"])
def test_true_rule_leaves_the_floor(difficulty):
    world = RulesWorld(RulesConfig(difficulty), 1)
    error = linear_residual(world.batch("valid", 64, generator()), 0.8).square().mean().item()
    assert error == pytest.approx(world.spec.floor, rel=0.03)
    assert world.spec.floor == pytest.approx(0.01)


@pytest.mark.parametrize("difficulty", ["easy", "medium", "hard"])
def test_flags_tell_which_tables_matter_and_never_none_does(difficulty):
    world = RulesWorld(RulesConfig(difficulty), 1)
    batch = world.batch("train", 256, generator())
    flags, relevant = batch.characteristics[..., :3], batch.relevant
    count = REGIONS[difficulty]
    assert torch.equal(relevant[..., :count], flags[..., :count] > 0)
    assert not relevant[..., count:].any()
    assert relevant.any(dim=-1).all()
    assert flags.abs().min() >= 0.5
    masks = torch.unique(relevant.flatten(0, 1), dim=0)
    assert len(masks) == 2**count - 1


def test_in_a_wide_world_any_three_tables_matter_and_their_flags_tell():
    world = RulesWorld(RulesConfig("wide", num_tables=9), 1)
    batch = world.batch("train", 64, generator())
    assert torch.equal(batch.relevant, batch.characteristics[..., :9] > 0)
    assert (batch.relevant.sum(-1) == 3).all()
    assert batch.relevant.flatten(0, 1).float().mean(0).min() > 0.25
    assert linear_residual(batch, 0.8).square().mean().item() == pytest.approx(0.01, rel=0.1)


def test_flags_of_tables_that_never_matter_vary():
    batch = RulesWorld(RulesConfig("easy"), 1).batch("train", 256, generator())
    share = (batch.characteristics[..., 1:3] > 0).float().mean()
    assert share == pytest.approx(0.5, abs=0.05)


def test_history_tells_nothing_of_the_next_drive(world):
    batch = world.batch("train", 512, generator())
    for values in (batch.characteristics, batch.context):
        before, after = values[:, :-1].flatten(), values[:, 1:].flatten()
        assert abs(torch.corrcoef(torch.stack([before, after]))[0, 1].item()) < 0.01


def test_past_is_the_state_before_and_at_first_the_current_one(world):
    batch = world.batch("train", 8, generator())
    assert torch.equal(batch.past[:, 0], batch.current[:, 0])
    assert torch.equal(batch.past[:, 1:], batch.current[:, :-1])
    assert torch.equal(batch.target[:, :-1], batch.current[:, 1:])


def test_rewrite_changes_memory_and_dynamics_at_once():
    world, memory = RulesWorld(RulesConfig(), 0), WordStore(16)
    world.populate(memory, "train")
    first, before = world.batch("train", 16, generator()), memory.snapshot().words
    world.rewrite(memory, 1)
    second = world.batch("train", 16, generator())
    assert torch.equal(first.labels.start, second.labels.start)
    assert torch.equal(first.characteristics, second.characteristics)
    same = (first.context == second.context).float().mean()
    assert same == pytest.approx(0.5, abs=0.05)
    start = int(second.labels.start[0, 0, 0])
    assert torch.allclose(second.context[0, 0], 0.25 * plain_signs(int(read_one(memory, start, 2)[0])))
    world.rewrite(memory, 0)
    assert (memory.snapshot().words == before).all()


def test_rewriting_by_hand_does_not_change_the_truth(world):
    memory = populated(world)
    before = world.batch("train", 4, generator())
    memory.write(before.labels.start.flatten().numpy(), world.slots.words(np.arange(before.labels.start.numel())))
    assert torch.equal(before.context, world.batch("train", 4, generator()).context)


def test_wide_states_take_wider_slots():
    world = RulesWorld(RulesConfig(state_dim=40, hash_bits=6, address_bits=8), 0)
    memory, batch = populated(world), world.batch("train", 4, generator())
    assert (world.spec.record_words, world.slots.stride) == (3, 4)
    assert (batch.labels.start % 4 == 0).all()
    assert batch.labels.start.max() <= 256 - 4
    words = read_one(memory, int(batch.labels.start[0, 0, 0]), 3)
    expected = torch.cat([plain_signs(int(words[0])), plain_signs(int(words[1]), 8)])
    assert torch.allclose(batch.context[0, 0], 0.25 * expected)


@pytest.fixture(scope="module", params=[24, 32])
def wide(request) -> RulesWorld:
    return RulesWorld(RulesConfig("hard", address_bits=request.param, num_keys=50), 0)


def split_keys(world: RulesWorld, split: str) -> set[tuple[float, ...]]:
    keys = world.batch(split, 100, generator()).characteristics[..., 3:].flatten(0, 1)
    return {tuple(key) for key in keys.tolist()}


def test_a_wide_memory_has_so_many_keys_a_split_and_no_two_splits_share_one(wide):
    keys = {split: split_keys(wide, split) for split in ("train", "valid", "test")}
    assert [len(part) for part in keys.values()] == [50, 50, 50]
    assert len(set.union(*keys.values())) == 150
    fresh = wide.keys(400, generator()).characteristics[:, 3:]
    assert len({tuple(key) for key in fresh.tolist()} - set.union(*keys.values())) == 400


def test_a_wide_memory_holds_the_records_of_its_keys_and_few_pages(wide):
    memory = WordStore(wide.spec.address_bits)
    wide.populate(memory, "train")
    batch = wide.batch("train", 20, generator())
    for b, t in ((0, 0), (19, 7)):
        words = [read_one(memory, int(start), 2) for start in batch.labels.start[b, t]]
        assert [int(tag) & 0xFFFF for _, tag in words] == [int(s) // 2 & 0xFFFF for s in batch.labels.start[b, t]]
        signs = [plain_signs(int(payload)) for payload, _ in words]
        drive = sum(0.25 * s for s, matters in zip(signs, batch.relevant[b, t], strict=True) if matters)
        assert torch.allclose(batch.context[b, t], drive)
    assert memory.allocated_pages <= 150
    unknown = wide.batch("test", 20, generator()).labels
    assert not memory.read(unknown.start.flatten().numpy(), unknown.length.flatten().numpy()).words.any()


def test_a_wide_memory_tags_by_the_last_bits_of_the_slot(wide):
    keys, memory = wide.keys(30, generator()), WordStore(wide.spec.address_bits)
    wide.slots.write(memory, keys.labels.start.flatten().numpy())
    assert wide.spec.tag == (32, 16)
    words = memory.read(keys.labels.start.flatten().numpy(), keys.labels.length.flatten().numpy()).words.reshape(-1, 2)
    assert (words[:, 1] & 0xFFFF).tolist() == keys.tags.flatten().tolist()
    assert (keys.labels.start // 2 >= 2**16).any()


def test_a_narrow_memory_has_no_more_tag_bits_than_slots_to_tell_apart():
    world = RulesWorld(RulesConfig(address_bits=8, state_dim=40), 0)
    assert world.spec.tag == (64, 6)
    assert world.keys(50, generator()).tags.max() < 2**6


def test_a_wide_memory_is_rewritten_and_outdated(wide):
    world = RulesWorld(wide.config, 0)
    memory = populated(world)
    labels = world.batch("test", 20, generator()).labels
    places = labels.start.flatten().numpy(), labels.length.flatten().numpy()
    first = memory.read(*places).words
    world.outdate(memory, "test")
    outdated = memory.read(*places).words
    world.rewrite(memory, 1)
    assert (memory.read(*places).words == outdated).all()
    assert (first != outdated).mean() > 0.9
    world.rewrite(memory, 0)
    assert (memory.read(*places).words == first).all()


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"difficulty": "hrad"}, "'hard'"),
        ({"num_keys": 0}, "num_keys is 0"),
        ({"address_bits": 12}, "address_bits 12"),
        ({"hash_bits": 16}, "outside [1, 15]"),
        ({"hash_bits": 0}, "outside [1, 15]"),
        ({"difficulty": "hard", "num_tables": 2}, "num_tables is 2"),
        ({"char_dim": 3}, "char_dim is 3"),
        ({"horizon": 0}, "horizon is 0"),
        ({"decay": 1.5}, "decay is 1.5"),
        ({"noise": float("nan")}, "noise is nan"),
        ({"state_dim": 32 * 256}, "257 words"),
    ],
)
def test_bad_settings_are_named_in_one_line(settings, named):
    with pytest.raises(ConfigError) as caught:
        RulesConfig(**settings)
    assert named in str(caught.value)
    assert "\n" not in str(caught.value)
