"""A training on a Ray cluster of several nodes, whose parts are killed at random: does it end as an undisturbed one?

python benchmarks/train_faults.py --kills 200 --out faults.json
python benchmarks/train_faults.py --kills 5 --only "SLM actor" --seed 3

All nodes are processes of this machine (``ray.cluster_utils``). A fault is over when 20 more steps are done.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from memory_cluster.nodes import HEALTH, Nodes

from cluster.config.presets import load_config
from cluster.config.run_config import RunConfig
from cluster.placement.topology import plan
from cluster.raylink.environment import ENVIRONMENT
from cluster.run.checkpoint import load_checkpoint
from cluster.run.run_dir import RunDir
from cluster.run.runtimes import open_runtime
from leworld.errors import LeWorldError
from leworld.worlds.registry import build_world

TITLES = {
    "SLM actor": "ray::SLMProcess", "shard": "ray::ReplicaActor", "keeper": "ray::Supervisor",
    "learner": "ray::RayTrainWorker", "controller": "ray::TrainController",
}  # fmt: skip
KINDS = (*TITLES, "node")
PATIENCE = {"RAY_health_check_timeout_ms": "5000", "RAY_health_check_failure_threshold": "4"}
GIVE_UP_S = 240.0
STEPS, PRETRAIN = 20, 50
CALM_S = 3.0


@dataclass(frozen=True)
class Fault:
    """One fault: who was hit, seconds until ``STEPS`` more steps were done, whether someone had to resume the run."""

    kind: str
    seconds: float
    by_hand: bool


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kills", type=int, default=200, help="in all; runs begin anew as they end")
    parser.add_argument("--steps", type=int, default=400, help="of each run's joint phase")
    parser.add_argument("--nodes", type=int, default=3, help="beside the head, which has no CPUs")
    parser.add_argument("--copies", type=int, default=2, help="of each shard; with one, a lost node takes words along")
    parser.add_argument("--only", action="append", choices=KINDS, help="this kind; may come many times")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--dir", type=Path, help="for the runs; default: a temporary directory")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write every fault as JSON, too")
    return parser.parse_args(arguments)


def configured(args: argparse.Namespace, folder: Path) -> RunConfig:
    """A small run with checkpoints often, that goes on as often as need be."""
    return load_config(
        "tiny",
        [
            f"output.dir={folder}", "output.checkpoint_every=10", f"phases.joint.steps={args.steps}",
            f"phases.pretrain.steps={PRETRAIN}", f"phases.pretrain.slm_steps={PRETRAIN}", "phases.refine.steps=30",
            f"cluster.copies={args.copies}", "cluster.max_failures=1000",
        ],
    )  # fmt: skip


def place(run: RunDir) -> int:
    """Steps done, those that will be done again not among them."""
    return len(run.records())


def processes(nodes: Nodes, title: str) -> Iterator[psutil.Process]:
    """Processes of our cluster by the title that Ray gives them."""
    for raylet in nodes.raylets():
        with suppress(psutil.Error):
            for child in psutil.Process(raylet).children():
                with suppress(psutil.Error, IndexError):
                    if child.cmdline()[0].startswith(title):
                        yield child


def hit(nodes: Nodes, kind: str, random: np.random.Generator) -> bool:
    """Kill one of a kind; whether there was one. Of a node another one takes the place."""
    if kind == "node":
        nodes.lose(str(random.choice(nodes.lost_ones)))
        time.sleep(float(random.uniform(0, 4)))
        nodes.add()
        return True
    found = list(processes(nodes, TITLES[kind]))
    if not found:
        return False
    with suppress(psutil.Error):
        os.kill(found[int(random.integers(len(found)))].pid, signal.SIGKILL)
    return True


class Training:
    """A run in a thread, resumed as often as it ends with an error."""

    def __init__(self, config: RunConfig) -> None:
        self.run, self.resumed, self.problems = RunDir.create(config), 0, list[str]()
        self._config = config
        self._thread = threading.Thread(target=self._train, daemon=True)
        self._thread.start()

    @property
    def is_over(self) -> bool:
        """Whether it reached its end."""
        return not self._thread.is_alive()

    def _train(self) -> None:
        from cluster.run.ray_runtime import launched

        world = build_world(self._config.world.name, self._config.world.settings, self._config.seed)
        while True:
            try:
                with launched(self._config, world, plan(self._config)) as runtime:
                    runtime.train(self.run)
            except LeWorldError as error:
                self.resumed += 1
                self.problems.append(str(error))
                time.sleep(1.0)
            else:
                return


def disturb(
    nodes: Nodes, training: Training, kinds: Sequence[str], random: np.random.Generator, most: int
) -> Iterator[Fault]:
    """Hit a run until it ends, or often enough."""
    while most > 0:
        # Steps of pre-training come many at once, and say little of who is there.
        if not wait(lambda: place(training.run) > PRETRAIN or training.is_over):
            raise TimeoutError("a run does not begin")
        time.sleep(float(random.uniform(0, CALM_S)))
        before, resumed, kind = place(training.run), training.resumed, str(random.choice(kinds))
        if training.is_over or not hit(nodes, kind, random):
            if training.is_over:
                break
            continue
        begin = time.monotonic()
        if not wait(lambda before=before: place(training.run) >= before + STEPS or training.is_over):
            raise TimeoutError(f"nothing goes on {GIVE_UP_S:g} s after {kind}: {training.problems[-1:]}")
        fault, most = Fault(kind, round(time.monotonic() - begin, 2), training.resumed > resumed), most - 1
        print(f"  {kind:<11}{fault.seconds:7.1f} s{'  resumed by hand' if fault.by_hand else ''}", flush=True)
        yield fault


def wait(is_so: Callable[[], bool]) -> bool:
    """Until something is so; whether it became so."""
    end = time.monotonic() + GIVE_UP_S
    while not is_so():
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


def final(run: RunDir) -> Any:
    """The state that a run ended with."""
    newest = run.newest_checkpoint()
    assert newest is not None, run.path
    return load_checkpoint(newest, run.config())


def differences(one: Any, other: Any) -> list[str]:
    """Names of what differs in a bit between two final states."""
    pairs = ((one.blm, other.blm), (one.slms, other.slms))
    found = [
        name for a, b in pairs for name in a.keys() | b.keys() if name not in a or not torch.equal(a[name], b[name])
    ]
    memory = np.array_equal(one.memory.pages, other.memory.pages) and np.array_equal(
        one.memory.words, other.memory.words
    )
    return found if memory else [*found, "memory"]


def table(faults: Sequence[Fault]) -> list[str]:
    """A line a kind."""
    lines = [f"{'killed':<12}{'times':>6}{'by itself':>11}{'by hand':>9}{'median s':>10}{'longest s':>11}"]
    for kind in (*KINDS, "all"):
        some = [fault for fault in faults if kind in (fault.kind, "all")]
        if some:
            took = [fault.seconds for fault in some]
            by_hand = sum(fault.by_hand for fault in some)
            counts = f"{kind:<12}{len(some):>6}{len(some) - by_hand:>11}{by_hand:>9}"
            lines.append(f"{counts}{np.median(took):>10.1f}{max(took):>11.1f}")
    return lines


def main() -> int:
    """Run, hit, compare."""
    args = parse()
    folder = args.dir or Path(tempfile.mkdtemp(prefix="train-faults-"))
    config, random = configured(args, folder), np.random.default_rng(args.seed)
    faults: list[Fault] = []
    wrong: list[str] = []
    inline = replace(config, cluster=replace(config.cluster, mode="inline"))
    undisturbed = RunDir.create(inline)
    with open_runtime(inline) as runtime:
        runtime.train(undisturbed)
    right = final(undisturbed)
    # Processes that import torch keep a small machine so busy that nodes seem lost.
    HEALTH.update({**ENVIRONMENT, **PATIENCE})
    nodes = Nodes("train", 2, random)
    nodes.begin()
    try:
        for _ in range(args.nodes):
            nodes.add()
        while len(faults) < args.kills:
            training = Training(config)
            for fault in disturb(nodes, training, args.only or KINDS, random, args.kills - len(faults)):
                faults.append(fault)
            if not wait(lambda training=training: training.is_over):
                raise TimeoutError("a run does not end")
            wrong += differences(final(training.run), right)
            print(
                f"{len(faults)} faults; run ended, {'other bits: ' + ', '.join(wrong) if wrong else 'same bits'}",
                flush=True,
            )
    finally:
        print("\n".join(table(faults)), flush=True)
        if args.out:
            args.out.write_text(json.dumps({"faults": [asdict(fault) for fault in faults], "wrong": wrong}, indent=1))
        nodes.end()
        if args.dir is None:
            shutil.rmtree(folder, ignore_errors=True)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
