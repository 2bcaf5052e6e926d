"""A few steps of three presets give the losses and weights that they gave when these were recorded.

``python -m tests.training.test_same_bits`` records them again, after a change that is meant to change them.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from cluster.config.presets import load_config
from cluster.run.runtimes import make_learner, open_runtime
from leworld.models.slm_health import SLMHealth
from leworld.models.system import System
from leworld.types import Query
from leworld.worlds.base import World

RECORDED = Path(__file__).with_name("same_bits.json")
SHORT = {
    "tiny": [],
    "pendulum": [
        "phases.pretrain.steps=3", "phases.pretrain.slm_steps=3", "phases.joint.steps=3", "phases.refine.steps=2",
        "phases.pretrain.rule_batch=256", "world.settings.num_train=32",
    ],
    "pointers": [
        "phases.pretrain.steps=3", "phases.pretrain.slm_steps=3", "phases.joint.steps=3", "phases.refine.steps=3",
        "phases.pretrain.rule_batch=256", "phases.refine.request_weight=1.0",
    ],
}  # fmt: skip


def outcome(preset: str) -> dict:
    """The losses of every step, and of all weights at the end a digest and the sum of squares."""
    config = load_config(preset, ["cluster.mode=inline", "cluster.threads=1", *SHORT[preset]])
    before = torch.get_num_threads()
    with open_runtime(config) as runtime:
        learner = make_learner(runtime)
        for split in ("train", "valid", "test"):
            runtime.world.populate(runtime.memory(), split)
        losses = [step.metrics["loss"] for step in learner.steps() if "loss" in step.metrics]
        state = learner.state()
        weights = {**state.blm, **state.slms}
        predicted = predictions(learner.system, runtime.world)
    torch.set_num_threads(before)
    return {
        "losses": losses,
        "weights": digest(weights),
        "squares": float(sum(x.double().pow(2).sum() for x in weights.values())),
        "predictions": digest(predicted),
        "error": predicted["2.error"].item(),
    }


def predictions(system: System, world: World) -> dict[str, Tensor]:
    """Steps of test episodes, with what is seen, requested and held against SLMs on the way."""
    batch = world.batch("test", 8, torch.Generator().manual_seed(1))
    info_query, seen = torch.zeros(8, system.blm.config.query_dim), None
    health = SLMHealth.fresh(8, system.blm.num_slms)
    result: dict[str, Tensor] = {}
    for t in range(3):
        now = batch.at(t)
        query = Query(now.past, now.current, now.characteristics, info_query)
        seen = system.observe(query, seen)
        step = system.predict(query, seen=seen, health=health)
        health, info_query = health.observe(step), step.info_query
        values = (step.next_state, step.mask, step.reads.start, step.read_confidence, info_query, health.doubt)
        result |= {f"{t}.{i}": value for i, value in enumerate(values)}
        result[f"{t}.error"] = (step.next_state - now.target).pow(2).mean()
    return result


def digest(state: dict[str, Tensor]) -> str:
    """Of the values alone, whatever they are called."""
    parts = sorted(hashlib.sha256(x.contiguous().numpy().tobytes()).hexdigest() for x in state.values())
    return hashlib.sha256("".join(parts).encode()).hexdigest()


def processor() -> str:
    """What decides how sums are rounded."""
    return f"{torch.__version__} {torch.backends.cpu.get_cpu_capability()}"


@pytest.mark.parametrize("preset", SHORT)
def test_training_gives_what_was_recorded(preset):
    recorded = json.loads(RECORDED.read_text())
    found = outcome(preset)
    if recorded["processor"] == processor():
        assert found == recorded[preset]
    # Another processor or release of torch rounds otherwise.
    for name in ("losses", "squares", "error"):
        assert found[name] == pytest.approx(recorded[preset][name], rel=1e-3)


if __name__ == "__main__":
    recorded = {"processor": processor(), **{name: outcome(name) for name in SHORT}}
    RECORDED.write_text(json.dumps(recorded, indent=1) + "\n")
