"""The work of ``leworld slm``: a run's SLMs and their ordered changes, as values."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cluster.run.membership_changes import Change, MembershipChanges
from cluster.run.run_dir import RunDir
from leworld.errors import ConfigError
from leworld.models.system import MOST_SLMS
from leworld.training.phase_runner import PHASES

Outcome = dict[str, Any]
NEXT = "after its next step, or when it goes on"


def list_of(path: Path) -> Outcome:
    """Run, and slms: each with its number, whether it is there, and what becomes or became of it.

    Raises:
        CheckpointError: the run does not exist.
    """
    run = RunDir.open(path)
    changes, given = MembershipChanges(run), run.config().model.num_slms
    rows = {slm: {"slm": slm, "is_there": True, "state": "from the beginning"} for slm in range(given)}
    done = changes.done()
    for number, change in enumerate(changes.asked()):
        row = rows.setdefault(change.slm, {"slm": change.slm, "is_there": False})
        if number >= len(done):
            row["state"] = f"{'joins' if change.joins else 'leaves'} {NEXT}"
        elif (problem := done[number].problem) is not None:
            row["state"] = f"did not {'join' if change.joins else 'leave'}: {problem}"
        else:
            row["is_there"] = change.joins
            when = f"after step {done[number].step} of {done[number].phase}"
            row["state"] = f"{'joined' if change.joins else 'left'} {when}"
    return {"run": str(run.path), "slms": list(rows.values())}


def ask_to_add(path: Path, count: int) -> Outcome:
    """Ask a run for more SLMs; then as ``list_of``.

    Raises:
        ConfigError: the run has ended, or would have too many.
    """
    changes, members = _of_run_that_goes_on(path)
    if len(members) + count > MOST_SLMS:
        raise ConfigError(f"run {path}: {len(members)} SLMs and {count} more are above {MOST_SLMS}: add fewer")
    first = 1 + max([*members, *(change.slm for change in changes.asked())])
    for slm in range(first, first + count):
        changes.ask(Change(True, slm))
    return list_of(path)


def ask_to_remove(path: Path, slm: int) -> Outcome:
    """Ask a run to remove an SLM; then as ``list_of``.

    Raises:
        ConfigError: the run has ended, does not have it, or has no other.
    """
    changes, members = _of_run_that_goes_on(path)
    if slm not in members or len(members) == 1:
        there = ", ".join(map(str, members))
        raise ConfigError(f"run {path}: SLM {slm} cannot leave, there are {there}: name one of several")
    changes.ask(Change(False, slm))
    return list_of(path)


def _of_run_that_goes_on(path: Path) -> tuple[MembershipChanges, list[int]]:
    """Its changes, and the SLMs there will be when all that was asked for is done."""
    run = RunDir.open(path)
    config, records = run.config(), run.records()
    last = next(phase for phase in reversed(PHASES) if phase == "pretrain" or getattr(config.phases, phase).steps)
    if records and (records[-1]["phase"], records[-1]["step"]) == (last, records[-1]["num_steps"]):
        raise ConfigError(f"run {path}: has ended, and SLMs join or leave while it trains: train a new one")
    changes = MembershipChanges(run)
    return changes, changes.members(config.model.num_slms)
