"""The picture of the README: error on new pendulums against the records written of each.

    python benchmarks/readme_picture.py                           # draw docs/records.png from docs/records.json
    python benchmarks/readme_picture.py --rivals 0,1,2            # train the rivals of these seeds first
    python benchmarks/readme_picture.py --runs runs/pendulum-*    # measure LeWorld in these runs first

``docs/records.json`` keeps, by curve, ``values`` (seed to one error a number of records) and ``intervals`` over seeds.
Of LeWorld's first measurement only the intervals were kept. A GRU without any record is the plain GRU.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from matplotlib.figure import Figure

from cluster.config.presets import load_config
from cluster.config.run_config import RunConfig
from leworld.evaluation.baselines import evaluate, train_baselines
from leworld.evaluation.drawing import FLOOR, LEWORLD, TEXT, plain, save
from leworld.evaluation.metrics import positive
from leworld.evaluation.record_curves import FewerRecords, draw_intervals, log_records
from leworld.evaluation.seeds import mean_interval
from leworld.rng import generator
from leworld.types import Batch
from leworld.worlds.registry import build_world
from leworld.worlds.trajectories import TrajectoryWorld

FIGURES = Path(__file__).parents[1] / "docs" / "records.json"
RECORDS = (0, 4, 16, 33)
FEWEST_SEEDS = 3
"""Fewer seeds have no interval here: by Student's t that of two is 3.6 times as wide as that of three."""
LABELS = {
    "gru_context": ("GRU, given the same records", "#c8553d", (33, 72)),
    "oracle": ("MLP, told mass, length and gravity", FLOOR, (0, -14)),
    "leworld": ("LeWorld", LEWORLD, (4, 26)),
}
"""Curve to its name, its colour, and where the name stands: at so many records, so many points above the curve."""

Values = dict[str, list[float]]
"""Curve to one error for each of ``RECORDS``."""


def body_world(config: RunConfig) -> tuple[TrajectoryWorld, Batch]:
    """The world of a config, and the test sequences of its gate."""
    world = build_world(config.world.name, config.world.settings, config.seed)
    assert isinstance(world, TrajectoryWorld), config.world.name
    return world, world.batch("test", config.evaluation.sequences, generator(config.seed, "gate"))


def rivals_of(seed: int) -> Values:
    """Errors of the GRU with each number of records, and of the MLP that is told the physics."""
    config = load_config("pendulum", [f"seed={seed}"])
    world, batch = body_world(config)
    budget = config.evaluation.budget(seed)

    def error(records: int, name: str) -> float:
        predictor = train_baselines(FewerRecords(world, records), budget, [name])[name]
        return float(evaluate(predictor, [batch], world.spec.scale).double().mean())

    told = error(RECORDS[-1], "oracle")
    return {
        "gru_context": [error(records, "gru_context" if records else "gru") for records in RECORDS],
        "oracle": [told] * len(RECORDS),
    }


def leworld_of(run: Path) -> tuple[int, Values]:
    """The seed of a run of ``pendulum``, and LeWorld's errors with each number of records."""
    from rich.console import Console

    from cluster.run.checkpoint import load_checkpoint
    from cluster.run.commands import checkpoint_of, started
    from cluster.run.run_dir import RunDir
    from cluster.run.runtimes import make_learner
    from leworld.evaluation.record_curves import measure_curve

    opened = RunDir.open(run)
    config = opened.config()
    with started(config, Console(stderr=True)) as runtime:
        learner = make_learner(runtime)
        learner.load_state(load_checkpoint(checkpoint_of(opened, None), config))
        world, batch = body_world(config)
        curve = measure_curve(world, learner.system, batch, records=list(RECORDS))
    return config.seed, {"leworld": [each["mean"] for each in curve["leworld"]]}


def add_values(figures: dict[str, Any], seed: int, found: Values) -> None:
    """Keep a seed's errors, and take the intervals over seeds again."""
    for name, errors in found.items():
        curve = figures["curves"].setdefault(name, {})
        values = curve.setdefault("values", {})
        values[str(seed)] = errors
        curve["seeds"] = sorted(map(int, values))
        columns = list(zip(*values.values(), strict=True))
        if len(values) >= FEWEST_SEEDS:
            curve["intervals"] = [positive(mean_interval(column)).to_dict() for column in columns]
        else:
            curve["intervals"] = [dict.fromkeys(("mean", "low", "high"), fmean(column)) for column in columns]


def draw(figures: dict[str, Any], path: Path) -> None:
    """Draw the curves with their intervals and names, both axes log."""
    figure = Figure(figsize=(6.4, 4.6), layout="constrained")
    axes = figure.add_subplot()
    curves = {name: figures["curves"][name] for name in LABELS if name in figures["curves"]}
    for name, curve in curves.items():
        label, colour, (records, above) = LABELS[name]
        draw_intervals(axes, figures["records"], curve["intervals"], label, colour)
        for errors in curve.get("values", {}).values():
            axes.plot(figures["records"], errors, ".", color=colour, alpha=0.5, markersize=5)
        place = records, curve["intervals"][figures["records"].index(records)]["mean"]
        side = "right" if records == RECORDS[-1] else "left"
        text = axes.annotate(label, place, (0, above), textcoords="offset points", ha=side, color=colour, fontsize=13)
        text.set(fontweight="bold", in_layout=False)
    log_records(axes, figures["records"])
    axes.set_xlabel("records of the new body written to memory", fontsize=12)
    axes.set_ylabel("mean squared error / variance of a step", fontsize=12)
    axes.set_title("Pendulums never trained on", loc="left", color=TEXT, fontweight="bold", fontsize=14)
    plain(axes)
    axes.tick_params(labelsize=12)
    seeds = "; ".join(f"{LABELS[name][0].split(',')[0]} {len(curve['seeds'])}" for name, curve in curves.items())
    figure.supxlabel(f"Seeds: {seeds}. Small dots: single seeds. Band: 95 % over seeds.", fontsize=10, color=TEXT)
    save(figure, path)


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """The options of the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--figures", type=Path, default=FIGURES, help="kept here; the picture goes beside it")
    parser.add_argument("--rivals", default="", metavar="SEEDS", help="train the rivals of these seeds, such as 0,1")
    parser.add_argument("--runs", type=Path, nargs="*", default=[], help="runs of pendulum, one a seed")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure what was asked for, keep it, and draw."""
    args = parse_args(argv)
    empty = {"world": "pendulum", "unit": "variance of a step", "records": list(RECORDS), "curves": {}}
    figures = json.loads(args.figures.read_text(encoding="utf-8")) if args.figures.is_file() else empty
    found = [(int(seed), rivals_of(int(seed))) for seed in args.rivals.split(",") if seed]
    for seed, values in [*found, *map(leworld_of, args.runs)]:
        add_values(figures, seed, values)
    args.figures.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    draw(figures, args.figures.with_suffix(".png"))


if __name__ == "__main__":
    main()
