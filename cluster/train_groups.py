"""Room that a Ray Train controller took, given back where the controller died."""

from __future__ import annotations

import ray
from ray._private.state import state
from ray.core.generated.gcs_pb2 import PlacementGroupTableData  # pyright: ignore[reportAttributeAccessIssue]
from ray.util import remove_placement_group
from ray.util.placement_group import PlacementGroup


def remove_groups_of(actor_id: str | None) -> None:
    """Remove the placement groups that an actor made, as it is gone.

    They hold their CPUs until the job ends: Ray's own cleaner asks the dashboard who died, which not every cluster has.
    Who made a group is nowhere in Ray's public API.

    Args:
        actor_id: hexadecimal; None where Ray did not say who died, and nothing is removed.
    """
    accessor = state._connect_and_get_accessor()
    for raw in accessor.get_placement_group_table():
        group = PlacementGroupTableData.FromString(raw)
        if group.creator_actor_id.hex() == actor_id and group.state != PlacementGroupTableData.REMOVED:
            remove_placement_group(PlacementGroup(ray.PlacementGroupID(group.placement_group_id)))
