"""One learner of a group: ``python -m tests.actors.training.group_process RANK SIZE RENDEZVOUS OUT CHANGES...``."""

import sys
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

from actors.training.distributed_group import DistributedGroup
from actors.training.shared_fleet import SharedFleet
from leworld.rng import generator
from leworld.training.slm_training import SLMGroup
from tests.actors.training.systems import run, small


def main(rank: int, size: int, rendezvous: str, out: str, *changes: str) -> None:
    dist.init_process_group(
        "gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=size, timeout=timedelta(seconds=60)
    )
    system, group = small(*changes), DistributedGroup()
    fleet = SharedFleet(group, None if rank else SLMGroup(system.slms, system.world), system.config.model.num_slms)
    learner = system.learner(fleet, group=group)
    if rank:
        # Whoever joins late has other weights, until it is told.
        with torch.no_grad():
            for parameter in learner.runner.train_state.blm.parameters():
                parameter.add_(torch.rand(parameter.shape, generator=generator(rank)))
    learner.align()
    if rank == 0:
        metrics, state = run(learner)
        torch.save((metrics, state), Path(out))
    else:
        losses = [progress.metrics for progress in learner.steps()]
        torch.save((losses, learner.runner.train_state.state()), Path(f"{out}.{rank}"))
    assert [stat.name for stat in learner.processes()] == [f"BLM learner {each}" for each in range(size)]
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:])
