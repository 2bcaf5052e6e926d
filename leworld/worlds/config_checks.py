"""Checks that every world's config shares: each error is one line with the value, the limit and the way out."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches

from leworld.errors import ConfigError
from leworld.memory import PAGE_WORDS


def at_least(world: str, minimum: float, **settings: float) -> None:
    """Refuse a setting below ``minimum``."""
    for name, value in settings.items():
        if not value >= minimum:
            raise ConfigError(f"{world}: {name} is {value}, below its least value {minimum}: give {minimum} or more.")


def between(world: str, low: float, high: float, **settings: float) -> None:
    """Refuse a setting outside ``[low, high]``."""
    for name, value in settings.items():
        if not low <= value <= high:
            raise ConfigError(f"{world}: {name} is {value}, outside [{low}, {high}]: give a value between them.")


def one_of(world: str, name: str, value: str, choices: Sequence[str], note: str = "") -> None:
    """Refuse a choice that does not exist, and name the nearest that does."""
    if value not in choices:
        raise ConfigError(
            f"{world}: {name} {value!r} is not known{nearest(value, choices)}: use {listed(choices)}{note}."
        )


def fits_a_page(world: str, words: int, way_out: str) -> None:
    """Refuse a record or block of records that no single read can cover."""
    if words > PAGE_WORDS:
        raise ConfigError(f"{world}: one read takes {words} words, above the page's {PAGE_WORDS}: {way_out}.")


def nearest(name: str, known: Sequence[str]) -> str:
    """`` (did you mean 'x'?)``, or nothing where no known name is near."""
    matches = get_close_matches(str(name), known, n=1, cutoff=0.5)
    return f" (did you mean {matches[0]!r}?)" if matches else ""


def listed(names: Sequence[str]) -> str:
    """``a, b or c``."""
    *first, last = names
    return f"{', '.join(first)} or {last}" if first else last
