"""Errors of processes that do not answer."""

from __future__ import annotations

from leworld.errors import LeWorldError


class ActorError(LeWorldError):
    """An actor or a cluster does not answer, or fails."""

    def __init__(self, actor: str, problem: str, way_out: str) -> None:
        """Build the message.

        Args:
            actor: its name, as the user knows it.
            problem: what happened.
            way_out: what the user can do.
        """
        super().__init__(f"{actor} {problem}: {way_out}")
        self.actor, self.problem, self.way_out = actor, problem, way_out

    # An exception is unpickled from its arguments, here three, not the one message.
    def __reduce__(self) -> tuple[type[ActorError], tuple[str, str, str]]:
        return type(self), (self.actor, self.problem, self.way_out)


class UnreachableError(ActorError):
    """No process received the call, so nothing was done."""


class LostError(ActorError):
    """An actor does not come back because its machine is gone."""
