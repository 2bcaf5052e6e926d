"""Changes of a run's SLMs while it trains: what was ordered, and after which step it was done.

Each file of a run's directory is written by one side: ``slms-asked.jsonl`` by the command, ``slms-done.jsonl`` by the
first learner, a line for each line of the other. A run resumed from an earlier checkpoint repeats each change after
the same step, so its numbers equal those of an uninterrupted run.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeVar

from actors.errors import ActorError
from actors.training.learner_process import LearnerProcess
from cluster.json_files import append_json
from cluster.run.run_dir import RunDir
from leworld.errors import CheckpointError, ConfigError
from leworld.training.phase_runner import Position

Line = TypeVar("Line")


@dataclass(frozen=True)
class Change:
    """An SLM joins, or leaves."""

    joins: bool
    slm: int

    def __str__(self) -> str:
        return f"SLM {self.slm} {'joins' if self.joins else 'leaves'}"


@dataclass(frozen=True)
class DoneChange:
    """A change with the step after which it was done, or the reason why it failed."""

    phase: str
    step: int
    problem: str | None = None

    @property
    def position(self) -> Position:
        """Return that step."""
        return Position(self.phase, self.step)


class MembershipChanges:
    """The changes of one run."""

    def __init__(self, run: RunDir) -> None:
        self.run = run
        self._asked, self._done = (run.path / f"slms-{side}.jsonl" for side in ("asked", "done"))

    def asked(self) -> list[Change]:
        """Return all changes ever ordered, in order."""
        return list(_lines(self._asked, Change))

    def done(self) -> list[DoneChange]:
        """Return the outcomes of the first changes."""
        return list(_lines(self._done, DoneChange))

    def members(self, given: int) -> list[int]:
        """Return the SLMs after all changes, from the number at the start of the run."""
        members, done = list(range(given)), self.done()
        for number, change in enumerate(self.asked()):
            refused = number < len(done) and done[number].problem is not None
            if not refused:
                members = [*members, change.slm] if change.joins else [slm for slm in members if slm != change.slm]
        return members

    def ask(self, change: Change) -> None:
        """Order a change after the current step, or when the run resumes."""
        append_json(self._asked, asdict(change))

    def due(self, position: Position) -> list[tuple[bool, int, bool]]:
        """What is to be done at a position: whether an SLM joins, which, and whether for the first time.

        What is new waits until a run that went back is where it was.
        """
        if not self._asked.exists():
            return []
        asked, done = self.asked(), self.done()
        repeated = (each.position == position and not each.problem for each in done)
        again = [change for change, is_repeated in zip(asked, repeated, strict=False) if is_repeated]
        new = [] if any(each.position.order > position.order for each in done) else asked[len(done) :]
        return [(change.joins, change.slm, some is new) for some in (again, new) for change in some]

    def note(self, change: Change, position: Position, problem: str | None) -> None:
        """Record the outcome of the next change."""
        append_json(self._done, asdict(DoneChange(position.phase, position.step, problem)))
        what = f"{change} after step {position.step} of {position.phase}"
        if problem is None:
            self.run.note_event(what, "all others go on")
        else:
            self.run.note_event(f"{what}: {problem}", "goes on without")


def follow_changes(learner: LearnerProcess, changes: MembershipChanges) -> None:
    """Do what is due where a learner stands, alike in all learners of a group.

    Raises:
        ActorError: an SLM's process was lost; what is due is done when the run goes on.
    """
    group, position = learner.group, learner.runner.position
    for joins, slm, is_new in group.share(lambda: changes.due(position)):
        change = Change(joins, slm)
        problem = group.share(lambda change=change, is_new=is_new: _do(learner, change, is_new))
        if group.rank and problem is None:
            _do(learner, change, is_new)
        if group.rank == 0 and is_new:
            changes.note(change, position, problem)


def _do(learner: LearnerProcess, change: Change, is_new: bool) -> str | None:
    """What went wrong, with nothing changed, where it never could be done, or a newcomer, missed by nobody, fails."""
    try:
        (learner.runner.join if change.joins else learner.runner.leave)(change.slm)
    except ConfigError as error:
        return str(error)
    except ActorError as error:
        if not (change.joins and is_new):
            raise
        return str(error)
    return None


def _lines(path: Path, kind: Callable[..., Line]) -> Iterator[Line]:
    if path.is_file():
        # A last line without an end is still being written.
        for text in path.read_text(encoding="utf-8").split("\n")[:-1]:
            try:
                yield kind(**json.loads(text))
            except (ValueError, TypeError):
                raise CheckpointError(f"{path}: {text!r} is no line of it; take it out") from None
