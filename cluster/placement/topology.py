"""Topology: which process hosts what, as data; a plan that cannot fit is refused before the start."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from cluster.config.run_config import RunConfig
from leworld.errors import ConfigError


@dataclass(frozen=True)
class Topology:
    """Which process hosts what.

    Attributes:
        shard_ids: one memory shard each.
        copies: of each shard.
        slm_ids: the SLMs of each SLM actor, ascending over all of them.
        learner_cpus: CPUs that each learner holds; actors hold none, for they wait most of the time.
        gpus: that each learner requires.
        learners: at most.
        gateways: that answer over HTTP; a training has none.
    """

    shard_ids: tuple[int, ...]
    slm_ids: tuple[tuple[int, ...], ...]
    copies: int
    learner_cpus: int
    gpus: int = 0
    learners: int = 1
    gateways: int = 0


def plan(config: RunConfig) -> Topology:
    """Spread a system over processes.

    Raises:
        ConfigError: there are more SLM actors than SLMs.
    """
    cluster, num_slms = config.cluster, config.model.num_slms
    if cluster.slm_actors > num_slms:
        raise ConfigError(
            f"cluster.slm_actors {cluster.slm_actors} is above model.num_slms {num_slms}: "
            f"set it to {num_slms} or less, or take more SLMs"
        )
    slm_ids = spread(num_slms, cluster.slm_actors)
    gpus = int(cluster.device == "cuda")
    return Topology(tuple(range(cluster.shards)), slm_ids, cluster.copies, cluster.threads, gpus, cluster.learners)


def spread(num_slms: int, num_actors: int) -> tuple[tuple[int, ...], ...]:
    """Consecutive SLMs to each actor, as even as can be."""
    borders = [num_slms * actor // num_actors for actor in range(num_actors + 1)]
    return tuple(tuple(range(first, end)) for first, end in pairwise(borders))


def check_cpus(topology: Topology, cpus: float, where: str) -> None:
    """Refuse a place with too few CPUs.

    Args:
        topology: what is to run.
        cpus: that are free there.
        where: ``this machine`` or the cluster's address.

    Raises:
        ConfigError: there are too few.
    """
    if cpus < topology.learner_cpus:
        most = f"set cluster.threads to {int(cpus)} or less" if cpus >= 1 else "wait for CPUs or add a machine"
        raise ConfigError(
            f"the learner needs {topology.learner_cpus} CPUs (cluster.threads), {where} has {cpus:g} free: {most}"
        )
