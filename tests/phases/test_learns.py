"""A few seconds of training are enough to see that each part learns what it is there for."""

from dataclasses import replace

import torch

from leworld.evaluation.metrics import hit_rate
from leworld.evaluation.trials import teacher_forced
from leworld.phases.joint import JointConfig
from leworld.phases.pretrain import PretrainConfig
from leworld.phases.trainer import PhasesConfig
from leworld.worlds import RulesWorld
from tests.models.tiny import MODEL, PHASES, tiny_trainer, tiny_world

SLOTS = 16


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(8)


def test_slms_find_the_addresses_of_keys_they_never_saw():
    world = tiny_world("rules", difficulty="medium", num_tables=2, hash_bits=4)
    phases = PhasesConfig(
        pretrain=PretrainConfig(steps=0, slm_steps=100, slm_batch=64, slm_lr=1e-2, warmup_steps=10),
        joint=JointConfig(steps=6, sequences=16, samples=32, warmup_steps=1),
        refine=replace(PHASES.refine, steps=0),
        rehearsal=16,
    )
    trainer = tiny_trainer(world, replace(MODEL, num_slms=2), phases)
    done = list(trainer.steps())
    losses = [p.metrics["slm_loss"] for p in done if "slm_loss" in p.metrics]
    assert losses[-1] < losses[0] / 2
    batch = world.batch("test", 100, generator())
    start = teacher_forced(trainer.learner.system, batch).start.flatten(0, 1)
    labels = batch.labels.map(lambda tensor: tensor.flatten(0, 1))
    # By chance 1 of 65,536 addresses is right, and 1 of 16 of those that are in use.
    assert hit_rate(start, labels, 1) > 8 / SLOTS
    assert hit_rate(start, labels, 3) > 12 / SLOTS
    # Each knows its own table, not the other's.
    assert hit_rate(start, labels.map(lambda tensor: tensor.flip(1)), 1) < 4 / SLOTS
    assert done[-1].metrics["hit_top1"] > 8 / SLOTS


def test_the_reader_learns_what_bits_mean_not_which_words_there_were():
    """Rewriting the memory changes the predictions at once, with no step of learning, and rightly."""
    world = tiny_world("rules", difficulty="easy", num_tables=1, hash_bits=None, noise=0.05, drive=0.5)
    assert isinstance(world, RulesWorld)
    phases = PhasesConfig(
        pretrain=PretrainConfig(steps=150, sequences=64, samples=128, lr=3e-3, warmup_steps=10, slm_steps=0),
        joint=replace(PHASES.joint, steps=0),
        refine=replace(PHASES.refine, steps=0),
    )
    model = replace(MODEL, num_slms=1, blm=replace(MODEL.blm, d_model=32, read_dim=32))
    trainer = tiny_trainer(world, model, phases)
    list(trainer.steps())

    def error(batch) -> float:
        return teacher_forced(trainer.learner.system, batch, oracle=True).error.mean().item()

    before = world.batch("test", 100, generator())
    right = error(before)
    world.rewrite(trainer.learner.memory, 1)
    after = world.batch("test", 100, generator())
    assert right < 0.05
    assert error(before) > 5 * right
    assert error(after) < 1.5 * right
