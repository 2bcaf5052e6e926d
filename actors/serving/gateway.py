"""Gateways: HTTP servers in separate processes on the nodes of their role."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import ray

from actors.errors import LostError
from actors.ray.actor_calls import gather
from actors.ray.node_placement import spread
from actors.serving.http_app import PredictionAPI
from actors.serving.http_server import HTTPServer
from actors.serving.predictor import PredictionService
from actors.training.learner_process import LearnerConfig, LearnerProcess, LearnerState
from actors.training.system_actors import START_PATIENCE, Handles
from leworld.models.system import ModelConfig
from leworld.training.phase_runner import PhasesConfig
from leworld.worlds.base import World


@dataclass(frozen=True)
class ServedSystem:
    """What gateways answer from, and where.

    Attributes:
        model, phases, seed, threads: of the learner that answers.
        handles: of SLMs and memory. The memory must hold already what is to be read.
        state: a reference to the ``LearnerState`` that is served; its memory is not looked at.
        max_failures: how often in a row a part may die.
        host, port: that each gateway binds on its node; those of one node share it.
        tokens: see ``PredictionAPI``.
    """

    model: ModelConfig
    phases: PhasesConfig
    seed: int
    threads: int
    handles: Handles
    state: Any
    max_failures: int
    host: str
    port: int
    tokens: Mapping[str, str] | None


class Gateway:
    """Serves a ``PredictionService`` over HTTP. It holds the BLM. Made remote in ``Gateways``."""

    def __init__(self) -> None:
        self._service: PredictionService | None = None
        self._server: HTTPServer | None = None

    def open(self, served: ServedSystem, shared: bool) -> str:
        """Start the server.

        Args:
            served: what to serve.
            shared: whether other gateways of this node have the same port.

        Returns:
            its URL, with the address by which Ray knows the node.
        """
        world = cast(World, ray.get(served.handles.world))

        def make() -> LearnerProcess:
            # A lost memory is not restored: its writes are not in a checkpoint.
            memory = served.handles.memory(served.handles.memory_name)
            config = LearnerConfig(served.model, served.phases, served.seed, served.threads)
            learner = LearnerProcess(config, world, served.handles.fleet(), memory)
            learner.load_state(cast(LearnerState, ray.get(served.state)), with_memory=False)
            return learner

        if self._server is None:
            self._service = PredictionService(make, served.max_failures)
            self._server = HTTPServer(
                PredictionAPI(self._service, served.tokens), served.host, served.port, shared=shared
            )
        return self._server.url.replace("//0.0.0.0:", f"//{ray.util.get_node_ip_address()}:")

    def events(self, since: int) -> list[str] | None:
        """What died and what was done, without the first ``since`` events; None where the process was started again."""
        return None if self._service is None else self._service.events[since:]


class Gateways:
    """Several of them, on the nodes of their role in turn.

    Attributes:
        urls: where they answer.
    """

    def __init__(self, count: int, served: ServedSystem, timeout_s: float) -> None:
        """Start them and wait until they answer.

        Raises:
            ActorError: a gateway does not start.
            ConfigError: a gateway cannot bind its address.
        """
        make = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(Gateway)
        places = spread("gateway", count, ray.nodes())
        self._actors = {n: make.options(scheduling_strategy=place).remote() for n, place in enumerate(places)}
        self._served, self._shared, self._patience_s = served, count > 1, START_PATIENCE * timeout_s
        self._known = dict.fromkeys(self._actors, 0)
        try:
            self.urls = self._open(list(self._actors))
        except BaseException:
            self.stop()
            raise

    def news(self) -> list[str]:
        """Return what died since the last call; open dead gateways again."""
        found = []
        for number in list(self._actors):
            try:
                found += self._news_of(number)
            except LostError as error:
                found.append(f"gateway {number} {error.problem}; {len(self._actors) - 1} others answer")
                del self._actors[number]
        return found

    def stop(self) -> None:
        """End them."""
        for actor in self._actors.values():
            ray.kill(cast(Any, actor))

    def _news_of(self, number: int) -> list[str]:
        (events,) = gather([self._actors[number].events.remote(self._known[number])], [_name(number)], self._patience_s)
        if events is None:
            self._open([number])
            self._known[number] = 0
            return [f"{_name(number)} died; another one answers there now"]
        self._known[number] += len(events)
        return [f"{_name(number)}: {event}" for event in events]

    def _open(self, numbers: list[int]) -> list[str]:
        asked = [self._actors[number].open.remote(self._served, self._shared) for number in numbers]
        return gather(asked, [_name(number) for number in numbers], self._patience_s)


def _name(number: int) -> str:
    return f"gateway {number}"
