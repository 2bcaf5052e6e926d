"""A control: memory and dynamics are rewritten together. A system that reads needs no new training."""

from __future__ import annotations

import torch

from leworld.evaluation.trials import Trial, reading, teacher_forced
from leworld.memory import WordStore
from leworld.models.system import System
from leworld.types import Batch
from leworld.worlds import World
from leworld.worlds.base import Rewritable

_VERSION = 1


def rewritten_trial(
    world: World, system: System, sequences: int, generator: torch.Generator
) -> tuple[Trial, Batch] | None:
    """Try the system on new dynamics with a separate memory; afterwards the world has version 0 again.

    Args:
        world: whose memory is written.
        system: the system to try; its weights and memory do not change.
        sequences: fresh test sequences of the new dynamics.
        generator: for the sequences.

    Returns:
        The trial and its samples, or None if the world cannot be rewritten.
    """
    if not isinstance(world, Rewritable):
        return None
    memory = WordStore(world.spec.address_bits)
    for split in ("train", "test"):
        world.populate(memory, split)
    try:
        world.rewrite(memory, _VERSION)
        batch = world.batch("test", sequences, generator)
        return teacher_forced(reading(system, memory), batch), batch
    finally:
        world.rewrite(memory, 0)
