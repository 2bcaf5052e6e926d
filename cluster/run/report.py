"""Report: one page; what beats us comes first, and every row explains itself."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

from cluster.config.presets import dump_config
from cluster.config.run_config import RunConfig
from cluster.json_files import write_text
from cluster.run.run_dir import RunDir
from leworld.errors import DataError
from leworld.evaluation.gate import Gate, rows, verdict
from leworld.evaluation.pictures import draw_gate, draw_losses
from leworld.evaluation.rollout_picture import draw_rollouts
from leworld.evaluation.rollouts import shown_steps

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #30363d; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2.2rem; }
.verdict { font-size: 1.15rem; padding: .8rem 1rem; border-left: .35rem solid #1b7f4b; background: #f4f6f8; }
.verdict.beaten { border-color: #c8553d; }
table { border-collapse: collapse; } th, td { padding: .25rem .9rem .25rem 0; text-align: left; }
.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
tr { border-bottom: 1px solid #e3e7eb; } tr.ours { font-weight: 600; color: #1261a0; } tr.wins td { color: #b3402a; }
.note { color: #66707a; font-size: .9rem; } .wide { overflow-x: auto; } summary { cursor: pointer; }
img { max-width: 100%; } pre { background: #f4f6f8; padding: 1rem; overflow-x: auto; font-size: .85rem; }
"""

USEFUL = 1.05
"""A control that costs less than this much is within what another draw of test samples would change."""

MEANING = {
    "leworld": "the system as it is",
    "leworld, right addresses": "reading what the write log names: what is lost here, better addresses cannot mend",
    "leworld, memory rewritten": "the same after memory and dynamics were rewritten, without training",
    "floor": "the world's noise: no model can do better",
    "oracle": "an MLP that is told the truth about the world",
    "predict_zero": "always zero",
    "copy_last": "nothing changes",
    "linear": "ridge on past, current and characteristics; no memory",
    "mlp": "an MLP on the same; no memory",
    "gru": "a GRU over the sequence so far; no memory",
    "knn": "exact nearest neighbours among the transitions that the memory holds",
    "least_squares": "a polynomial fitted to the same transitions, drawn to the weights of all training steps",
    "gru_context": "a GRU over the same transitions, and then over the sequence so far",
    "dict": "the mean change seen in training with exactly these characteristics",
    "zeroed": "every word reads as zero",
    "shuffled": "every sample reads what another asked for",
    "stale": "the memory holds what was true before the worlds changed",
    "random": "every read goes to a random address",
}

FIGURES = {
    "hit_top1": "right address first",
    "hit_top4": "right address among the first four",
    "hit_asked": "right address where only a request can find it",
    "requests_per_prediction": "requests a prediction",
    "exact_mask": "mask exactly right",
    "reads_per_prediction": "reads a prediction",
}

RATIOS = {
    "floor": "LeWorld / floor",
    "oracle": "LeWorld / oracle",
    "no_memory": "LeWorld / best without memory",
    "knn": "LeWorld / knn",
    "least_squares": "LeWorld / least squares",
    "gru_context": "LeWorld / gru context",
}


def write_report(run: RunDir, config: RunConfig, gate: Gate) -> None:
    """Draw the pictures and write ``report.html``."""
    run.pictures.mkdir(exist_ok=True)
    pictures = draw_pictures(run, gate)
    write_text(run.report, page(run, config, gate, pictures))


def draw_pictures(run: RunDir, gate: Gate) -> list[tuple[str, str]]:
    """Draw the available pictures; return (title, file name) of each."""
    drawn = []
    for title, name, draw in (
        ("The gate", "gate.png", lambda path: draw_gate(gate, path)),
        ("Rollouts", "rollouts.png", lambda path: draw_rollouts(gate, path)),
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
    drawn = {name: picture(title, name) for title, name in pictures}
    parts = [
        *verdicts(config, gate),
        "<h2>Errors on held-out worlds</h2>",
        gate_table(gate),
        drawn.get("gate.png", ""),
        *ratios(gate),
        "<h2>Addresses and reads</h2>",
        table(("figure", "value"), ((label, number(gate.get(name))) for name, label in FIGURES.items())),
        *requests(gate),
        *rollouts(gate),
        drawn.get("rollouts.png", ""),
        "<h2>Training</h2>" if "training.png" in drawn else "",
        drawn.get("training.png", ""),
        "<h2>Time and memory</h2>",
        *timing_tables(run.read_timing()),
        f"<details><summary>Config</summary><pre>{escape(dump_config(config))}</pre></details>",
    ]
    head = (
        f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{escape(config.name)}</title>'
    )
    body = "\n".join(part for part in parts if part)
    style = f"<style>{STYLE}</style>"
    return f'<!doctype html>\n<html lang="en">\n<head>{head}{style}</head>\n<body>\n{body}\n</body>\n</html>\n'


def verdicts(config: RunConfig, gate: Gate) -> list[str]:
    """State what beats us and whether the memory matters."""
    beaten = " beaten" if gate["beaten_by"] else ""
    lines = [
        f"<h1>{escape(config.name)}: world {escape(gate['world'])}, seed {config.seed}</h1>",
        f'<p class="verdict{beaten}">{escape(verdict(gate))}</p>',
    ]
    if gate["controls"] and gate["leworld"]:
        name = min(gate["controls"], key=gate["controls"].__getitem__)
        share = gate["controls"][name] / gate["leworld"]
        use = "The memory is of use" if share > USEFUL else "The memory is of little use or none"
        text = f"{use}: the least harmful control, {name}, has {share:.2f} x the error of LeWorld."
        lines.append(f'<p class="verdict{"" if share > USEFUL else " beaten"}">{escape(text)}</p>')
    return lines


def gate_table(gate: Gate) -> str:
    """Everything that was tried: its error, how many times ours that is, and the interval of the difference."""
    head = ("kind", "name", "MSE", "times ours", "less ours, 95 %", "what it is")
    lines = []
    for kind, name, mse in rows(gate):
        ratio = f"{mse / gate['leworld']:.3g}" if gate["leworld"] else "-"
        spread = interval(gate.get("versus", {}).get(name))
        lines.append((kind, name.replace("_", " "), f"{mse:.4g}", ratio, spread, MEANING.get(name, "")))
    marks = ["ours" if kind == "ours" else "wins" if name in gate["beaten_by"] else "" for kind, name, _ in rows(gate)]
    budget, note = gate.get("budget"), "The MSE is in the world's units; red rows beat us. "
    if budget:
        note += f"Trained baselines had {budget['steps']} steps of {budget['sequences']} sequences. "
    note += "Intervals are of the mean over worlds or sequences, paired: above 0 where we win."
    return f'{table(head, lines, marks)}\n<p class="note">{note}</p>'


def requests(gate: Gate) -> list[str]:
    """Show the gain of requests on the same samples, if it was measured."""
    gain = gate.get("info_gain")
    if gain is None:
        return []
    lines = [("no request", interval(gain))]
    lines += [(f"{name} requests", interval(found)) for name, found in gate.get("info_controls", {}).items()]
    note = '<p class="note">Above 0: what is asked at one step helps the next.</p>'
    return ["<h2>Requests</h2>", table(("instead of its own requests", "more error, 95 %"), lines), note]


def ratios(gate: Gate) -> list[str]:
    """How many times the floor and each rival the error is, and what a wrong or a rewritten memory does to it."""
    found = [(label, gate.get("ratios", {}).get(name)) for name, label in RATIOS.items()]
    found += [(f"{name} memory / best without memory", wrong) for name, wrong in gate.get("wrong_memory", {}).items()]
    found.append(("memory rewritten / before", gate.get("rewritten_ratio")))
    lines = [(label, spread(value)) for label, value in found if value is not None]
    if not lines:
        return []
    note = f"Without memory, {gate['best_no_memory'].replace('_', ' ')} is best. " if "best_no_memory" in gate else ""
    note += "A rewritten memory is tried on samples of its own; all other ratios are paired."
    return ["<h2>Ratios of errors</h2>", table(("ratio", "mean, 95 %"), lines), f'<p class="note">{note}</p>']


def rollouts(gate: Gate) -> list[str]:
    """Error at some steps of the sequence: of the system and of the baselines, each from its own predictions too."""
    found = gate.get("rollout")
    if not found:
        return []
    shown = shown_steps(len(found["leworld"]["free_running"]))
    lines = [
        (name.replace("_", " "), states.replace("_", " "), *(number(errors[step - 1]) for step in shown))
        for states in ("free_running", "teacher_forced")
        for name, errors in ((name, modes[states]) for name, modes in found.items())
    ]
    head = ("name", "states", *(f"step {step}" for step in shown))
    note = '<p class="note">Free running: from its own predictions. Teacher forced: from the true states.</p>'
    return ["<h2>Error by step</h2>", table(head, lines), note]


def timing_tables(timing: dict[str, Any]) -> list[str]:
    """Seconds and steps by phase, and the most memory each process ever held."""
    phases = timing.get("phases", {})
    lines = [("start", "", f"{timing['start_s']:.1f}", "")] if "start_s" in timing else []
    for phase, entry in phases.items():
        each = f"{entry['seconds'] / entry['steps']:.3g}" if entry["steps"] else "-"
        lines.append((phase, str(entry["steps"]), f"{entry['seconds']:.1f}", each))
    lines += [("evaluate", "", f"{timing['evaluate_s']:.1f}", "")] if "evaluate_s" in timing else []
    peaks: dict[str, int] = {}
    for process in [p for entry in phases.values() for p in entry["processes"]] + [timing.get("driver")]:
        if process is not None:
            peaks[process["name"]] = max(peaks.get(process["name"], 0), process["peak_rss_bytes"])
    found = ", ".join(f"{name} {peak / 2**20:.0f} MiB" for name, peak in peaks.items())
    memory = [f"<p>Peak memory: {escape(found)}.</p>"] if found else []
    return [table(("part", "steps", "seconds", "a step"), lines), *memory]


def table(head: Sequence[str], lines: Iterable[Sequence[str]], marks: Sequence[str] = ()) -> str:
    """A table of texts; figures stand right, under their heads."""
    found = list(lines)
    right = [bool(found) and all(_is_figure(line[i]) for line in found) for i in range(len(head))]
    parts = ["<tr>" + "".join(_cell("th", name, side) for name, side in zip(head, right, strict=True)) + "</tr>"]
    for place, line in enumerate(found):
        mark = f' class="{marks[place]}"' if marks and marks[place] else ""
        parts.append(f"<tr{mark}>" + "".join(_cell("td", *pair) for pair in zip(line, right, strict=True)) + "</tr>")
    return "\n".join(['<div class="wide"><table>', *parts, "</table></div>"])


def picture(title: str, name: str) -> str:
    """A picture beside the page."""
    return f'<img src="pictures/{name}" alt="{escape(title)}">'


def interval(found: dict[str, float] | None) -> str:
    """``mean [low, high]``, or a dash where nothing was measured."""
    return "-" if found is None else f"{found['mean']:+.3g} [{found['low']:+.3g}, {found['high']:+.3g}]"


def spread(found: dict[str, float]) -> str:
    """``mean [low, high]`` of a ratio."""
    return f"{found['mean']:.3g} [{found['low']:.3g}, {found['high']:.3g}]"


def number(value: Any) -> str:
    """Format a figure, or a dash if the world has no such truth."""
    return "-" if value is None else f"{value:.3g}"


def _is_figure(text: str) -> bool:
    return text in ("", "-") or text.lstrip("+-")[:1].isdigit()


def _cell(tag: str, text: str, right: bool) -> str:
    return f'<{tag} class="number">{escape(text)}</{tag}>' if right else f"<{tag}>{escape(text)}</{tag}>"
