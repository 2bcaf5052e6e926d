"""What a prediction and a joint step cost by the number of SLMs: all asked, or few that the router chooses.

SLMs and memory are actors of a Ray cluster of one and of three nodes. All nodes are processes of this one machine:
calls and copies are real, its cores are shared, and there is no network between them. The two ways take turns. SLMs are
untrained but for the length of a record, and do not rehearse; the router's keys are random, so that all SLMs are asked
alike. FLOPs are counted (``torch.utils.flop_counter``) in a run of the same system in one process.

    python benchmarks/slm_curve.py --out slm_curve.json
    python benchmarks/slm_curve.py --slms 3 12 --nodes 1 --turns 3
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from cluster.raylink.session import prepare_environment
from leworld.memory import Memory, WordStore
from leworld.models.blm import BLMConfig
from leworld.models.fleet import num_parameters
from leworld.models.slm import SLMConfig
from leworld.models.system import ModelConfig
from leworld.rng import generator
from leworld.training.joint import JointConfig, joint_step
from leworld.training.phase_runner import PhaseRunner, PhasesConfig, fleet_config, phase_runner
from leworld.training.slm_training import SLMGroup, TrainableFleet
from leworld.types import Query
from leworld.worlds.base import World
from leworld.worlds.registry import build_world

NUM_ACTORS, NUM_SHARDS = 3, 2
STORE_BYTES = 100 << 20
MOST_JOINT = 12
"""With all SLMs asked, hindsight scores 2 N + 1 masks over N slots: beyond this a step takes minutes."""
SLM = SLMConfig(d_model=64, num_heads=4, num_layers=1, candidates=2)
BLM = BLMConfig(d_model=128, num_heads=4, num_layers=2, read_dim=64, read_heads=4, query_dim=64)


@dataclass(frozen=True)
class Case:
    """A system: N ``slms`` of which ``asked`` are asked (None: all)."""

    slms: int
    asked: int | None

    @property
    def model(self) -> ModelConfig:
        """Its sizes."""
        return ModelConfig(SLM, BLM, self.slms, self.asked)


class Counted:
    """``Peers`` that count messages, and the bytes of the frames of both ways."""

    def __init__(self, peers: Any) -> None:
        self.peers, self.names = peers, peers.names
        self.messages = self.bytes = 0

    def start(self, method: str, messages: Mapping[int, tuple[Any, ...]], patience: float = 1.0) -> Callable[[], Any]:
        """See ``Peers``."""
        from actors.rpc.codec import encode

        def size(value: Any) -> int:
            return sum(memoryview(frame).nbytes for frame in encode(value))

        self.messages += len(messages)
        self.bytes += sum(size(["", method, list(arguments)]) for arguments in messages.values())
        answers = self.peers.start(method, messages, patience)

        def wait() -> Any:
            found = answers()
            self.bytes += sum(size(["done", answer]) for answer in found.values())
            return found

        return wait


def world_of(slms: int) -> World:
    """``rules`` with a table for each SLM, of which three matter."""
    settings = {
        "difficulty": "hard", "num_tables": slms, "char_dim": slms + 16, "state_dim": 32, "horizon": 8, "hash_bits": 12,
    }  # fmt: skip
    return build_world("rules", settings, 0)


def phases_of(samples: int) -> PhasesConfig:
    """A joint phase, and nothing before it."""
    joint = JointConfig(steps=1000, sequences=-(-samples // 8), samples=samples, scored=0.25, warmup_steps=1, lr=1e-5)
    return PhasesConfig(joint=replace(joint, slm_lr=1e-5), rehearsal=0)


def trainer_of(case: Case, world: World, fleet: TrainableFleet, memory: Memory, samples: int) -> PhaseRunner:
    """A system ready to train; keys of the router are far apart, so that samples ask different SLMs."""
    trainer = phase_runner(case.model, phases_of(samples), world, fleet, memory, seed=0)
    with torch.no_grad():
        trainer.train_state.blm.router.key.normal_(generator=generator(0, "keys"))
        trainer.train_state.blm.router.key_scale.normal_(generator=generator(0, "scales"))
    return trainer


def teach_length(fleet: TrainableFleet, words: int) -> None:
    """Have all SLMs propose ranges of one record's length."""
    state = fleet.state()
    for name, tensor in state.items():
        if name.endswith("model.length.2.bias"):
            tensor[words - 1] = 30.0
    fleet.load_state(state)


@contextmanager
def nodes(count: int) -> Iterator[None]:
    """A Ray cluster of nodes that are processes of this machine; the head has no CPUs."""
    prepare_environment(None)
    # A node of a busy machine takes longer to start than Ray would wait for.
    os.environ.setdefault("RAY_raylet_start_wait_time_s", "180")
    import ray
    from ray.cluster_utils import Cluster

    head = {"num_cpus": 0, "include_dashboard": False, "object_store_memory": STORE_BYTES}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    try:
        for _ in range(count):
            cluster.add_node(num_cpus=1, object_store_memory=STORE_BYTES)
        ray.init(address=cluster.address, log_to_driver=False, logging_level=logging.ERROR)
        yield
    finally:
        ray.shutdown()
        cluster.shutdown()


def acts(trainer: PhaseRunner, batches: Sequence[int], joint: bool) -> dict[str, Callable[[], Any]]:
    """What is measured, by name."""
    learner, found = trainer.train_state, {}
    system = learner.system
    for batch in batches:
        drawn = learner.world.batch("test", -(-batch // 8), generator(0, "drawn", batch)).fold_time().at(0)
        query: Query = learner.query(drawn.map(lambda x, batch=batch: x[:batch]))
        found[f"predict {batch}"] = lambda query=query: system.predict(query)
    if joint:
        config, count = trainer.phases.joint, iter(range(10**9))
        found["joint"] = lambda: joint_step(learner, config, next(count))
    return found


def turns(ways: Mapping[Any, Callable[[], Any]], count: int) -> dict[Any, list[float]]:
    """Milliseconds of each, in turns; the first turn is not counted."""
    found: dict[Any, list[float]] = {key: [] for key in ways}
    for turn in range(count + 1):
        for key, act in ways.items():
            begin = time.perf_counter()
            act()
            if turn:
                found[key].append(1000 * (time.perf_counter() - begin))
    return found


def flops(case: Case, world: World, batches: Sequence[int], samples: int, joint: bool) -> dict[str, dict[str, int]]:
    """By act: of all, and of the BLM alone where it predicts."""
    memory = WordStore(world.spec.address_bits)
    world.populate(memory, "train")
    config = fleet_config(case.model, phases_of(samples), 0)
    fleet = SLMGroup(config, world)
    teach_length(fleet, world.spec.record_words)
    trainer, found = trainer_of(case, world, fleet, memory, samples), {}
    spent: list[int] = []
    plain = fleet.propose_pairs

    def propose(*given: Any, **named: Any) -> Any:
        with FlopCounterMode(display=False) as counter:
            answer = plain(*given, **named)
        spent.append(counter.get_total_flops())
        return answer

    fleet.propose_pairs = propose
    for name, act in acts(trainer, batches, joint).items():
        spent.clear()
        with FlopCounterMode(display=False) as counter:
            act()
        found[name] = {"all": counter.get_total_flops(), "slms_forward": sum(spent)}
    return found


def measure(slms: int, args: argparse.Namespace, num_nodes: int) -> list[dict[str, Any]]:
    """The points of one number of SLMs on nodes that are up."""
    from actors.training.system_actors import launch
    from cluster.placement.topology import spread

    world = world_of(slms)
    cases = [Case(slms, None)] + ([Case(slms, args.asked)] if args.asked < slms else [])
    config = fleet_config(cases[0].model, phases_of(args.samples), 0)
    handles = launch(config, world, NUM_SHARDS, spread(slms, NUM_ACTORS), 300.0)
    try:
        fleet, memory = handles.fleet(), handles.memory()
        teach_length(fleet, world.spec.record_words)
        world.populate(memory, "train")
        trainers = {case: trainer_of(case, world, handles.fleet(), memory, args.samples) for case in cases}
        ways = {}
        for case, trainer in trainers.items():
            joint = case.asked is not None or slms <= MOST_JOINT
            ways |= {(case, name): act for name, act in acts(trainer, args.batches, joint).items()}
        took = turns(ways, args.turns)
        counted = {}
        for (case, name), act in ways.items():
            own = trainers[case].train_state.fleet
            peers = Counted(own.slm_actors)  # pyright: ignore[reportAttributeAccessIssue]
            own.slm_actors = peers  # pyright: ignore[reportAttributeAccessIssue]
            act()
            own.slm_actors = peers.peers  # pyright: ignore[reportAttributeAccessIssue]
            counted[case, name] = (peers.messages, peers.bytes)
        peak = {process.name: process.peak_rss_bytes for process in handles.processes()}
    finally:
        handles.stop()
    slm_peak = max(size for name, size in peak.items() if name.startswith("SLM"))
    learners = {case: num_parameters(trainer.train_state.blm) for case, trainer in trainers.items()}
    points = []
    for (case, name), times in took.items():
        messages, sent = counted[case, name]
        points.append({
            "nodes": num_nodes, "slms": slms, "asked": case.asked or slms, "act": name.split()[0],
            "batch": args.samples if name == "joint" else int(name.split()[1]),
            "ms": statistics.median(times), "ms_least": min(times), "messages": messages, "bytes": sent,
            "slm_actor_peak_bytes": slm_peak, "blm_parameters": learners[case],
        })  # fmt: skip
    return points


def add_flops(points: list[dict[str, Any]], args: argparse.Namespace) -> None:
    """Count once for each case."""
    for case in sorted({(point["slms"], point["asked"]) for point in points}):
        slms, asked = case
        own = Case(slms, None if asked == slms else asked)
        found = flops(own, world_of(slms), args.batches, args.samples, own.asked is not None or slms <= MOST_JOINT)
        for point in points:
            if (point["slms"], point["asked"]) == case:
                name = "joint" if point["act"] == "joint" else f"predict {point['batch']}"
                point |= {"flops": found[name]["all"], "slm_flops": found[name]["slms_forward"]}


def table(points: Sequence[Mapping[str, Any]]) -> str:
    """A line a point."""
    lines = [f"{'act':<9}{'batch':>6}{'nodes':>6}{'SLMs':>6}{'asked':>6}{'ms':>10}{'least':>10}{'calls':>7}"
             f"{'KB':>10}{'MFLOP':>10}{'MB an actor':>13}"]  # fmt: skip
    for p in sorted(points, key=lambda p: (p["act"], p["batch"], p["nodes"], p["asked"] == p["slms"], p["slms"])):
        lines.append(
            f"{p['act']:<9}{p['batch']:>6}{p['nodes']:>6}{p['slms']:>6}{p['asked']:>6}{p['ms']:>10.1f}"
            f"{p['ms_least']:>10.1f}{p['messages']:>7}{p['bytes'] / 1e3:>10.1f}{p['flops'] / 1e6:>10.1f}"
            f"{p['slm_actor_peak_bytes'] / 1e6:>13.0f}"
        )
    return "\n".join(lines)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--slms", nargs="+", type=int, default=[3, 12, 48, 192])
    parser.add_argument("--nodes", nargs="+", type=int, default=[1, 3])
    parser.add_argument("--asked", type=int, default=3)
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 64])
    parser.add_argument("--samples", type=int, default=64, help="of a joint step")
    parser.add_argument("--turns", type=int, default=9)
    parser.add_argument("--out", type=Path, metavar="FILE", help="write all figures as JSON")
    args = parser.parse_args()
    torch.set_num_threads(1)
    points: list[dict[str, Any]] = []
    for count in args.nodes:
        with nodes(count):
            for slms in args.slms:
                begin = time.perf_counter()
                points += measure(slms, args, count)
                print(f"{count} nodes, {slms} SLMs: {time.perf_counter() - begin:.0f} s", file=sys.stderr, flush=True)
    add_flops(points, args)
    print(table(points))
    if args.out:
        machine = {"cores": os.cpu_count(), "system": platform.platform(), "torch": torch.__version__}
        content = {"machine": machine, "one_machine": True, "actors": NUM_ACTORS, "points": points}
        args.out.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
