"""Tiny worlds and systems, built in milliseconds, for the tests of models, phases and evaluation."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from leworld.memory import WordStore
from leworld.models.blm import BLMConfig
from leworld.models.slm import SLMConfig
from leworld.models.system import ModelConfig
from leworld.training.joint import JointConfig
from leworld.training.phase_runner import PhaseRunner, PhasesConfig, fleet_config, phase_runner
from leworld.training.pretrain import PretrainConfig
from leworld.training.refine import RefineConfig
from leworld.training.slm_training import SLMGroup
from leworld.types import Query
from leworld.worlds import World, build_world
from leworld.worlds.base import WorldSpec

SETTINGS: dict[str, dict[str, Any]] = {
    "rules": {"difficulty": "hard", "state_dim": 4, "char_dim": 8, "hash_bits": 4, "horizon": 3},
    "pointers": {"depth": 4, "state_dim": 4, "char_dim": 8},
    "seed": {"num_train": 8, "num_valid": 4, "num_test": 4, "horizon": 3, "state_dim": 8, "char_dim": 4},
    "physics": {
        "num_train": 6, "num_valid": 2, "num_test": 3, "records": 9, "horizon": 4, "char_dim": 4, "address_bits": 16,
    },
}  # fmt: skip
MODEL = ModelConfig(
    slm=SLMConfig(d_model=16, num_heads=2, num_layers=1, candidates=3),
    blm=BLMConfig(
        d_model=16, num_heads=2, num_layers=1, read_dim=16, read_heads=2, query_dim=8, fit_features=6, fit_dim=16
    ),
)
PHASES = PhasesConfig(
    pretrain=PretrainConfig(
        steps=2, sequences=8, samples=12, warmup_steps=1, slm_steps=2, slm_batch=16, rule_steps=2, rule_batch=32
    ),
    joint=JointConfig(steps=2, sequences=8, samples=12, warmup_steps=1, scored=0.5),
    refine=RefineConfig(steps=2, sequences=4, horizon=3, warmup_steps=1, guided=0.5),
    rehearsal=8,
)


@contextmanager
def single_thread() -> Iterator[None]:
    """Tiny networks run slower on several threads, above all beside other work."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def tiny_world(name: str, seed: int = 0, **settings: Any) -> World:
    return build_world(name, {**SETTINGS[name], **settings}, seed)


def tiny_trainer(
    world: World,
    model: ModelConfig = MODEL,
    phases: PhasesConfig = PHASES,
    seed: int = 0,
    memory: WordStore | None = None,
    stirred: bool = False,
) -> PhaseRunner:
    """A trainer on a memory that holds all splits; ``stirred`` gives every weight a random value."""
    memory = filled(world) if memory is None else memory
    fleet = SLMGroup(fleet_config(model, phases, seed), world)
    trainer = phase_runner(model, phases, world, fleet, memory, seed=seed)
    if stirred:
        stir(trainer.train_state.blm, *fleet.slms)
        # A new router trusts everyone; this one is of two minds.
        stir(trainer.train_state.blm.router, seed=1, size=0.5)
        torch.nn.init.zeros_(trainer.train_state.blm.router.score.bias)
    return trainer


def filled(world: World) -> WordStore:
    memory = WordStore(world.spec.address_bits)
    for split in ("train", "valid", "test"):
        world.populate(memory, split)
    return memory


def stir(*modules: nn.Module, seed: int = 0, size: float = 0.15) -> None:
    """Move every weight off its first value: what starts at zero hides what comes before it."""
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in modules:
            for weight in module.parameters():
                weight += size * torch.randn(weight.shape, generator=random)


def state_of(trainer: PhaseRunner) -> dict[str, Tensor]:
    """Every weight and moment of a trainer's BLM and SLMs."""
    return {**trainer.train_state.state(), **trainer.train_state.fleet.state()}


def same_state(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    """Equal names, shapes and bits."""
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def spec_of(**changed: Any) -> WorldSpec:
    """The spec of a world with 64-d states, as the configuration of 13.5 M parameters meets it."""
    spec = WorldSpec(
        name="plain",
        state_dim=64,
        target_dim=64,
        char_dim=32,
        context_dim=0,
        num_tables=3,
        address_bits=16,
        record_words=1,
        read_words=128,
        horizon=9,
        residual=False,
        scale=torch.ones(64),
    )
    return replace(spec, **changed)


def random_query(spec: WorldSpec, batch: int, query_dim: int = MODEL.blm.query_dim, seed: int = 0) -> Query:
    random = torch.Generator().manual_seed(seed)
    widths = (spec.state_dim, spec.state_dim, spec.char_dim, query_dim)
    return Query(*(torch.randn(batch, width, generator=random) for width in widths))
