"""Frees the placement groups of a Ray Train controller that died."""

from __future__ import annotations

import ray
from ray._private.state import state
from ray.core.generated.gcs_pb2 import PlacementGroupTableData  # pyright: ignore[reportAttributeAccessIssue]
from ray.train.torch import TorchTrainer
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2.api.callback import RayTrainCallback
from ray.util import remove_placement_group
from ray.util.placement_group import PlacementGroup


class TidyTrainer(TorchTrainer):
    """Ray Train without the detached actor that frees the placement groups of dead controllers.

    It asks the dashboard who died. Where there is none it gives nothing back, and stays, a process of 200 MB, as long
    as the cluster runs. What a driver that dies leaves behind, Ray takes back with its job.
    """

    def _create_default_callbacks(self) -> list[RayTrainCallback]:
        callbacks = super()._create_default_callbacks()
        return [each for each in callbacks if not isinstance(each, PlacementGroupCleanerCallback)]


def remove_groups_of(actor_id: str | None) -> None:
    """Remove the placement groups that an actor made, as it is gone.

    They hold their CPUs until the job ends. Who made a group is nowhere in Ray's public API.

    Args:
        actor_id: hexadecimal; None where Ray did not say who died, and nothing is removed.
    """
    accessor = state._connect_and_get_accessor()
    for raw in accessor.get_placement_group_table():
        group = PlacementGroupTableData.FromString(raw)
        if group.creator_actor_id.hex() == actor_id and group.state != PlacementGroupTableData.REMOVED:
            remove_placement_group(PlacementGroup(ray.PlacementGroupID(group.placement_group_id)))
