"""Report: one page to look at; what beats us comes first."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

from cluster.config import RunConfig
from cluster.files import write_text
from cluster.presets import dump_config
from cluster.run_dir import RunDir
from leworld.errors import DataError
from leworld.evaluation.gate import Gate, rows, verdict
from leworld.evaluation.pictures import draw_gate, draw_losses

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #30363d; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2.2rem; }
.verdict { font-size: 1.15rem; padding: .8rem 1rem; border-left: .35rem solid #1b7f4b; background: #f4f6f8; }
.verdict.beaten { border-color: #c8553d; }
table { border-collapse: collapse; } th, td { padding: .25rem .9rem .25rem 0; text-align: left; }
td.number { text-align: right; font-variant-numeric: tabular-nums; } tr { border-bottom: 1px solid #e3e7eb; }
tr.ours { font-weight: 600; color: #1261a0; }
img { max-width: 100%; } pre { background: #f4f6f8; padding: 1rem; overflow-x: auto; font-size: .85rem; }
"""

FIGURES = {
    "hit_top1": "right address first",
    "hit_top4": "right address among the first four",
    "hit_asked": "right address where only a request can find it",
    "exact_mask": "mask exactly right",
    "reads_per_prediction": "reads a prediction",
}


def write_report(run: RunDir, config: RunConfig, gate: Gate) -> None:
    """Draw the pictures and write ``report.html``."""
    run.pictures.mkdir(exist_ok=True)
    pictures = draw_pictures(run, gate)
    write_text(run.report, page(run, config, gate, pictures))


def draw_pictures(run: RunDir, gate: Gate) -> list[tuple[str, str]]:
    """Draw what there is to draw; (title, file name) of each."""
    drawn = []
    for title, name, draw in (
        ("The gate", "gate.png", lambda path: draw_gate(gate, path)),
        ("Training", "training.png", lambda path: draw_losses(run.records(), path)),
    ):
        try:
            draw(run.pictures / name)
        except DataError:
            # A run without steps, or without an error above 0, has nothing to show there.
            continue
        drawn.append((title, name))
    return drawn


def page(run: RunDir, config: RunConfig, gate: Gate, pictures: Sequence[tuple[str, str]]) -> str:
    """The page as HTML; it needs nothing but the pictures beside it."""
    beaten = " beaten" if gate["beaten_by"] else ""
    parts = [
        f"<h1>{escape(config.name)}: world {escape(gate['world'])}, seed {config.seed}</h1>",
        f'<p class="verdict{beaten}">{escape(verdict(gate))}</p>',
        "<h2>Errors on held-out worlds</h2>",
        gate_table(gate),
        "<h2>Addresses and reads</h2>",
        table(("figure", "value"), ((label, number(gate.get(name))) for name, label in FIGURES.items())),
        *(f'<h2>{escape(title)}</h2>\n<img src="pictures/{name}" alt="{escape(title)}">' for title, name in pictures),
        "<h2>Time and memory</h2>",
        timing_table(run.read_timing()),
        "<h2>Config</h2>",
        f"<pre>{escape(dump_config(config))}</pre>",
    ]
    head = f'<meta charset="utf-8"><title>{escape(config.name)}</title><style>{STYLE}</style>'
    body = "\n".join(parts)
    return f'<!doctype html>\n<html lang="en">\n<head>{head}</head>\n<body>\n{body}\n</body>\n</html>\n'


def gate_table(gate: Gate) -> str:
    """Everything that was tried, with its error and how much more than ours that is."""
    lines = ["<table>", "<tr><th>kind</th><th>name</th><th>MSE</th><th>times ours</th></tr>"]
    for kind, name, mse in rows(gate):
        ratio = f"{mse / gate['leworld']:.3g}" if gate["leworld"] else "-"
        mark = ' class="ours"' if kind == "ours" else ""
        cells = f"<td>{escape(kind)}</td><td>{escape(name.replace('_', ' '))}</td>"
        lines.append(f'<tr{mark}>{cells}<td class="number">{mse:.4g}</td><td class="number">{ratio}</td></tr>')
    return "\n".join([*lines, "</table>"])


def timing_table(timing: dict[str, Any]) -> str:
    """Seconds, steps and peak memory, phase by phase."""
    lines = []
    for phase, entry in timing.get("phases", {}).items():
        peaks = ", ".join(f"{p['name']} {p['peak_rss_bytes'] / 2**20:.0f} MiB" for p in entry["processes"])
        lines.append((phase, str(entry["steps"]), f"{entry['seconds']:.1f}", peaks))
    lines += [(name[:-2], "", f"{value:.1f}", "") for name, value in timing.items() if name.endswith("_s")]
    return table(("part", "steps", "seconds", "peak memory"), lines)


def table(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """A plain table of texts."""
    header = "".join(f"<th>{escape(name)}</th>" for name in head)
    body = ["".join(f"<td>{escape(cell)}</td>" for cell in line) for line in lines]
    return "\n".join(["<table>", f"<tr>{header}</tr>", *(f"<tr>{line}</tr>" for line in body), "</table>"])


def number(value: Any) -> str:
    """A figure, or a dash where the world has no such truth."""
    return "-" if value is None else f"{value:.3g}"
