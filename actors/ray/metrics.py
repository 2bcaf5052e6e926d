"""Metrics of a cluster's processes for Prometheus, by Ray's own exporter: ``ray_leworld_...``, with units.

Source: https://docs.ray.io/en/latest/ray-observability/user-guides/add-app-metrics.html
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

from ray.util.metrics import Counter, Gauge

COUNTERS = {
    "leworld_steps_total": "Steps done.",
    "leworld_step_seconds_total": "Seconds of steps, by part: propose, read and learn are waited for, rest is the BLM.",
    "leworld_reads_total": "Ranges that the learner read.",
    "leworld_read_bytes_total": "Bytes of words that the learner read.",
    "leworld_restarts_total": "Times that a run went on from a checkpoint after something died.",
    "leworld_answers_total": "Calls that an SLM actor answered, by method.",
    "leworld_answer_seconds_total": "Seconds that answering them took.",
    "leworld_memory_reads_total": "Ranges that a copy of a shard was asked for over the wire.",
    "leworld_memory_writes_total": "Blocks that a copy of a shard wrote.",
}
GAUGES = {
    "leworld_loss": "Loss of the last step.",
    "leworld_slm_use_ratio": "Part of the last step's samples that trusted an SLM.",
    "leworld_queue_depth": "Calls that wait for an SLM actor.",
    "leworld_memory_waiting_bytes": "Bytes of writes that wait for a copy's disk.",
    "leworld_memory_sequence": "Number of the last write that a copy has; less than its leader's is stale.",
    "leworld_memory_leads": "1 where a copy leads its shard.",
}


def add(name: str, amount: float, **tags: str) -> None:
    """Add to a counter."""
    if amount > 0:
        _counter(name, tuple(tags)).inc(amount, tags=tags)


def show(name: str, value: float, **tags: str) -> None:
    """Set a gauge."""
    _gauge(name, tuple(tags)).set(value, tags=tags)


class Totals:
    """Counters that grow by the increase of totals since the last call."""

    def __init__(self) -> None:
        self._before: dict[str, float] = {}

    def feed(self, name: str, total: float, **tags: str) -> None:
        """Raise a counter to a total; a total that fell began again at 0."""
        before = self._before.get(name, 0.0)
        self._before[name] = total
        add(name, total - before if total >= before else total, **tags)


def export_step(record: Mapping[str, Any], run: str) -> None:
    """Export a step's line of ``metrics.jsonl``."""
    phase, meter = record["phase"], record.get("meter", {})
    add("leworld_steps_total", 1, run=run, phase=phase)
    waited = {name.removesuffix("_s"): value for name, value in meter.items() if name.endswith("_s")}
    for part, seconds in {**waited, "rest": record["seconds"] - sum(waited.values())}.items():
        add("leworld_step_seconds_total", seconds, run=run, phase=phase, part=part)
    add("leworld_reads_total", meter.get("reads", 0), run=run, phase=phase)
    add("leworld_read_bytes_total", meter.get("read_bytes", 0), run=run, phase=phase)
    if "loss" in record:
        show("leworld_loss", record["loss"], run=run, phase=phase)
    for name, value in record.items():
        if name.startswith("use_"):
            show("leworld_slm_use_ratio", value, run=run, slm=name.removeprefix("use_"))


def export_copy(totals: Totals, stat: Mapping[str, Any], sequence: int, leads: bool, **who: str) -> None:
    """Export the statistics of a replica's server."""
    totals.feed("leworld_memory_reads_total", stat["reads"], **who)
    totals.feed("leworld_memory_writes_total", stat["writes"], **who)
    show("leworld_memory_waiting_bytes", stat["waiting_bytes"], **who)
    show("leworld_memory_sequence", sequence, **who)
    show("leworld_memory_leads", float(leads), **who)


def answer_observer(actor: str) -> Callable[[str, float, int], None]:
    """For ``MethodServer``: exports each call's method and time, and the number of calls that wait."""

    def observe(method: str, seconds: float, waiting: int) -> None:
        add("leworld_answers_total", 1, actor=actor, method=method)
        add("leworld_answer_seconds_total", seconds, actor=actor, method=method)
        show("leworld_queue_depth", waiting, actor=actor)

    return observe


@cache
def _counter(name: str, tags: tuple[str, ...]) -> Counter:
    return Counter(name, COUNTERS[name], tag_keys=tags)


@cache
def _gauge(name: str, tags: tuple[str, ...]) -> Gauge:
    return Gauge(name, GAUGES[name], tag_keys=tags)
