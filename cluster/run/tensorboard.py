"""TensorBoard's files of a run: every metric of every step. ``tensorboard --logdir runs`` shows them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tensorboardX import SummaryWriter

from leworld.training.phase_runner import PHASES, Position

Sizes = Mapping[str, int]
"""Of each phase, its number of steps."""


class TensorBoardLog:
    """Writes from a position on; what another writer put down after it is not shown any more."""

    def __init__(self, folder: Path, position: Position, sizes: Sizes) -> None:
        self._sizes = sizes
        # Steps count through all phases: what is done again is dropped by their number alone.
        self._writer = SummaryWriter(str(folder), purge_step=self._step(position.phase, position.step) + 1)

    def add(self, record: Mapping[str, Any]) -> None:
        """A step's line of ``metrics.jsonl``."""
        step = self._step(record["phase"], record["step"])
        for name, value in {**record, **record.get("meter", {})}.items():
            if name not in ("step", "num_steps") and isinstance(value, int | float):
                self._writer.add_scalar(f"{record['phase']}/{name}", value, step)

    def close(self) -> None:
        """Put everything on the disk."""
        self._writer.close()

    def _step(self, phase: str, step: int) -> int:
        return sum(self._sizes[before] for before in PHASES[: PHASES.index(phase)]) + step
