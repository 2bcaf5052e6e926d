"""The errors a user can meet, each with what, where, and the way out in one line.

LeWorldError
├── ConfigError        a setting that is misspelt or out of range
├── RangeError         an address or a length outside the memory
├── DataError          a file or array that cannot be used
├── CheckpointError    a checkpoint that is truncated, foreign or of another system
└── actors.errors.ActorError  (in the actor layer) an actor or cluster that does not answer
"""

from __future__ import annotations


class LeWorldError(Exception):
    """Base of every error that is the caller's to mend; its text is one line."""


class ConfigError(LeWorldError, ValueError):
    """A setting that is misspelt or out of range."""


class RangeError(LeWorldError, IndexError):
    """An address or a length outside the memory."""


class DataError(LeWorldError, ValueError):
    """A file or array that cannot be used."""


class CheckpointError(LeWorldError, ValueError):
    """A checkpoint that is truncated, foreign or of another system."""
