"""``cluster.placement.cost_model`` fitted to the points of ``slm_curve.py``, and what it says of larger clusters.

Of each point the least of its turns counts, as other work on the machine only adds. It prints the constants, the error
on points that were left out (all of one number of SLMs at a time), and what takes most of a prediction, of a joint step
and of a node's memory as everything grows; and draws it.

    python benchmarks/slm_model.py slm_curve.json --picture docs/scaling.png
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cluster.placement.cost_model import Constants, Place, Sizes, counts, fit, largest, node_bytes, seconds
from leworld.evaluation.drawing import BASELINE, CURVES, LEWORLD, TEXT, plain, save

Points = Sequence[Mapping[str, Any]]
PATH = ((1, 3, 2**16), (1, 10, 1e6), (10, 100, 1e8), (100, 1000, 1e10), (1000, 10_000, 1e12))
"""Nodes, SLMs and words that grow together."""
NAMES = {
    "fixed": "the step itself", "call": "calls", "wire": "bytes sent", "slm": "SLM FLOPs", "blm": "BLM FLOPs",
    "key": "the router's keys", "read": "reads", "slm_step": "SLM optimisers", "blm_step": "BLM optimiser",
}  # fmt: skip
STATE, REQUEST, CHARACTERISTICS = 32, 64, 64
CALL_S = 0.27e-3
"""Of a message to an actor that does not think, by ``round_trip.py``: here it could not be told from the rest."""
PAIR_BYTES = 4 * 64 + 2 * 21 + 4
"""Of an answer: hidden, and of two candidates start, length, clipped and log-probability; confidence."""


def sizes_of(points: Points) -> Sizes:
    """Counted FLOPs and parameters as sizes, each a straight line."""
    ahead = [p for p in points if p["act"] == "predict" and p["asked"] == p["slms"] <= 12]
    joint = [p for p in points if p["act"] == "joint" and p["asked"] == 3]
    slot, blm = np.polyfit([p["asked"] for p in ahead], [(p["flops"] - p["slm_flops"]) / p["batch"] for p in ahead], 1)
    own, shared = np.polyfit([p["slms"] for p in points], [p["blm_parameters"] for p in points], 1)
    return Sizes(
        slm_flops=float(np.mean([p["slm_flops"] / p["batch"] / p["asked"] for p in ahead])),
        slm_parameters=112_000,
        blm_flops=float(blm),
        slot_flops=float(slot),
        joint_flops=float(np.mean([(p["flops"] - 3 * p["slm_flops"]) / p["batch"] for p in joint])),
        blm_parameters=float(shared),
        own_parameters=float(own),
        row_bytes=row_bytes(CHARACTERISTICS),
        pair_bytes=PAIR_BYTES,
    )


def row_bytes(characteristics: int) -> int:
    """Of a sample that is sent."""
    return 4 * (2 * STATE + characteristics + REQUEST)


def place_of(point: Mapping[str, Any]) -> Place:
    """Where a point was measured: two cores of one machine, however many nodes it played."""
    return Place(point["slms"], point["asked"], point["batch"], actors=3, parallel=2, nodes=point["nodes"])


def count_of(point: Mapping[str, Any], sizes: Sizes) -> dict[str, float]:
    """Counts at a point; its characteristics have a flag for each SLM."""
    own = replace(sizes, row_bytes=row_bytes(point["slms"] + 16))
    return counts(place_of(point), own, joint=point["act"] == "joint")


def usable(points: Points, act: str) -> list[Mapping[str, Any]]:
    """The points that the model is of."""
    return [p for p in points if p["act"] == act and (act == "predict" or p["asked"] == 3)]


def fitted(points: Points, sizes: Sizes) -> dict[str, Constants]:
    """Constants of predictions, and those of joint steps: the same, and the optimisers'."""
    ahead, joint = usable(points, "predict"), usable(points, "joint")
    first = fit([count_of(p, sizes) for p in ahead], [p["ms_least"] / 1e3 for p in ahead], Constants(call=CALL_S))
    known = replace(first, fixed=0.0)
    return {
        "predict": first,
        "joint": fit([count_of(p, sizes) for p in joint], [p["ms_least"] / 1e3 for p in joint], known),
    }


def said(point: Mapping[str, Any], sizes: Sizes, constants: Mapping[str, Constants]) -> float:
    """Seconds by the model."""
    found = count_of(point, sizes)
    return sum(count * getattr(constants[point["act"]], name) for name, count in found.items())


def left_out(points: Points, sizes: Sizes) -> dict[str, list[float]]:
    """The model over the measurement, at points of a number of SLMs that it was not fitted to."""
    found: dict[str, list[float]] = {}
    for slms in sorted({p["slms"] for p in points}):
        constants = fitted([p for p in points if p["slms"] != slms], sizes)
        for act in ("predict", "joint"):
            rows = [p for p in usable(points, act) if p["slms"] == slms]
            found[f"{act}, {slms} SLMs left out"] = [1e3 * said(p, sizes, constants) / p["ms_least"] for p in rows]
    return found


def grown(nodes: int, slms: int, words: float, batch: int = 64) -> Place:
    """A cluster of machines with two cores and one SLM actor each, three at least."""
    actors = min(slms, max(3, nodes))
    return Place(slms, 3, batch, actors, parallel=2 * nodes, nodes=nodes, words=words)


def growth(sizes: Sizes, constants: Mapping[str, Constants], path: Sequence[tuple[int, int, float]]) -> str:
    """A line a decade."""
    lines = [f"{'nodes':>6}{'SLMs':>8}{'words':>9}{'predict':>10}  {'most of it':<18}{'joint':>10}  {'most of it':<18}"
             f"{'a node':>9}  most of it"]  # fmt: skip
    for nodes, slms, words in path:
        place = grown(nodes, slms, words)
        ahead = seconds(place, sizes, constants["predict"], joint=False)
        joint = seconds(place, sizes, constants["joint"], joint=True)
        held = node_bytes(place, sizes)
        lines.append(
            f"{nodes:>6}{slms:>8}{words:>9.0e}{1e3 * sum(ahead.values()):>7.0f} ms  {NAMES[largest(ahead)]:<18}"
            f"{1e3 * sum(joint.values()):>7.0f} ms  {NAMES[largest(joint)]:<18}"
            f"{sum(held.values()) / 1e9:>6.2f} GB  {largest(held)}"
        )
    return "\n".join(lines)


def axes_of_growth(sizes: Sizes, constants: Mapping[str, Constants]) -> dict[str, str]:
    """One thing grows at a time."""
    return {
        "all together": growth(sizes, constants, PATH),
        "SLMs alone, on 3 nodes": growth(sizes, constants, [(3, n, 2**16) for n in (3, 10, 100, 1000, 10_000)]),
        "nodes alone, 1,000 SLMs": growth(sizes, constants, [(n, 1000, 2**16) for n in (1, 10, 100, 1000)]),
        "words alone, 12 SLMs on 10 nodes": growth(
            sizes, constants, [(10, 12, w) for w in (2**16, 1e6, 1e8, 1e10, 1e12)]
        ),
    }


def draw(points: Points, sizes: Sizes, constants: Mapping[str, Constants], path: Path) -> None:
    """Measured points with the model through them, and its parts as SLMs and nodes grow."""
    figure = Figure(figsize=(13, 7.5), layout="constrained")
    panels = figure.subplots(2, 2)
    _measured(panels[0][0], points, sizes, constants, "predict", 64, "a prediction of 64 samples")
    _measured(panels[0][1], points, sizes, constants, "joint", 64, "a joint step of 64 samples")
    slms = np.logspace(np.log10(4), 4, 40)
    colours = dict(zip(NAMES, (*CURVES, BASELINE), strict=True))
    for axes, act, title in ((panels[1][0], "predict", "a prediction"), (panels[1][1], "joint", "a joint step")):
        parts = [
            seconds(grown(max(1, round(n / 10)), round(n), 2**16), sizes, constants[act], joint=act == "joint")
            for n in slms
        ]
        shown = [name for name in parts[0] if max(part[name] for part in parts) > 1e-5]
        for name in shown:
            axes.loglog(slms, [1e3 * part[name] for part in parts], color=colours[name], label=NAMES[name])
        _label(axes, f"Model: parts of {title}, 3 asked, a node for every 10 SLMs")
        axes.set_ylim(1e-2, 3e4)
    save(figure, path)


def _measured(
    axes: Axes, points: Points, sizes: Sizes, constants: Mapping[str, Constants], act: str, batch: int, title: str
) -> None:
    ways: list[tuple[str, str, Callable[[Mapping[str, Any]], bool]]] = [
        ("all asked", BASELINE, lambda p: p["asked"] == p["slms"]),
        ("3 asked", LEWORLD, lambda p: p["asked"] == 3),
    ]
    for name, colour, belongs in ways:
        own = [p for p in points if p["act"] == act and p["batch"] == batch and belongs(p)]
        for nodes, marker in ((1, "o"), (3, "^")):
            there = [p for p in own if p["nodes"] == nodes]
            axes.loglog([p["slms"] for p in there], [p["ms_least"] for p in there], marker, color=colour, markersize=7,
                        label=f"{name}, {nodes} node{'s' * (nodes > 1)}")  # fmt: skip
        line = sorted({p["slms"]: said(p, sizes, constants) for p in own if p in usable(points, act)}.items())
        axes.loglog([n for n, _ in line], [1e3 * s for _, s in line], color=colour, linewidth=1.2)
    # Room for the names.
    axes.set_ylim(top=3 * axes.get_ylim()[1])
    axes.set_xticks([3, 12, 48, 192], ["3", "12", "48", "192"])
    axes.minorticks_off()
    _label(axes, f"Measured (points) and model (lines): {title}")


def _label(axes: Axes, title: str) -> None:
    axes.set_xlabel("SLMs", color=TEXT)
    axes.set_ylabel("ms", color=TEXT)
    axes.set_title(title, loc="left", fontsize=10, color=TEXT)
    plain(axes)
    axes.legend(frameon=False, labelcolor=TEXT, fontsize=8, ncols=2, loc="upper left")


def main() -> None:
    """Fit, print and draw."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("points", type=Path, help="what slm_curve.py wrote")
    parser.add_argument("--picture", type=Path, metavar="FILE")
    args = parser.parse_args()
    points = json.loads(args.points.read_text(encoding="utf-8"))["points"]
    sizes = sizes_of(points)
    constants = fitted(points, sizes)
    print("sizes:    ", "  ".join(f"{name} {value:.3g}" for name, value in asdict(sizes).items()))
    for act, found in constants.items():
        print(f"{act:<10}", "  ".join(f"{name} {value:.2e} s" for name, value in asdict(found).items() if value))
    print("model over measured, at points left out of the fit")
    for name, ratios in left_out(points, sizes).items():
        if ratios:
            print(f"  {name:<28}{min(ratios):.2f} to {max(ratios):.2f}, median {np.median(ratios):.2f}")
    for name, text in axes_of_growth(sizes, constants).items():
        print(f"\n{name}\n{text}")
    if args.picture:
        draw(points, sizes, constants, args.picture)


if __name__ == "__main__":
    main()
