"""Runtime: a system's parts behind one interface, in this process or as actors of a Ray cluster."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from actors.processes import ProcessStat
from actors.training.learner_process import LearnerConfig, LearnerProcess
from cluster.config.run_config import RunConfig, check_world
from cluster.placement.topology import plan
from cluster.raylink.session import ray_session
from cluster.run.devices import choose_device, torch_gpus
from cluster.run.run_dir import RunDir
from cluster.run.training_loop import learn
from leworld.memory import Memory, WordStore
from leworld.training.phase_runner import fleet_config
from leworld.training.slm_training import SLMGroup, TrainableFleet
from leworld.worlds.base import World
from leworld.worlds.registry import build_world


class Runtime(Protocol):
    """A system that runs."""

    config: RunConfig
    world: World
    device: str
    """Of a learner in this process."""

    def fleet(self) -> TrainableFleet:
        """A client of the SLMs."""
        ...

    def memory(self) -> Memory:
        """A client of the memory."""
        ...

    def processes(self) -> list[ProcessStat]:
        """The processes that hold SLMs and memory."""
        ...

    def train(self, run: RunDir) -> None:
        """Train the remaining phases from the newest checkpoint of the run."""
        ...


class InlineRuntime:
    """Everything in this process."""

    def __init__(self, config: RunConfig, world: World) -> None:
        self.config = config
        self.world = world
        self.device = choose_device(config.cluster.device, torch_gpus(), "torch on this machine")
        self._fleet = SLMGroup(fleet_config(config.model, config.phases, config.seed), world)
        self._memory = WordStore(world.spec.address_bits)

    def fleet(self) -> TrainableFleet:
        """See ``Runtime``."""
        return self._fleet

    def memory(self) -> Memory:
        """See ``Runtime``."""
        return self._memory

    def processes(self) -> list[ProcessStat]:
        """See ``Runtime``: no others."""
        return []

    def train(self, run: RunDir) -> None:
        """See ``Runtime``."""
        learn(make_learner(self), run, self.config, self.processes)


@contextmanager
def open_runtime(config: RunConfig) -> Iterator[Runtime]:
    """Start a system, and end it in all cases.

    Raises:
        ConfigError: the config cannot be satisfied.
        ActorError: the cluster or an actor does not start.
    """
    topology = plan(config)
    world = build_world(config.world.name, config.world.settings, config.seed)
    check_world(config, world.spec)
    if config.cluster.mode == "inline":
        yield InlineRuntime(config, world)
        return
    with ray_session(config.cluster.address, topology):
        # Ray reads the environment when it is imported, so the session comes first.
        from cluster.run.ray_runtime import launched

        with launched(config, world, topology) as runtime:
            yield runtime


def make_learner(runtime: Runtime) -> LearnerProcess:
    """Make a learner in this process."""
    config = runtime.config
    learner = LearnerConfig(config.model, config.phases, config.seed, config.cluster.threads, runtime.device)
    return LearnerProcess(learner, runtime.world, runtime.fleet(), runtime.memory())
