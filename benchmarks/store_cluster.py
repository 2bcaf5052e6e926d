"""A memory on a Ray cluster of several nodes, while nodes are lost, leaders killed and words moved: is all of it right?

python benchmarks/store_cluster.py --seconds 600 --out cluster.json
python benchmarks/store_cluster.py --seconds 60 --faults 4 --seed 3
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from linearizability.checker import NEVER, check
from linearizability.records import DONE, UNKNOWN, history_of, load
from memory_cluster import clients
from memory_cluster.nodes import FAULTS, Nodes, root_of

NAME = "notes"
CALM_S = 2.0
SPEED_S = 8.0
HISTORIES = 3
PART = 512
"""Pages written and read at once."""
MOVES = (3, 5, 2, 4)
"""Numbers of shards, one after another, in faults that befall a move."""


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=120.0, help="in which faults are injected")
    parser.add_argument("--faults", type=int, default=1 << 30, help="at most so many")
    parser.add_argument("--nodes", type=int, default=4, help="beside the head; 3 at least")
    parser.add_argument("--rate", type=float, default=60.0, help="operations a second of each of 3 clients")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--dir", type=Path, help="for what is written; default: a temporary directory")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write all figures as JSON, too")
    return parser.parse_args(arguments)


@dataclass
class Run:
    """One run: the cluster, its clients, and what was seen."""

    args: argparse.Namespace
    root: Path
    nodes: Nodes
    faults: list[dict[str, Any]] = field(default_factory=list)
    moves: list[dict[str, Any]] = field(default_factory=list)
    windows: dict[str, tuple[int, int]] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)

    def play(self) -> dict[str, Any]:
        """All of it; the figures."""
        (self.root / "histories").mkdir()
        shared = clients.shared_numbers(self.root / "shared")
        address = self.nodes.begin()
        processes = []
        try:
            processes = self._start_clients(address)
            self._launch()
            (self.root / "go").touch()
            self._measure(shared)
            self._inject()
            shared[clients.STOP] = 1
            self.wrong += clients.wait_for(processes, self.root, 150.0)
            return self._figures()
        finally:
            for process in processes:
                process.kill()
            self.nodes.end()

    def _start_clients(self, address: str) -> list[Any]:
        """They are there before the nodes, so that none of these is theirs."""
        spawn, args = multiprocessing.get_context("spawn"), self.args
        roles = ["probe", *(["history"] * HISTORIES)]
        processes = [
            spawn.Process(
                target=clients.run, args=(role, number, self.root, address, NAME, args.rate, args.seed), daemon=True
            )
            for number, role in enumerate(roles)
        ]
        for process in processes:
            process.start()
        while len(list(self.root.glob("*.here"))) < len(processes):
            time.sleep(0.1)
        for _ in range(args.nodes):
            self.nodes.add()
        return processes

    def _launch(self) -> None:
        from actors.memory_cluster.cluster_memory import ClusterMemory, MemoryConfig

        config = MemoryConfig(NAME, root_of(self.root / "disks"), clients.BITS, 2, self.nodes.copies, lease_s=1.0)
        memory = ClusterMemory.launch(config)
        store = memory.client()
        pages = clients.filled_pages()
        for part in np.split(pages, range(PART, len(pages), PART)):
            store.write(part * 256, clients.words_of(part))
        store.close()

    def _measure(self, shared: np.ndarray) -> None:
        """How fast it is before, while and after words move from 2 shards to 5."""
        time.sleep(CALM_S)
        shared[clients.FULL_SPEED] = 1
        self._window("before", lambda: time.sleep(SPEED_S))
        self._window("during", lambda: self._move(5))
        self._window("after", lambda: time.sleep(SPEED_S))
        shared[clients.FULL_SPEED] = 0

    def _window(self, name: str, act: Any) -> None:
        begin = time.monotonic_ns()
        act()
        self.windows[name] = begin, time.monotonic_ns()

    def _move(self, shards: int) -> None:
        """Have the words on so many shards, and count what moved beside what had to."""
        from actors.memory.shard_map import load_map
        from actors.memory_cluster.cluster_memory import ClusterMemory

        memory = ClusterMemory(NAME)
        before, pages = load_map(memory.coordinator), [self._written()]
        begin = time.monotonic()
        moved = memory.reshard(shards)
        seconds, after = round(time.monotonic() - begin, 1), load_map(memory.coordinator)
        # Clients write pages for the first time meanwhile.
        pages.append(self._written())
        stripes = [each * 256 // before.stripe_words for each in pages]
        had_to = [int((before.owners(each) != after.owners(each)).sum()) for each in stripes]
        self.moves.append({
            "from": len(before.shards), "to": shards, "pages": moved.pages, "had_to": had_to, "seconds": seconds,
        })  # fmt: skip

    def _written(self) -> np.ndarray:
        from actors.memory_cluster.cluster_memory import ClusterMemory

        store = ClusterMemory(NAME).client(60.0)
        try:
            return store.written_pages()
        finally:
            store.close()

    def _inject(self) -> None:
        end, number = time.monotonic() + self.args.seconds, 0
        kinds = [*FAULTS, "leader killed in a move", "mover killed"]
        order = [kind for _ in range(1000) for kind in self.nodes.random.permutation(kinds).tolist()]
        while time.monotonic() < end and number < self.args.faults:
            kind, begin = order[number], time.monotonic_ns()
            number += 1
            acted = time.monotonic()
            if kind in FAULTS:
                FAULTS[kind](self.nodes)
            else:
                self._disturbed_move(kind, MOVES[sum(move.get("kind") is not None for move in self.moves) % len(MOVES)])
            acted = time.monotonic() - acted
            try:
                seconds = self.nodes.wait_until_in_sync()
            except TimeoutError as error:
                self.wrong.append(f"{kind}: {error}")
                return
            row = {"kind": kind, "begin": begin, "end": time.monotonic_ns(), "in_sync_s": round(acted + seconds, 2)}
            self.faults.append(row)
            print(f"{number}. {kind}: in sync after {row['in_sync_s']} s", file=sys.stderr, flush=True)
            time.sleep(CALM_S)

    def _disturbed_move(self, kind: str, shards: int) -> None:
        """Have words move, and kill a leader meanwhile, or whoever moves them; the next one ends it."""
        # The command that does this by itself, so that it can be killed.
        command = [sys.executable, "-m", "cluster", "memory", "reshard", NAME, str(shards), "--address", self._address]
        began = time.monotonic()
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        self._wait_until_moving(process)
        time.sleep(float(self.nodes.random.uniform(0, 0.5)))
        if kind == "mover killed":
            process.send_signal(signal.SIGKILL if self.nodes.random.random() < 0.5 else signal.SIGINT)
        else:
            self.nodes.kill(self.nodes.leader()[0])
        said = process.communicate(timeout=300)[0]
        if process.returncode:
            again = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
            said += again.stdout + again.stderr
            if again.returncode:
                self.wrong.append(f"{kind}: {said}"[:1000])
        seconds = round(time.monotonic() - began, 1)
        self.moves.append({"to": shards, "kind": kind, "seconds": seconds, "code": process.returncode, "said": said})

    def _wait_until_moving(self, process: subprocess.Popen[str]) -> None:
        from actors.memory.shard_map import load_map
        from actors.memory_cluster.ray_coordinator import RayCoordinator
        from leworld.errors import LeWorldError

        directory = RayCoordinator(NAME)
        while process.poll() is None:
            # A busy head may not answer in time.
            with suppress(LeWorldError):
                if load_map(directory).is_moving:
                    return
            time.sleep(0.02)

    @property
    def _address(self) -> str:
        import ray

        return ray.get_runtime_context().gcs_address

    def _figures(self) -> dict[str, Any]:
        lost = self._lost_words()
        rows = load(self.root / "histories")
        history, _ = history_of(rows)
        found = check(history)
        told = self._told()
        probed = np.memmap(self.root / "probe.rows", np.int64, "r", shape=(clients.PROBES, 3))[: told["count"]]
        things = [json.loads(path.read_text()) for path in self.root.glob("*.things")]
        self.wrong += [f"key {each.key}: {each.reason}" for each in found] + told["wrong"]
        spans = np.concatenate([rows[rows[:, 3] == DONE][:, 5:7], probed[:, :2]])
        return {
            "seed": self.args.seed,
            "operations": len(history.key) + len(probed),
            "reads": int((~history.write).sum()) + int((probed[:, 2] == 0).sum()),
            "writes": int(history.write.sum()) + int((probed[:, 2] == 1).sum()),
            "unknown": int((rows[:, 3] == UNKNOWN).sum()) + int((history.end == NEVER).sum()),
            "wrong_answers": len(self.wrong), "wrong": self.wrong[:20], "lost_words": lost,
            "faults": [_waited(fault, spans) for fault in self.faults],
            "moves": self.moves, "speed": {name: _speed(probed, *span) for name, span in self.windows.items()},
            "things": things, "errors": _errors(self.root / "histories"), "failed": told["failed"],
        }  # fmt: skip

    def _told(self) -> dict[str, Any]:
        """What the client that measures says at its end."""
        path = self.root / "probe.json"
        return json.loads(path.read_text()) if path.exists() else {"count": 0, "wrong": [], "failed": []}

    def _lost_words(self) -> int:
        """Words that were acknowledged at first, or to the one that measured, and are not there now."""
        from actors.memory_cluster.cluster_memory import ClusterMemory

        store, lost = ClusterMemory(NAME).client(60.0), 0
        pages = clients.filled_pages()
        for part in np.split(pages, range(PART, len(pages), PART)):
            found = store.read(part * 256, np.full(len(part), 256)).words.reshape(-1, 256)
            lost += int((found != clients.words_of(part)).sum())
        path = self.root / "probe-held.npy"
        own, held = np.load(path) if path.exists() else np.zeros((2, 0), np.int64)
        own, held = own[held > 0], held[held > 0]
        found = store.read(own * 256, np.full(len(own), 256)).words.reshape(-1, 256)
        expected = np.array([clients.block(int(value), 256) for value in held]).reshape(-1, 256)
        store.close()
        return lost + int((found != expected).sum())


def _waited(fault: dict[str, Any], spans: np.ndarray) -> dict[str, Any]:
    """A fault, with the longest that an operation took meanwhile."""
    during = (spans[:, 1] > fault["begin"]) & (spans[:, 0] < fault["end"])
    longest = (spans[during, 1] - spans[during, 0]).max(initial=0) / 1e9
    return {"kind": fault["kind"], "in_sync_s": fault["in_sync_s"], "longest_s": round(float(longest), 2)}


def _speed(probed: np.ndarray, begin: int, end: int) -> dict[str, float]:
    """Operations a second, and milliseconds of each kind, of the one that measures."""
    rows = probed[(probed[:, 0] >= begin) & (probed[:, 1] <= end)]
    took = (rows[:, 1] - rows[:, 0]) / 1e6
    found = {"seconds": round((end - begin) / 1e9, 1), "operations_s": round(len(rows) / ((end - begin) / 1e9), 1)}
    for kind, name in enumerate(("read", "write")):
        times = took[rows[:, 2] == kind]
        for q in (50, 99):
            found[f"{name}_p{q}_ms"] = round(float(np.percentile(times, q)), 2) if len(times) else float("nan")
    return found


def _errors(histories: Path) -> dict[str, int]:
    from linearizability.clients import errors_of

    return dict(errors_of(histories).most_common())


def table(figures: dict[str, Any]) -> str:
    """As Markdown."""
    lines = [
        f"{figures['operations']:,} operations ({figures['reads']:,} reads, {figures['writes']:,} writes),"
        f" {len(figures['faults'])} faults: {figures['wrong_answers']} wrong, {figures['lost_words']} words lost", "",
        "| fault | times | longest wait, s: median / most | in sync again, s: median / most |", "|---|---:|---:|---:|",
    ]  # fmt: skip
    for kind in dict.fromkeys(fault["kind"] for fault in figures["faults"]):
        of_kind = [fault for fault in figures["faults"] if fault["kind"] == kind]
        cells = [
            f"{np.median([fault[name] for fault in of_kind]):.1f} / {max(fault[name] for fault in of_kind):.1f}"
            for name in ("longest_s", "in_sync_s")
        ]
        lines.append(f"| {kind} | {len(of_kind)} | {cells[0]} | {cells[1]} |")
    lines += ["", "| words | operations a second | read p50 / p99, ms | write p50 / p99, ms | seconds |",
              "|---|---:|---:|---:|---:|"]  # fmt: skip
    for name, each in figures["speed"].items():
        times = [f"{each[f'{kind}_p50_ms']} / {each[f'{kind}_p99_ms']}" for kind in ("read", "write")]
        lines.append(f"| {name} 2 -> 5 | {each['operations_s']} | {times[0]} | {times[1]} | {each['seconds']} |")
    for move in figures["moves"]:
        if "had_to" in move:
            had_to = " to ".join(f"{count:,}" for count in move["had_to"])
            lines.append(f"\n{move['from']} -> {move['to']}: {move['pages']:,} pages moved; {had_to} had to")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Play; 1 where an answer was wrong, a word lost, or copies did not come back."""
    args = parse(arguments)
    sys.path.insert(0, str(Path(__file__).parents[1]))
    os.environ["PYTHONPATH"] = os.pathsep.join([*sys.path[:2], os.environ.get("PYTHONPATH", "")])
    root = Path(tempfile.mkdtemp(dir=args.dir, prefix="store-cluster-"))
    run = Run(args, root, Nodes(NAME, 2, np.random.default_rng(args.seed)))
    try:
        figures = run.play()
    finally:
        shutil.rmtree(root, ignore_errors=True)
    print(table(figures))
    for problem in figures["wrong"]:
        print(f"wrong: {problem}")
    if args.out is not None:
        args.out.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    return int(bool(figures["wrong"] or figures["lost_words"]))


if __name__ == "__main__":
    sys.exit(main())
