"""Run directory: everything that one run leaves behind.

Files::

    config.yaml      the config, whole
    metrics.jsonl    a line a step
    events.jsonl     what died, and what was done; a line each
    slms-*.jsonl     SLMs that joined or left, as they were asked to and as they did; a line each
    timing.json      seconds and peak memory by phase
    tensorboard/     the metrics again, for 'tensorboard --logdir'
    checkpoints/     one directory each; ``newest`` names the one to go on from
    gate.json        what the evaluation found
    report.html      all of it to look at, with pictures/
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from cluster.config.presets import dump_config, parse_yaml
from cluster.config.run_config import RunConfig, parse_config
from cluster.json_files import append_json, to_json, write_text
from cluster.run.checkpoint import checkpoint_order, is_complete
from leworld.errors import CheckpointError
from leworld.training.phase_runner import Position


class RunDir:
    """One run's directory; paths are absolute, because workers have another working directory."""

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        self.metrics = self.path / "metrics.jsonl"
        self.events = self.path / "events.jsonl"
        self.timing = self.path / "timing.json"
        self.board = self.path / "tensorboard"
        self.checkpoints = self.path / "checkpoints"
        self.gate = self.path / "gate.json"
        self.report = self.path / "report.html"
        self.pictures = self.path / "pictures"

    @staticmethod
    def create(config: RunConfig) -> RunDir:
        """Make a new directory ``NAME-TIME`` for a run, and point ``latest`` at it."""
        parent, stem = Path(config.output.dir), f"{config.name}-{time.strftime('%Y%m%d-%H%M%S')}"
        parent.mkdir(parents=True, exist_ok=True)
        path, number = parent / stem, 1
        while path.exists():
            number += 1
            path = parent / f"{stem}-{number}"
        path.mkdir()
        run = RunDir(path)
        run.checkpoints.mkdir()
        run.write_config(config)
        _point(parent / "latest", path.name)
        return run

    @staticmethod
    def open(path: Path) -> RunDir:
        """An existing run.

        Raises:
            CheckpointError: there is no such run.
        """
        if not (path / "config.yaml").is_file():
            raise CheckpointError(f"run {path}: no config.yaml there; give a directory that 'leworld train' made")
        return RunDir(path.resolve())

    def write_config(self, config: RunConfig) -> None:
        """Write the whole config."""
        write_text(self.path / "config.yaml", dump_config(config))

    def config(self) -> RunConfig:
        """The config that the run was made with."""
        path = self.path / "config.yaml"
        return parse_config(parse_yaml(path.read_text(encoding="utf-8"), str(path)))

    def newest_checkpoint(self) -> Path | None:
        """The checkpoint that this run goes on from: the one that was written or chosen last."""
        pointer = self.checkpoints / "newest"
        if pointer.is_file():
            path = self.checkpoints / pointer.read_text(encoding="utf-8").strip()
            if is_complete(path):
                return path
        complete = (
            [path for path in self.checkpoints.iterdir() if is_complete(path)] if self.checkpoints.is_dir() else []
        )
        return max(complete, key=lambda path: checkpoint_order(path) or (), default=None)

    def point_to(self, checkpoint: Path) -> None:
        """Go on from this checkpoint, whichever others there are."""
        write_text(self.checkpoints / "newest", os.path.relpath(checkpoint.absolute(), self.checkpoints) + "\n")

    def records(self) -> list[dict[str, Any]]:
        """What was measured at each step, in order."""
        return list(_records(self.metrics))

    def note_event(self, what: str, done: str) -> None:
        """Record an event and the reaction to it."""
        append_json(self.events, {"time": time.time(), "what": what, "done": done})

    def cut_metrics(self, position: Position) -> None:
        """Drop the steps after a position, because they will be repeated."""
        kept = [record for record in self.records() if _position(record).order <= position.order]
        write_text(self.metrics, "".join(to_json(record) + "\n" for record in kept))

    def read_timing(self) -> dict[str, Any]:
        """Return the timing so far."""
        return json.loads(self.timing.read_text(encoding="utf-8")) if self.timing.is_file() else {}


def _records(path: Path) -> Iterator[dict[str, Any]]:
    """A line that a killed process left half-written ends the file."""
    if not path.is_file():
        return
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            yield json.loads(line)
        except ValueError:
            return


def _position(record: Mapping[str, Any]) -> Position:
    return Position(record["phase"], record["step"])


def _point(link: Path, target: str) -> None:
    temporary = link.with_name(f".{link.name}.{os.getpid()}.tmp")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(target)
    os.replace(temporary, link)
