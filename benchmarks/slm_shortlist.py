"""Does the router learn whom to ask? World ``rules``, wide: 3 of N tables matter, others at every step.

The BLM trains on what the write log names (phase 1) and is tried on keys of the test split, with the records of those
that it asks: the figures are of the router and the BLM, not of the SLMs' addresses. The ways differ in whom they ask:

    all        everyone; the router only trusts
    told       the ``asked`` best of the router, which the world tells afterwards who mattered
    untold     the same, taught by the error of the prediction alone, through the masks of those whom noise made it ask
    random     as many, drawn

    python benchmarks/slm_shortlist.py --slms 48 --asked 3 --steps 400
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from leworld.memory import WordStore
from leworld.models.blm import BLM, BLMConfig, Slots
from leworld.models.slm import SLMConfig
from leworld.models.system import ModelConfig
from leworld.rng import generator
from leworld.training.phase_runner import PhaseRunner, PhasesConfig, fleet_config, phase_runner
from leworld.training.pretrain import PretrainConfig
from leworld.training.slm_training import SLMGroup
from leworld.training.train_state import TrainState
from leworld.worlds.registry import build_world

WAYS = ("all", "told", "untold", "random")


def drawn(blm: BLM, seed: int) -> None:
    """Have the BLM ask whom chance names."""
    random = generator(seed, "drawn")

    def shortlist(query, noise: Tensor | None = None, prefer: Tensor | None = None) -> Tensor:
        scores = torch.rand(len(query.current), blm.num_slms, generator=random)
        return scores.topk(blm.shortlist_size or blm.num_slms).indices.sort(-1).values

    blm.shortlist = shortlist  # pyright: ignore[reportAttributeAccessIssue]


def build(way: str, args: argparse.Namespace) -> tuple[TrainState, PhaseRunner]:
    """A learner with everything written."""
    settings = {
        "difficulty": "wide", "num_tables": args.slms, "char_dim": args.slms + 16, "state_dim": 8, "horizon": 4,
        "drive": 0.5,
    }  # fmt: skip
    world = build_world("rules", settings, args.seed)
    slm = SLMConfig(d_model=16, num_heads=2, num_layers=1, candidates=1)
    blm = BLMConfig(d_model=96, num_heads=4, num_layers=2, read_dim=32, read_heads=4, query_dim=8)
    model = ModelConfig(slm, blm, args.slms, None if way == "all" else args.asked)
    pretrain = PretrainConfig(
        steps=args.steps, sequences=32, samples=128, lr=2e-3, warmup_steps=20, slm_steps=0, rule_batch=1024,
        subset_weight=float(way == "told"), irrelevant=0.1, dropped=0.1, cut=0.0, temperature=args.temperature,
    )  # fmt: skip
    phases = PhasesConfig(pretrain=pretrain)
    memory = WordStore(world.spec.address_bits)
    world.populate(memory, "train")
    fleet = SLMGroup(fleet_config(model, phases, args.seed), world, [0])
    trainer = phase_runner(model, phases, world, fleet, memory, seed=args.seed)
    if way == "random":
        drawn(trainer.train_state.blm, args.seed)
    return trainer.train_state, trainer


@torch.no_grad()
def tried(learner: TrainState, samples: int) -> dict[str, float]:
    """On keys of the test split: error, and how often all who matter are asked, and who is trusted is who matters."""
    batch = learner.world.batch("test", samples // 4, generator(learner.seed, "tried")).fold_time().at(0)
    query, relevant, blm = learner.query(batch), batch.relevant, learner.blm
    assert relevant is not None
    asked = blm.shortlist(query)
    own = batch.of(asked)
    senses = blm.sense(query, shortlist=asked)
    records, (index,) = learner.read(own.labels)
    pooled = blm.pool(senses, records, index)
    mask = blm.router.alone(senses.state, shortlist=asked).mask
    prediction = blm.predict(senses, Slots(pooled.content, pooled.notes, pooled.moments), mask)
    trusted = mask > 0.5
    if asked is not None:
        trusted = torch.zeros_like(relevant).scatter_(1, asked, trusted)
    there = relevant if asked is None else torch.zeros_like(relevant).scatter_(1, asked, True) & relevant
    return {
        "error": (prediction.change - learner.change(batch)).pow(2).mean().item(),
        "subset_recall": (there == relevant).all(1).float().mean().item(),
        "recall": (there.sum() / relevant.sum()).item(),
        "exact_mask": (trusted == relevant).all(1).float().mean().item(),
    }


def course(way: str, args: argparse.Namespace) -> list[dict[str, float]]:
    """What is found at times of a training."""
    learner, trainer = build(way, args)
    found, cpu = [{"step": 0, "cpu_s": 0.0, **tried(learner, args.samples)}], 0.0
    steps = trainer.steps()
    while int(found[-1]["step"]) < args.steps:
        begin = time.process_time()
        for _ in range(min(args.every, args.steps - int(found[-1]["step"]))):
            step = next(steps).position.step
        cpu += time.process_time() - begin
        step = min(args.steps, int(found[-1]["step"]) + args.every)
        found.append({"step": step, "cpu_s": round(cpu, 2), **tried(learner, args.samples)})
        shown = "  ".join(f"{name} {value:.3f}" for name, value in found[-1].items() if name not in ("step", "cpu_s"))
        print(f"{way:<8}step {step:>5}  {cpu:7.1f} s of CPU  {shown}", flush=True)
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Train each way and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--slms", type=int, default=48)
    parser.add_argument("--asked", type=int, default=3)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--every", type=int, default=50)
    parser.add_argument("--samples", type=int, default=512, help="that are tried")
    parser.add_argument("--temperature", type=float, default=0.3, help="of the noise by which others are asked too")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--out", type=Path, metavar="FILE", help="write all figures as JSON")
    args = parser.parse_args(arguments)
    torch.set_num_threads(1)
    found = {way: course(way, args) for way in args.ways}
    if args.out:
        setting = {name: value for name, value in vars(args).items() if name != "out"}
        args.out.write_text(json.dumps({"setting": setting, "ways": found}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
