"""``leworld bench capacity``: SLMs trained alike for memories of several widths, then measured side by side."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from rich.console import Console

from cluster.config.run_config import RunConfig
from cluster.run.progress import make_bars
from leworld.evaluation.capacity import Width, measure_capacity
from leworld.memory import WordStore
from leworld.training.phase_runner import CHUNK_STEPS, fleet_config
from leworld.training.slm_training import SLMGroup
from leworld.worlds.registry import build_world

WIDTHS = (16, 24, 32)
SAMPLES = 8192
BATCH = 256
REPEATS = 200


def run_capacity(config: RunConfig, console: Console) -> dict[str, Any]:
    """Train only SLMs, at each width as many steps, and measure; see ``measure_capacity``.

    Args:
        config: of a world whose ``address_bits`` can be set; the pre-training of its SLMs is what is done.
        console: for progress.
    """
    torch.set_num_threads(config.cluster.threads)
    steps = config.phases.pretrain.slm_steps
    with make_bars(console) as bars:
        task = bars.add_task("capacity", total=len(WIDTHS) * steps, figures="")
        widths = []
        for bits in WIDTHS:
            width = make_width(config, bits)
            for done in trained(width, steps):
                bars.update(task, advance=done, figures=f"2^{bits} words")
            widths.append(width)
        bars.update(task, figures="lookups")
        return measure_capacity(widths, config.seed, samples=SAMPLES, batch=BATCH, repeats=REPEATS)


def make_width(config: RunConfig, address_bits: int) -> Width:
    """The config's world in a memory of this width, with new SLMs; what the test split needs is written."""
    settings = {**config.world.settings, "address_bits": address_bits}
    config = replace(config, world=replace(config.world, settings=settings))
    world = build_world(config.world.name, settings, config.seed)
    memory = WordStore(address_bits)
    for split in ("train", "test"):
        world.populate(memory, split)
    fleet = SLMGroup(fleet_config(config.model, config.phases, config.seed), world)
    return Width(world, fleet, memory, config.model.blm.query_dim)


def trained(width: Width, steps: int) -> Iterator[int]:
    """Pre-train the SLMs; the steps done, chunk by chunk."""
    for start in range(0, steps, CHUNK_STEPS):
        chunk = min(CHUNK_STEPS, steps - start)
        width.fleet.pretrain(start, chunk)()
        yield chunk
