"""Evaluation: a checkpoint's system through the gate, and the report on it."""

from __future__ import annotations

import time
from pathlib import Path

from rich.console import Console

from cluster.json_files import write_json
from cluster.run.checkpoint import load_checkpoint
from cluster.run.progress import make_bars
from cluster.run.report import write_report
from cluster.run.run_dir import RunDir
from cluster.run.runtimes import Runtime, make_learner
from leworld.evaluation.gate import Gate, GateRun


def evaluate(runtime: Runtime, run: RunDir, checkpoint: Path, console: Console) -> Gate:
    """Evaluate a checkpoint and write ``gate.json``, pictures and ``report.html``.

    Args:
        runtime: whose SLMs and memory take the checkpoint's state.
        run: where the results go.
        checkpoint: what to evaluate.
        console: for progress.

    Raises:
        CheckpointError: the checkpoint cannot be used.
    """
    learner = make_learner(runtime)
    learner.load_state(load_checkpoint(checkpoint, runtime.config))
    # Held-out worlds are written, never trained on.
    runtime.world.populate(learner.runner.train_state.memory, "test")
    gate_run = GateRun(runtime.world, learner.system, runtime.config.evaluation, runtime.config.seed)
    start = time.perf_counter()
    gate = run_gate(gate_run, console)
    write_json(run.gate, gate)
    write_json(run.timing, {**run.read_timing(), "evaluate_s": round(time.perf_counter() - start, 3)})
    write_report(run, runtime.config, gate)
    return gate


def run_gate(gate_run: GateRun, console: Console) -> Gate:
    """Run the gate with a bar."""
    with make_bars(console) as bars:
        task = bars.add_task("evaluate", total=None, figures="")
        for stage in gate_run.stages():
            bars.update(task, completed=stage.done, total=stage.total, figures=stage.name)
    return gate_run.result
