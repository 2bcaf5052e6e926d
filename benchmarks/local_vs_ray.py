"""Seconds a joint or refine step: all in one process, against the same system with SLMs and memory in Ray actors.

Both systems are alive in one run of this program and take turns, a block of steps each, so that whatever else the
machine does meanwhile falls on both. They start from the same seed, and their losses must agree to the bit: a faster
step that does something else would be no gain.

    python benchmarks/local_vs_ray.py --config small --blocks 5 --steps 4
    python benchmarks/local_vs_ray.py --config pointers --phase refine --set world.settings.depth=20
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace

from cluster.config.presets import load_config
from cluster.config.run_config import RunConfig
from cluster.run.runtimes import Runtime, make_learner, open_runtime
from leworld.training.phase_runner import Progress

MODES = ("inline", "ray")


@dataclass(frozen=True)
class Block:
    """Steps done one after another: ``seconds`` a step, and the loss of each."""

    seconds: float
    losses: tuple[float, ...]


def benchmark_config(args: argparse.Namespace) -> RunConfig:
    """The config with SLMs that know the placement, and one phase of as many steps as are measured."""
    steps = {"joint": 0, "refine": 0, args.phase: args.warmup + args.blocks * args.steps}
    changes = [
        *args.changes,
        "phases.pretrain.steps=0",
        f"phases.pretrain.slm_steps={args.pretrain}",
        *(f"phases.{phase}.steps={number}" for phase, number in steps.items()),
        "cluster.shards=2",
    ]
    config = load_config(args.config, changes)
    return replace(config, cluster=replace(config.cluster, slm_actors=min(3, config.model.num_slms)))


def steps_of(runtime: Runtime) -> Iterator[Progress]:
    """The phase of a new system; the memory is written and the SLMs pre-trained first.

    SLMs that know nothing yet propose ranges of any length all over the memory, and reading those is most of the work.
    """
    learner = make_learner(runtime)
    runtime.world.populate(learner.runner.train_state.memory, "train")
    steps = learner.steps()
    for _ in range(learner.runner.num_steps("pretrain")):
        next(steps)
    return steps


def run_block(steps: Iterator[Progress], count: int) -> Block:
    """Do ``count`` steps."""
    start = time.perf_counter()
    losses = [next(steps).metrics["loss"] for _ in range(count)]
    return Block((time.perf_counter() - start) / max(1, count), tuple(losses))


def measure(config: RunConfig, warmup: int, blocks: int, steps: int) -> dict[str, list[Block]]:
    """Blocks of both modes, taken in turn; who goes first changes from block to block."""
    measured: dict[str, list[Block]] = {mode: [] for mode in MODES}
    with ExitStack() as stack:
        streams = {}
        for mode in MODES:
            start = time.perf_counter()
            own = replace(config, cluster=replace(config.cluster, mode=mode))
            streams[mode] = steps_of(stack.enter_context(open_runtime(own)))
            print(f"{mode:<7}up in {time.perf_counter() - start:.1f} s", flush=True)
        for mode in MODES:
            run_block(streams[mode], warmup)
        for block in range(blocks):
            for mode in MODES if block % 2 == 0 else reversed(MODES):
                measured[mode].append(run_block(streams[mode], steps))
    return measured


def spread(values: Sequence[float]) -> str:
    """``min / median / max``."""
    return f"{min(values):.3f} / {statistics.median(values):.3f} / {max(values):.3f}"


def report(measured: dict[str, list[Block]]) -> bool:
    """Print the figures; False if the two did not compute the same."""
    seconds = {mode: [block.seconds for block in measured[mode]] for mode in MODES}
    ratios = [ray / inline for inline, ray in zip(seconds["inline"], seconds["ray"], strict=True)]
    print("seconds a step, min / median / max over blocks")
    for mode in MODES:
        print(f"  {mode:<10}{spread(seconds[mode])}")
    print(f"  {'ratio':<10}{spread(ratios)}   (ray over inline, block by block)")
    losses = {mode: [loss for block in measured[mode] for loss in block.losses] for mode in MODES}
    same = losses["inline"] == losses["ray"]
    print(f"losses of the {len(losses['ray'])} steps: {'the same bits' if same else 'DIFFERENT'}")
    return same


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--config", default="small", help="a preset's name, or the path of a YAML file")
    parser.add_argument("--set", dest="changes", action="append", default=[], help="change a setting, as in leworld")
    parser.add_argument("--phase", choices=("joint", "refine"), default="joint", help="whose steps are measured")
    parser.add_argument("--blocks", type=int, default=5, help="blocks of each mode")
    parser.add_argument("--steps", type=int, default=4, help="steps a block")
    parser.add_argument("--pretrain", type=int, default=100, help="steps of the SLMs before, not counted")
    parser.add_argument("--warmup", type=int, default=2, help="steps of each mode that are not counted")
    args = parser.parse_args(arguments)
    if args.blocks < 1 or args.steps < 1 or args.warmup < 0:
        parser.error("--blocks and --steps must be 1 or more, --warmup 0 or more")
    return args


def main() -> int:
    """Measure and print."""
    args = parse()
    config = benchmark_config(args)
    return 0 if report(measure(config, args.warmup, args.blocks, args.steps)) else 1


if __name__ == "__main__":
    raise SystemExit(main())
