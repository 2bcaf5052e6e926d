"""A few seconds of training are enough to see that each part learns what it is there for."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from leworld.evaluation.metrics import hit_rate
from leworld.evaluation.trials import teacher_forced
from leworld.memory import WordStore
from leworld.models.system import System
from leworld.training.joint import JointConfig
from leworld.training.phase_runner import PhasesConfig
from leworld.training.pretrain import PretrainConfig
from leworld.training.train_state import TrainState
from leworld.types import Batch
from leworld.worlds import RulesWorld
from tests.models.tiny import MODEL, PHASES, tiny_trainer, tiny_world

SLOTS = 16


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(8)


def test_slms_find_the_addresses_of_keys_they_never_saw():
    world = tiny_world("rules", difficulty="medium", num_tables=2, hash_bits=4)
    phases = PhasesConfig(
        pretrain=PretrainConfig(steps=0, slm_steps=100, slm_batch=64, rule_batch=512, slm_lr=1e-2, warmup_steps=10),
        joint=JointConfig(steps=6, sequences=16, samples=32, warmup_steps=1),
        refine=replace(PHASES.refine, steps=0),
        rehearsal=16,
    )
    trainer = tiny_trainer(world, replace(MODEL, num_slms=2), phases)
    done = list(trainer.steps())
    losses = [p.metrics["slm_loss"] for p in done if "slm_loss" in p.metrics]
    assert losses[-1] < losses[0] / 2
    batch = world.batch("test", 100, generator())
    start = teacher_forced(trainer.train_state.system, batch).start.flatten(0, 1)
    labels = batch.labels.map(lambda tensor: tensor.flatten(0, 1))
    # By chance 1 of 65,536 addresses is right, and 1 of 16 of those that are in use.
    assert hit_rate(start, labels, 1) > 8 / SLOTS
    assert hit_rate(start, labels, 3) > 12 / SLOTS
    # Each knows its own table, not the other's.
    assert hit_rate(start, labels.map(lambda tensor: tensor.flip(1)), 1) < 4 / SLOTS
    assert done[-1].metrics["hit_top1"] > 8 / SLOTS


@pytest.fixture(scope="module")
def reader() -> TrainState:
    """A BLM that has learnt to read, of one table in which every slot has a record."""
    world = tiny_world("rules", difficulty="easy", num_tables=1, hash_bits=None, noise=0.05, drive=0.5)
    phases = PhasesConfig(
        pretrain=PretrainConfig(
            steps=150, sequences=64, samples=128, lr=3e-3, warmup_steps=10, rule_batch=512, slm_steps=0
        ),
        joint=replace(PHASES.joint, steps=0),
        refine=replace(PHASES.refine, steps=0),
    )
    model = replace(MODEL, num_slms=1, blm=replace(MODEL.blm, d_model=32, read_dim=32))
    trainer = tiny_trainer(world, model, phases)
    list(trainer.steps())
    return trainer.train_state


def test_the_reader_learns_what_bits_mean_not_which_words_there_were(reader):
    """Rewriting the memory changes the predictions at once, with no step of learning, and rightly."""
    world = reader.world
    assert isinstance(world, RulesWorld)

    def error(batch: Batch) -> float:
        return teacher_forced(reader.system, batch, oracle=True).error.mean().item()

    before = world.batch("test", 100, generator())
    right = error(before)
    world.rewrite(reader.memory, 1)
    try:
        rewritten, outdated = error(world.batch("test", 100, generator())), error(before)
    finally:
        world.rewrite(reader.memory, 0)
    assert right < 0.05
    assert outdated > 5 * right
    assert rewritten < 1.5 * right


def with_wrong_bits_in_tags(world: RulesWorld, count: int) -> WordStore:
    """A memory of the right records, of whose tags the first ``count`` bits are wrong."""
    memory, slot = WordStore(world.spec.address_bits), np.arange(world.slots.count)
    words = world.slots.words(slot)
    words[:, -1] ^= np.uint32((1 << count) - 1)
    memory.write(slot * world.slots.stride, words)
    return memory


def test_a_record_is_believed_less_the_more_bits_of_its_tag_are_wrong_and_then_does_no_harm(reader):
    world = reader.world
    assert isinstance(world, RulesWorld)
    batch = world.batch("test", 200, generator()).fold_time().at(0)
    query, everyone = reader.query(batch), torch.ones(len(batch.current), 1)

    def step(wrong_bits: int, mask: Tensor) -> tuple[float, float]:
        system = System(reader.blm, reader.fleet, with_wrong_bits_in_tags(world, wrong_bits), world.spec)
        found = system.predict(query, ranges=batch.labels, mask=mask)
        return found.read_confidence.mean().item(), (found.next_state - batch.target).square().mean().item()

    read_confidence, error = zip(*(step(wrong_bits, everyone) for wrong_bits in (0, 3, 6, 15)), strict=True)
    assert read_confidence[0] > 0.9
    assert list(read_confidence) == sorted(read_confidence, reverse=True)
    assert read_confidence[-1] < 0.05
    _, blind = step(0, 0 * everyone)
    assert error[0] < blind / 3
    assert error[-1] < 1.1 * blind
