"""Sums up the metrics of a cluster's processes, read from Ray's exporters through the head.

Ray drops a figure within seconds if it is not set again, so ended runs, actors and replicas are not listed.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from actors.training.step_timer import PARTS
from cluster.machines.cluster_file import ClusterFile
from cluster.machines.ssh import python_on
from leworld.training.phase_runner import PHASES

PREFIX = "ray_leworld_"
WAIT_S = 5.0
ASKED = ("propose", "learn")
"""Of the questions to SLM actors those that a step waits for."""
# Runs on the head, with nothing but Python there: the ports of the other nodes need not be open to us.
SCRIPT = f"""
import sys, urllib.request as web
from concurrent.futures import ThreadPoolExecutor
def lines(target):
    try: text = web.urlopen("http://" + target + "/metrics", timeout={WAIT_S}).read().decode()
    except OSError: return ["# silent " + target]
    return [line for line in text.splitlines() if line.startswith("{PREFIX}")]
with ThreadPoolExecutor(32) as pool:
    for found in pool.map(lines, sys.argv[1:]): print(*found, sep="\\n")
"""


@dataclass(frozen=True)
class RunFigures:
    """A run, in the phase it is in.

    Attributes:
        steps: done in this phase by the processes that live.
        step_ms: of one of them, on average.
        parts_ms: of that what each part takes; ``rest`` is the BLM.
        reads_per_s: ranges.
        restarts: times that it went on from a checkpoint.
        slm_use: of each SLM, the part of the last step's samples that trusted it.
    """

    run: str
    phase: str
    steps: int
    step_ms: float
    parts_ms: dict[str, float]
    reads_per_s: float
    read_bytes_per_s: float
    loss: float
    restarts: int
    slm_use: dict[str, float]


@dataclass(frozen=True)
class ActorFigures:
    """An SLM actor: its waiting calls, and the mean time of an answer in a step."""

    actor: str
    waiting: int
    answer_ms: float | None


@dataclass(frozen=True)
class MemoryFigures:
    """A memory.

    Attributes:
        copies: replicas of all its shards.
        reads: ranges asked for over the wire.
        writes: blocks written, counted for each replica.
        waiting_bytes: of all writes that wait for a replica's disk.
        behind: the most writes of a leader that one of its replicas lacks.
    """

    memory: str
    shards: int
    copies: int
    reads: int
    writes: int
    waiting_bytes: int
    behind: int


def figures(file: ClusterFile, head: str, targets: Sequence[str]) -> dict[str, Any]:
    """Ask the nodes' exporters.

    Args:
        file: of the cluster.
        head: where it is reached from here.
        targets: of each node the address and the port of its exporter.

    Returns:
        runs, slm_actors, memories; silent: targets that did not answer.

    Raises:
        ActorError: the head cannot be reached.
    """
    lines = python_on(file, head, SCRIPT, targets).out.splitlines()
    silent = [line.rpartition(" ")[2] for line in lines if line.startswith("# silent ")]
    # The shell's own start may print too.
    return {**summed_up([line for line in lines if line.startswith(PREFIX)]), "silent": silent}


def summed_up(lines: Iterable[str]) -> dict[str, Any]:
    """What lines of Prometheus' text format say: runs, slm_actors and memories, as data."""
    told = Told(lines)
    runs = {sample.labels["run"] for sample in told.of("loss")}
    memories = {sample.labels["memory"] for sample in told.of("memory_sequence")}
    actors = {sample.labels["actor"] for sample in told.of("queue_depth")}
    return {
        "runs": [asdict(_run(told, name)) for name in sorted(runs)],
        "slm_actors": [asdict(_actor(told, name)) for name in sorted(actors)],
        "memories": [asdict(_memory(told, name)) for name in sorted(memories)],
    }


class Told:
    """Samples by name, without ``PREFIX``."""

    def __init__(self, lines: Iterable[str]) -> None:
        self._samples: dict[str, list[Sample]] = defaultdict(list)
        for family in text_string_to_metric_families("\n".join(lines) + "\n"):
            for sample in family.samples:
                self._samples[sample.name.removeprefix(PREFIX)].append(sample)

    def of(self, name: str, **labels: str) -> list[Sample]:
        """Samples that have these labels, among others."""
        return [sample for sample in self._samples[name] if labels.items() <= sample.labels.items()]

    def sum(self, name: str, **labels: str) -> float:
        """Their sum."""
        return sum(sample.value for sample in self.of(name, **labels))


def _run(told: Told, run: str) -> RunFigures:
    losses = {sample.labels["phase"]: sample.value for sample in told.of("loss", run=run)}
    phase = max(losses, key=PHASES.index)
    where = {"run": run, "phase": phase}
    steps = told.sum("steps_total", **where)
    seconds: dict[str, float] = defaultdict(float)
    for sample in told.of("step_seconds_total", **where):
        seconds[sample.labels["part"]] += sample.value
    total = sum(seconds.values())
    used = {sample.labels["slm"]: round(sample.value, 4) for sample in told.of("slm_use_ratio", run=run)}
    return RunFigures(
        run,
        phase,
        int(steps),
        _ratio(1e3 * total, steps),
        {part: _ratio(1e3 * seconds[part], steps) for part in (*PARTS, "rest") if part in seconds},
        _ratio(told.sum("reads_total", **where), total),
        _ratio(told.sum("read_bytes_total", **where), total),
        losses[phase],
        int(told.sum("restarts_total", run=run)),
        dict(sorted(used.items(), key=lambda item: int(item[0]))),
    )


def _actor(told: Told, actor: str) -> ActorFigures:
    answers = sum(told.sum("answers_total", actor=actor, method=method) for method in ASKED)
    seconds = sum(told.sum("answer_seconds_total", actor=actor, method=method) for method in ASKED)
    waiting = max(sample.value for sample in told.of("queue_depth", actor=actor))
    return ActorFigures(actor, int(waiting), _ratio(1e3 * seconds, answers) if answers else None)


def _memory(told: Told, memory: str) -> MemoryFigures:
    sequences: dict[str, list[float]] = defaultdict(list)
    for sample in told.of("memory_sequence", memory=memory):
        sequences[sample.labels["shard"]].append(sample.value)
    return MemoryFigures(
        memory,
        len(sequences),
        sum(map(len, sequences.values())),
        int(told.sum("memory_reads_total", memory=memory)),
        int(told.sum("memory_writes_total", memory=memory)),
        int(told.sum("memory_waiting_bytes", memory=memory)),
        int(max(max(values) - min(values) for values in sequences.values())),
    )


def _ratio(value: float, by: float) -> float:
    return round(value / by, 3) if by else 0.0
