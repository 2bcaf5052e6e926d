"""SLM actor: some of a fleet's SLMs in a process of their own. Made remote in ``actors.training.system_actors``."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import torch

from actors.processes import ProcessStat, own_stat
from actors.rpc.method_server import Endpoint, MethodServer
from actors.rpc.tensor_dict import Packed, pack, unpack
from actors.rpc.tensors import from_wire, to_wire
from leworld.memory.ranges import Ints
from leworld.models.routing_pairs import Pairs
from leworld.training.slm_training import Metrics, Moment, SLMGroup, SLMTrainingConfig
from leworld.types import Credit, Proposals, Query
from leworld.worlds.base import World

METHODS = ("pretrain", "propose", "propose_some", "learn", "state", "load_state", "host", "process")


class SLMActor:
    """An ``SLMGroup`` whose messages are arrays. It owns its SLMs' weights and optimisers.

    In a process of its own it answers one call after another; see ``SLMProcess``.
    """

    def __init__(self, name: str, config: SLMTrainingConfig, world: World, slm_ids: Sequence[int]) -> None:
        self.name = name
        # Actors share a machine, and one thread gives the same sums everywhere.
        torch.set_num_threads(1)
        self.group = SLMGroup(config, world, slm_ids)

    def pretrain(self, first_step: int, num_steps: int) -> list[Metrics]:
        """See ``Fleet.pretrain``: the last metrics of each SLM."""
        return self.group.pretrain(first_step, num_steps)()

    def propose(self, query: Query, learn: bool) -> Proposals:
        """See ``Fleet.propose``: all of this actor's SLMs about all samples."""
        return to_wire(self.group.propose(from_wire(query), learn=learn))

    def propose_some(self, query: Query, learn: bool, row: Ints, slm: Ints, samples: int) -> Proposals:
        """What some of its SLMs say of some samples; see ``Pairs.listed``.

        Args:
            query: of the samples that any of its SLMs is asked about.
            learn: whether credit will come.
            row: (P,) a sample of ``query``.
            slm: (P,) which of this actor's SLMs is asked about it, by its place among them, ascending.
            samples: of all that were to be predicted.

        Returns:
            (P, 1, ...).
        """
        pairs = Pairs.listed(torch.tensor(row), torch.tensor(slm), samples)
        return to_wire(self.group.propose_pairs(from_wire(query), pairs, learn=learn))

    def learn(self, credits: list[Credit], lr: float, moment: Moment) -> list[Any]:
        """See ``Fleet.learn``: arrays, of the samples that were sent, summed over this actor's SLMs."""
        gradients = self.group.learn([from_wire(credit) for credit in credits], lr, moment)
        return [gradient.numpy() for gradient in gradients]

    def state(self) -> Packed:
        """See ``Fleet.state``."""
        return pack(self.group.state())

    def load_state(self, state: Packed) -> None:
        """See ``Fleet.load_state``."""
        self.group.load_state(unpack(state))

    def host(self, slm_ids: Sequence[int]) -> None:
        """See ``SLMGroup.host``; if it has them already, nothing happens."""
        if list(slm_ids) != self.group.slm_ids:
            self.group.host(slm_ids)

    def process(self) -> ProcessStat:
        """Return its process and its peak memory."""
        return own_stat(self.name)


class SLMProcess:
    """A process for an ``SLMActor``. Ray starts it again where it dies; it is empty then until it is asked to serve."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._server: MethodServer | None = None

    def serve(self, config: SLMTrainingConfig, world: World, slm_ids: Sequence[int], token: str) -> Endpoint:
        """Return where its SLMs answer; create them if there are none.

        Args:
            config: of the SLMs.
            world: of the SLMs.
            slm_ids: the SLMs of this actor.
            token: that every caller must send.
        """
        import ray

        from actors.ray.metrics import answer_observer

        if self._server is None:
            actor = SLMActor(self._name, config, world, slm_ids)
            address = f"tcp://{ray.util.get_node_ip_address()}:0"
            self._server = MethodServer(actor, METHODS, token, address, answer_observer(self._name))
        return self._server.endpoint

    async def watch(self) -> None:
        """Never return: a caller that waits for it learns when this process ends."""
        await asyncio.Event().wait()
