"""The errors a user can meet, each with what, where, and the way out in one line.

LeWorldError
├── ConfigError        a setting that is misspelt or out of range
├── RangeError         an address or a length outside the memory
├── DataError          a file or array that cannot be used
├── CheckpointError    a checkpoint that is truncated, foreign or of another system
├── StoreError         a memory on disk that is in use, full, foreign or of another width
│   ├── DamageError    words or records that are not what was written
│   ├── RightsError    words that are another's
│   ├── NotPrimaryError  a copy of a memory that does not lead
│   └── MovedError     a shard that does not hold what it is asked for
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


class StoreError(LeWorldError, OSError):
    """A memory on disk that is in use, full, foreign or of another width."""


class RightsError(StoreError):
    """Words that are another's."""


class DamageError(StoreError):
    """Words or records that are not what was written.

    Attributes:
        pages: those that are damaged, where that is known.
    """

    def __init__(self, message: str, pages: tuple[int, ...] = ()) -> None:
        super().__init__(message)
        self.pages = pages


class NotPrimaryError(StoreError):
    """A copy of a memory that does not lead.

    Attributes:
        address: of the one that does, as far as is known.
    """

    def __init__(self, message: str, address: str = "") -> None:
        super().__init__(message)
        self.address = address


class MovedError(StoreError):
    """A shard that does not hold what it is asked for, or is just handing it over: nothing was done."""
