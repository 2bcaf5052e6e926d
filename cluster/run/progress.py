"""Progress bars: one for each phase, fed by the lines that the learner appends."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from leworld.training.phase_runner import PHASES

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
def training_bars(metrics: Path, events: Path, totals: dict[str, int], console: Console) -> Iterator[None]:
    """Show training while the body runs.

    Args:
        metrics: the run's ``metrics.jsonl``, which may not be there yet.
        events: its ``events.jsonl``, which may not be there yet; each is a line above the bars.
        totals: phase to its number of steps.
        console: for the bars.
    """
    with make_bars(console) as bars:
        tasks = {name: bars.add_task(name, total=totals[name], figures="") for name in PHASES if totals[name]}
        follower = Follower(metrics, events, bars, tasks)
        follower.start()
        try:
            yield
        finally:
            follower.stop()


class Follower(threading.Thread):
    """Reads what is appended to files, moves the bars and prints what happened."""

    def __init__(self, metrics: Path, events: Path, bars: Progress, tasks: dict[str, TaskID]) -> None:
        super().__init__(name="progress", daemon=True)
        self.metrics, self.events = _Tail(metrics), _Tail(events)
        self.events.skip()
        self.bars = bars
        self.tasks = tasks
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
        """Process the complete new lines."""
        for event in self.events.read():
            self.bars.console.print(f"{event['what']}; {event['done']}", style="yellow", highlight=False, markup=False)
        for record in self.metrics.read():
            self._show(record)

    def _show(self, record: dict[str, Any]) -> None:
        phase = record["phase"]
        shown = {"loss": "loss", "hit_top1": "hit"}
        figures = self.figures[phase]
        figures.update({label: record[name] for name, label in shown.items() if record.get(name) is not None})
        text = "  ".join(f"{label} {value:.3g}" for label, value in figures.items())
        self.bars.update(self.tasks[phase], completed=record["step"], figures=text)


class _Tail:
    """The lines that are appended to a file of JSON lines, which may not be there yet."""

    def __init__(self, path: Path) -> None:
        self._path, self._offset = path, 0

    def skip(self) -> None:
        """Skip the present lines."""
        with suppress(OSError):
            self._offset = self._path.stat().st_size

    def read(self) -> list[dict[str, Any]]:
        """Return the complete new lines."""
        try:
            # A resumed learner cuts the file first.
            self._offset = 0 if self._path.stat().st_size < self._offset else self._offset
            with self._path.open("rb") as file:
                file.seek(self._offset)
                text = file.read()
        except OSError:
            return []
        end = text.rfind(b"\n") + 1
        self._offset += end
        return [json.loads(line) for line in text[:end].splitlines()]
