"""Progress bars: one a phase, fed by the lines that the learner appends, wherever it runs."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from leworld.phases.trainer import PHASES

POLL_S = 0.2


def make_bars(console: Console) -> Progress:
    """Bars with a name, figures and the time left."""
    return Progress(
        TextColumn("{task.description:<9}"),
        BarColumn(bar_width=28),
        MofNCompleteColumn(),
        TextColumn("{task.fields[figures]}"),
        TimeRemainingColumn(),
        console=console,
    )


@contextmanager
def training_bars(metrics: Path, totals: dict[str, int], console: Console) -> Iterator[None]:
    """Show training while the body runs.

    Args:
        metrics: the run's ``metrics.jsonl``, which may not be there yet.
        totals: phase to its number of steps.
        console: where to.
    """
    with make_bars(console) as bars:
        tasks = {name: bars.add_task(name, total=totals[name], figures="") for name in PHASES if totals[name]}
        follower = Follower(metrics, bars, tasks)
        follower.start()
        try:
            yield
        finally:
            follower.stop()


class Follower(threading.Thread):
    """Reads what is appended to a file and moves the bars."""

    def __init__(self, path: Path, bars: Progress, tasks: dict[str, TaskID]) -> None:
        super().__init__(name="progress", daemon=True)
        self.path = path
        self.bars = bars
        self.tasks = tasks
        self.offset = 0
        self.figures: dict[str, dict[str, float]] = {name: {} for name in tasks}
        self.ended = threading.Event()

    def run(self) -> None:
        """Follow until told to stop."""
        while not self.ended.wait(POLL_S):
            self.read()

    def stop(self) -> None:
        """Take the last lines and end."""
        self.ended.set()
        self.join()
        self.read()

    def read(self) -> None:
        """Take the whole lines that came since."""
        try:
            size = self.path.stat().st_size
            # A learner that goes on from a checkpoint cuts the file first.
            self.offset = 0 if size < self.offset else self.offset
            with self.path.open("rb") as file:
                file.seek(self.offset)
                text = file.read()
        except OSError:
            return
        end = text.rfind(b"\n") + 1
        self.offset += end
        for line in text[:end].splitlines():
            self._show(json.loads(line))

    def _show(self, record: dict[str, Any]) -> None:
        phase = record["phase"]
        shown = {"loss": "loss", "hit_top1": "hit"}
        figures = self.figures[phase]
        figures.update({label: record[name] for name, label in shown.items() if record.get(name) is not None})
        text = "  ".join(f"{label} {value:.3g}" for label, value in figures.items())
        self.bars.update(self.tasks[phase], completed=record["step"], figures=text)
