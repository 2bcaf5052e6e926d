"""Election: chooses a new leader of a shard when the leader does not answer."""

from __future__ import annotations

from actors.errors import ActorError
from actors.memory.client import MemoryClient
from actors.memory.coordinator import Coordinator
from leworld.errors import LeWorldError

TAKE_LEAD_S = 5.0
"""After that long another replica is told to lead: the first one may have been lost just then."""


def elect(coordinator: Coordinator, shard: str, peer_token: str = "", timeout_s: float = 1.0) -> str:
    """Make a replica in sync the leader of a shard whose leader does not answer, if possible the furthest one.

    Returns:
        the address of the leader.

    Raises:
        ActorError: no replica in sync answers.
        LeWorldError: none of them can lead.
    """
    state = coordinator.get(shard)
    found: list[tuple[int, str]] = []
    for name in state.in_sync:
        try:
            with MemoryClient(state.addresses[name], peer_token, timeout_s, address_bits=8) as replica:
                answer = replica.call("ping").content
        except LeWorldError:
            continue
        if answer["leads"] and name == state.leader:
            return state.addresses[name]
        found.append((answer["sequence"], name))
    if not found:
        raise ActorError(f"shard {shard}", "has no replica in sync that answers", "start one of its replicas again")
    problem = LeWorldError()
    for _, name in sorted(found, reverse=True):
        try:
            # If this one is slow, another is called, which does nothing once this one leads.
            with MemoryClient(state.addresses[name], peer_token, TAKE_LEAD_S, address_bits=8) as replica:
                replica.call("take_lead", epoch=state.epoch)
        except LeWorldError as error:
            problem = error
        else:
            return state.addresses[name]
    raise problem
