"""The system as actors of a Ray cluster, and training by one ``fit()`` of Ray Train with all phases inside."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import count
from typing import Any

import ray
from ray import train
from ray.exceptions import RayActorError
from ray.train import FailureConfig, ScalingConfig
from ray.train import RunConfig as TrainRunConfig
from ray.train.torch import TorchConfig
from ray.train.v2.api.config import LoggingConfig
from ray.train.v2.api.exceptions import TrainingFailedError

from actors.errors import ActorError
from actors.processes import ProcessStat
from actors.ray.metrics import add, export_step
from actors.ray.node_placement import ROLE, has_role
from actors.rpc.calls import RESUME
from actors.training.distributed_group import DistributedGroup
from actors.training.learner_process import LearnerConfig, LearnerProcess
from actors.training.shared_fleet import SharedFleet
from actors.training.system_actors import Handles, launch
from cluster.config.run_config import RunConfig
from cluster.placement.planner import Nodes, place_run
from cluster.placement.topology import Topology
from cluster.raylink.placement_groups import TidyTrainer, remove_groups_of
from cluster.raylink.session import free_of_one_machine, place_name
from cluster.run.devices import Wish, choose_device, torch_gpus
from cluster.run.learner_losses import WAY_OUT, NoteLosses, note_size
from cluster.run.run_dir import RunDir
from cluster.run.training_loop import learn
from leworld.errors import ConfigError, LeWorldError
from leworld.memory import Memory
from leworld.training.data_parallel import ALONE, LearnerGroup
from leworld.training.phase_runner import fleet_config
from leworld.training.slm_training import TrainableFleet
from leworld.worlds.base import World

STORAGE = ".ray"
LOOK_S = 10.0
"""How often it is seen whether there is room for more learners of a group that has not all."""


@dataclass(frozen=True)
class Work:
    """What a learner in a Ray Train worker needs; the world comes by reference; ``device`` is what it was granted."""

    config: RunConfig
    handles: Handles
    world: Any
    run: RunDir
    device: str


class RayRuntime:
    """SLMs and memory in actors; the learner in a worker of Ray Train while it trains."""

    def __init__(self, config: RunConfig, world: World, handles: Handles, learner_device: str) -> None:
        self.config = config
        self.world = world
        self.handles = handles
        self.learner_device = learner_device
        # The machine that starts a run may lack a GPU: evaluation here uses the local device.
        wish = "cpu" if config.cluster.device == "cpu" else "auto"
        self.device = choose_device(wish, torch_gpus(), "torch on this machine")

    def fleet(self) -> TrainableFleet:
        """See ``Runtime``."""
        return self.handles.fleet()

    def memory(self) -> Memory:
        """See ``Runtime``."""
        return self.handles.memory()

    def processes(self) -> list[ProcessStat]:
        """See ``Runtime``."""
        return self.handles.processes()

    def train(self, run: RunDir) -> None:
        """See ``Runtime``."""
        work = Work(self.config, self.handles, ray.put(self.world), run, self.learner_device)
        result = in_background(lambda: fit(work))
        if result is not None:
            raise result


@contextmanager
def launched(config: RunConfig, world: World, topology: Topology) -> Iterator[RayRuntime]:
    """Start the actors, and end them in all cases.

    Raises:
        ConfigError: the learner is to have a GPU, and no machine has a free one; or something cannot fit.
        ActorError: an actor does not start.
    """
    where = place_name(config.cluster.address)
    learner_device = choose_device(config.cluster.device, free_of_one_machine("GPU"), where)
    placement = place_run(config, topology, world.spec, ray.nodes())
    if placement.problems:
        raise ConfigError(placement.problems[0])
    slms = fleet_config(config.model, config.phases, config.seed)
    cluster = config.cluster
    handles = launch(slms, world, len(topology.shard_ids), topology.slm_ids, cluster.timeout_s, copies=topology.copies)
    try:
        yield RayRuntime(config, world, handles, learner_device)
    finally:
        handles.stop()


def fit(work: Work) -> LeWorldError | None:
    """Train in Ray Train workers; lost workers restart from the newest checkpoint.

    Returns:
        the LeWorldError that ended the training, if any.
    """
    for failures in count(1):
        try:
            return fit_once(work)
        except RayActorError as error:
            # Ray Train restarts lost workers, but not its own controller, whose workers end with it.
            if failures > work.config.cluster.max_failures:
                reason = (str(error).strip() or type(error).__name__).splitlines()[0]
                return ActorError("Train controller", f"was lost {failures} times ({reason})", RESUME)
            remove_groups_of(error.actor_id)
            work.run.note_event("Train controller died", WAY_OUT)
    raise AssertionError


def fit_once(work: Work) -> LeWorldError | None:
    """``fit``, under one controller.

    Raises:
        RayActorError: the controller died.
    """
    cluster = work.config.cluster
    trainer = TidyTrainer(
        learner_loop,
        train_loop_config={"work": work},
        # Learners exchange little but gradients, and NCCL, the default beside a GPU, is not in every torch.
        torch_config=TorchConfig(backend="gloo"),
        scaling_config=scaling(cluster.learners, cluster.threads, work.device, ray.nodes()),
        run_config=TrainRunConfig(
            name=STORAGE,
            storage_path=str(work.run.path),
            failure_config=FailureConfig(max_failures=cluster.max_failures),
            logging_config=LoggingConfig("ERROR"),
            callbacks=[NoteLosses(work.run, cluster.learners)],
        ),
    )
    try:
        return trainer.fit().return_value
    except TrainingFailedError as error:
        failures = getattr(error, "worker_failures", {}) or {0: error}
        reason = (str(next(iter(failures.values()))).strip() or type(error).__name__).splitlines()[-1]
        return ActorError("BLM learner", f"was lost {cluster.max_failures + 1} times ({reason})", RESUME)
    finally:
        # Ray Train's own notes; what a run goes on from is in its checkpoints.
        shutil.rmtree(work.run.path / STORAGE, ignore_errors=True)


def scaling(learners: int, threads: int, device: str, nodes: Nodes) -> ScalingConfig:
    """Workers that hold a learner's CPUs, and a GPU if it was granted one, on nodes of their role if there are any.

    That a node has the role is seen when the training starts, so that another one may take a lost one's place.
    """
    return ScalingConfig(
        num_workers=learners if learners == 1 else (1, learners),
        resources_per_worker={"CPU": threads},
        use_gpu=device == "cuda",
        label_selector={ROLE: "learner"} if has_role("learner", nodes) else None,
        elastic_resize_monitor_interval_s=LOOK_S,
    )


def learner_loop(settings: dict[str, Any]) -> LeWorldError | None:
    """Run a learner in a Ray Train worker. It returns LeWorldErrors, because it has already retried here."""
    work: Work = settings["work"]
    group = DistributedGroup() if train.get_context().get_world_size() > 1 else ALONE
    export = partial(export_step, run=work.run.path.name)
    if group.rank == 0:
        note_size(work.run, group.size, work.config.cluster.learners)
    for failures in count(1):
        try:
            learn(_learner(work, group), work.run, work.config, work.handles.processes, train.report, export)
        except ActorError as error:
            if failures > work.config.cluster.max_failures:
                return error
            if group.rank == 0:
                way_out = "goes on from the last checkpoint when all are there"
                work.run.note_event(f"{error.actor} {error.problem}", way_out)
                add("leworld_restarts_total", 1, run=work.run.path.name)
            if group.size > 1:
                # The others wait for this one: Ray Train ends them and starts all again.
                raise
        except LeWorldError as error:
            return error
        else:
            return None
    raise AssertionError


def _learner(work: Work, group: LearnerGroup) -> LearnerProcess:
    """Make a learner and clients of the parts; wait for parts that are restarting."""
    config = work.config
    device = worker_device(config.cluster.device, work.device, torch_gpus())
    learner = LearnerConfig(config.model, config.phases, config.seed, config.cluster.threads, device)
    return LearnerProcess(
        learner,
        ray.get(work.world, timeout=config.cluster.timeout_s),
        _fleet(work, group),
        # Should it be made again, then once for the whole group.
        work.handles.memory(group.share(work.handles.living_memory)),
        group,
    )


def _fleet(work: Work, group: LearnerGroup) -> TrainableFleet:
    """Return the fleet; in a group only the first learner connects to it."""
    if group.size == 1:
        return work.handles.fleet()
    return SharedFleet(group, None if group.rank else work.handles.fleet(), work.config.model.num_slms)


def worker_device(wish: Wish, granted: str, gpus: int) -> str:
    """The device in the worker: Ray may have granted a GPU that the worker's torch was not built for.

    Raises:
        ConfigError: a GPU is wished for and torch sees none.
    """
    return choose_device(wish, gpus, "torch on the learner's machine") if granted == "cuda" else "cpu"


def in_background(function: Callable[[], Any]) -> Any:
    """Run in a thread and wait, for on the main thread Ray Train would take Ctrl-C for itself."""
    outcome: dict[str, Any] = {}

    def run() -> None:
        try:
            outcome["value"] = function()
        except BaseException as error:
            outcome["error"] = error

    thread = threading.Thread(target=run, name="fit", daemon=True)
    thread.start()
    while thread.is_alive():
        # A join without a limit would hold Ctrl-C back on some systems.
        thread.join(timeout=0.2)
    if "error" in outcome:
        raise outcome["error"]
    return outcome["value"]
