"""The error of everything that should have answered and did not."""

from __future__ import annotations

from leworld.errors import LeWorldError


class ActorError(LeWorldError):
    """An actor, or a cluster of them, that does not answer or fails."""

    def __init__(self, actor: str, problem: str, way_out: str) -> None:
        """Make the line.

        Args:
            actor: who, as the user knows it.
            problem: what happened.
            way_out: what to do.
        """
        super().__init__(f"{actor} {problem}: {way_out}")
        self.actor, self.problem, self.way_out = actor, problem, way_out

    # An exception is unpickled from its arguments, which are three here and not the one line.
    def __reduce__(self) -> tuple[type[ActorError], tuple[str, str, str]]:
        return type(self), (self.actor, self.problem, self.way_out)


class UnreachableError(ActorError):
    """Nobody took the question, so that nothing was done."""


class LostError(ActorError):
    """An actor that does not come back, as its machine is gone."""
