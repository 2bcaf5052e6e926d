"""A command as it runs in a job of a cluster."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from leworld.errors import ConfigError

ON_CLUSTER = ("train", "eval", "resume")


def entry_point(command: Sequence[str], num_nodes: int, source: bool) -> list[str]:
    """The command that the head runs.

    ``leworld`` becomes ``python -m cluster``, which takes the code that was shipped before what is installed, and joins
    the cluster that it runs on.

    Args:
        command: as on this machine.
        num_nodes: of the cluster.
        source: whether leworld's own code is shipped.

    Raises:
        ConfigError: there is no command, or a run would be written to a folder of one node alone.
    """
    if not command:
        raise ConfigError(
            "submit: there is no command; give one after --, such as: -- leworld train --out /shared/runs"
        )
    if not ships_code(command):
        return list(command)
    words = list(command[1:])
    if words[:1] and words[0] in ON_CLUSTER and not _says(words, "--address", "cluster.address"):
        words += ["--address", "auto"]
    if words[:1] == ["train"] and num_nodes > 1:
        _check_out(words)
    return ["python", "-m", "cluster", *words] if source else ["leworld", *words]


def ships_code(command: Sequence[str]) -> bool:
    """Whether the command is one of leworld's."""
    return bool(command) and command[0] == "leworld"


def is_source(folder: Path) -> bool:
    """Whether a folder holds leworld's own code."""
    return all((folder / name).is_file() for name in ("leworld/errors.py", "actors/__init__.py", "cluster/__main__.py"))


def _check_out(words: Sequence[str]) -> None:
    out = _says(words, "--out", "output.dir")
    if out is None or not PurePosixPath(out.strip("\"'")).is_absolute():
        where = out or "runs"
        raise ConfigError(f"submit: the run would be in {where} of one node: give --out with a folder that all see")


def _says(words: Sequence[str], option: str, setting: str) -> str | None:
    """The value of an option, or of the setting that it is short for."""
    for word, following in zip(words, [*words[1:], ""], strict=True):
        if word == option:
            return following
        for start in (f"{option}=", f"{setting}=", f"--set={setting}="):
            if word.startswith(start):
                return word.removeprefix(start)
    return None
