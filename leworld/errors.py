"""The errors that a user can meet. Each says in one line what is wrong, where, and what to do.

LeWorldError
├── ConfigError        a setting that is misspelt or out of range
├── RangeError         an address or a length outside the memory
├── DataError          a file or array that cannot be used
├── CheckpointError    a checkpoint that is truncated, foreign or from another system
├── StoreError         a memory on disk that is in use, full, foreign or of another width
│   ├── DamageError    words or records that are not what was written
│   ├── RightsError    words that belong to another owner
│   ├── NotPrimaryError  a replica that is not the leader
│   └── MovedError     a shard that does not hold the requested stripe
└── actors.errors.ActorError  (in the actor layer) an actor or cluster that does not answer
"""

from __future__ import annotations


class LeWorldError(Exception):
    """Base of every error that the caller can fix; its text is one line."""


class ConfigError(LeWorldError, ValueError):
    """A setting is misspelt or out of range."""


class RangeError(LeWorldError, IndexError):
    """An address or a length is outside the memory."""


class DataError(LeWorldError, ValueError):
    """A file or array cannot be used."""


class CheckpointError(LeWorldError, ValueError):
    """A checkpoint is truncated, foreign or from another system."""


class StoreError(LeWorldError, OSError):
    """A memory on disk is in use, full, foreign or of another width."""


class RightsError(StoreError):
    """The words belong to another owner."""


class DamageError(StoreError):
    """Words or records are not what was written.

    Attributes:
        pages: the damaged pages, if known.
    """

    def __init__(self, message: str, pages: tuple[int, ...] = ()) -> None:
        super().__init__(message)
        self.pages = pages


class NotPrimaryError(StoreError):
    """This replica is not the leader.

    Attributes:
        address: of the leader, if known.
    """

    def __init__(self, message: str, address: str = "") -> None:
        super().__init__(message)
        self.address = address


class MovedError(StoreError):
    """This shard does not hold the requested stripe, or is handing it over. Nothing was done."""
