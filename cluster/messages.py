"""Lines that a command tells its user beside the result, and Ctrl-C."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache


class Interrupted(Exception):
    """Ctrl-C. Its text is one line that says what happens to the work."""


@contextmanager
def interrupted(what: str) -> Iterator[None]:
    """Turn Ctrl-C into ``Interrupted``, which says ``what``."""
    try:
        yield
    except KeyboardInterrupt:
        raise Interrupted(f"interrupted; {what}") from None


def say(line: str) -> None:
    """Print one line to standard error."""
    print(f"leworld: {' '.join(line.split())}", file=sys.stderr, flush=True)


@cache
def say_renamed(old: str, new: str) -> None:
    """Tell the user, once, the new name of what they called by its old name."""
    say(f"{old} is now called {new}")
