"""The line of a long log that says what went wrong."""

from __future__ import annotations

import re

CLEAR = (
    r"version mismatch|no module named|command not found|permission denied|no route to host|could not resolve"
    r"|connection (?:refused|timed out)|no space left|authentication|timed out during startup"
)
BEST = re.compile(CLEAR, re.IGNORECASE)
CUES = re.compile(rf"{CLEAR}|exception|error|failed", re.IGNORECASE)
NOISE = re.compile(r"\x1b\[[0-9;]*m|^\d{4}-\d\d-\d\d [\d:,]+\s+\w+\s+\S+ -- ")
MOST = 160


def last_trouble(text: str, about: str = "") -> str:
    """The line that says best what went wrong, shortened; empty if none does.

    Args:
        text: a log.
        about: lines that name this count before others.
    """
    lines = [NOISE.sub("", NOISE.sub("", line)).strip() for line in text.splitlines()]
    clear, vague = (
        [line for line in lines if cue.search(line) and "Error message: " not in line] for cue in (BEST, CUES)
    )
    named = [line for line in clear if about and about in line]
    chosen = next((found[-1] for found in (named, clear, vague) if found), "")
    return chosen if len(chosen) <= MOST else chosen[: MOST - 3] + "..."
