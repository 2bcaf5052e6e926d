"""Jobs: one study with one seed, step by step, each step a process of its own whose result is kept.

Files::

    STUDY/seed-N/config.json   what it follows from: digest and command lines
    STUDY/seed-N/STEP.json     what a step gave out; a step that has one is not run again
    STUDY/seed-N/log.txt       what the processes said
    STUDY/seed-N/runs/         the run, with its newest checkpoint only
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from cluster.bench.claims import Study
from cluster.config.presets import load_config
from cluster.config.renamed_keys import with_old_keys
from cluster.config.run_config import RunConfig
from cluster.json_files import to_json, write_json
from cluster.run.run_dir import RunDir
from leworld.errors import LeWorldError


class StepFailed(LeWorldError):
    """A step's process failed; the text names the step, the reason and the log."""


@dataclass(frozen=True)
class Job:
    """A study with a seed; its files are in ``path``.

    ``digest`` is of all that the result follows from, but for the code.

    Raises:
        ConfigError: the preset does not take the study's changes.
    """

    study: Study
    seed: int
    path: Path
    digest: str = field(init=False)

    def __post_init__(self) -> None:
        content = with_old_keys(asdict(self.config))
        # The places of a run's files and processes do not change its numbers.
        del content["output"]
        content["cluster"] = {name: content["cluster"][name] for name in ("device", "threads")}
        digest = hashlib.sha256(to_json(content).encode()).hexdigest()
        object.__setattr__(self, "digest", digest)

    @property
    def name(self) -> str:
        """``rules-medium, seed 0``."""
        return f"{self.study.name}, seed {self.seed}"

    @property
    def changes(self) -> tuple[str, ...]:
        """What is set on top of the preset."""
        return (*self.study.changes, "cluster.mode=inline", f"seed={self.seed}")

    @property
    def config(self) -> RunConfig:
        """The whole config."""
        return load_config(self.study.preset, self.changes)

    def kept(self, step: str) -> Any | None:
        """Return a step's output if the step is done."""
        path = self.path / f"{step}.json"
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None

    def outcome(self) -> dict[str, Any]:
        """Return the outputs of the steps done with this config, by name."""
        if not self.is_current():
            return {}
        found = {step: self.kept(step) for step in self.study.steps}
        return {step: value for step, value in found.items() if value is not None}

    def done(self) -> bool:
        """Whether every step is."""
        return len(self.outcome()) == len(self.study.steps)

    def is_current(self) -> bool:
        """Whether the kept files follow from the current config."""
        note = self.path / "config.json"
        return note.is_file() and json.loads(note.read_text(encoding="utf-8")).get("digest") == self.digest

    def prepare(self, fresh: bool = False) -> None:
        """Make the directory; what another config left in it goes, and with ``fresh`` all that is there."""
        if self.is_current() and not fresh:
            return
        if self.path.is_dir():
            shutil.rmtree(self.path)
        self.path.mkdir(parents=True)
        note = {"digest": self.digest, "preset": self.study.preset, "changes": self.changes}
        write_json(self.path / "config.json", note)

    def run(self) -> RunDir | None:
        """Return the run that its training made, or can resume."""
        latest = self.path / "runs" / "latest"
        if not (latest / "config.yaml").is_file():
            return None
        found = RunDir.open(latest)
        return found if found.newest_checkpoint() else None

    def command(self, step: str) -> list[str]:
        """The arguments of ``leworld`` for a step."""
        run = self.run()
        settings = [part for change in self.changes for part in ("--set", change)]
        if step == "train":
            begun = ["resume", str(run.path)] if run else []
            return begun or ["train", "--config", self.study.preset, *settings, "--out", str(self.path / "runs")]
        if step == "capacity":
            return ["bench", "capacity", "--config", self.study.preset, *settings]
        assert run is not None, step
        return ["bench", "measure", step, str(run.path)]


class Runner:
    """Runs jobs, each in the calling thread, and can be told to stop from another."""

    def __init__(self) -> None:
        self._processes: set[subprocess.Popen[str]] = set()
        self._stopped = threading.Event()

    def run(self, job: Job) -> float:
        """Run the remaining steps of a job.

        Returns:
            seconds.

        Raises:
            StepFailed: a step did not end well, or ``stop`` was called.
        """
        start = time.perf_counter()
        for step in job.study.steps:
            if job.kept(step) is None:
                write_json(job.path / f"{step}.json", self._step(job, step))
        drop_old_checkpoints(job.run())
        return time.perf_counter() - start

    def stop(self) -> None:
        """End every process; steps that wait for one fail."""
        self._stopped.set()
        for process in list(self._processes):
            process.terminate()

    def _step(self, job: Job, step: str) -> Any:
        log = job.path / "log.txt"
        arguments = [sys.executable, "-m", "cluster", *job.command(step), "--json"]
        with log.open("a", encoding="utf-8") as errors:
            code, text = self._process(arguments, errors)
        if code:
            said = last_line(log)
            raise StepFailed(f"{job.name}: {step} ended with exit code {code}: {said} (more in {log})")
        return json.loads(text)

    def _process(self, arguments: Sequence[str], errors: Any) -> tuple[int, str]:
        if self._stopped.is_set():
            return 130, ""
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        with subprocess.Popen(
            arguments, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors, text=True, env=environment
        ) as process:
            self._processes.add(process)
            if self._stopped.is_set():
                process.terminate()
            try:
                text, _ = process.communicate()
            finally:
                self._processes.discard(process)
        return process.returncode, text


def drop_old_checkpoints(run: RunDir | None) -> None:
    """Keep the checkpoint that later measurements need, and no other: there are many runs."""
    newest = run.newest_checkpoint() if run else None
    if run is None or newest is None:
        return
    for path in run.checkpoints.iterdir():
        if path.is_dir() and path.resolve() != newest.resolve():
            shutil.rmtree(path)


def last_line(log: Path) -> str:
    """Return the last line that is not empty."""
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    return lines[-1] if lines else "it said nothing"
