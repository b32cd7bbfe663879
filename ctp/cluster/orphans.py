"""What processes that died leave behind of a cluster's resources.

Ray keeps what an actor has set aside (a placement group) until the whole job ends, though nobody
can use it once the actor is dead. Ray Train has a cleaner of its own, but it asks the State API,
which does not run everywhere, and knows nothing of a group that was made a moment ago.
"""

from __future__ import annotations

import ray
from ray._private.state import state  # nothing public tells who made a placement group
from ray.core.generated.gcs_pb2 import PlacementGroupTableData  # type: ignore[attr-defined]
from ray.util.placement_group import PlacementGroup, remove_placement_group


def free_orphans() -> int:
    """Free what dead actors of this job had set aside.

    Returns:
        How many groups that were.
    """
    own_job = ray.get_runtime_context().get_job_id()
    found = [
        group.placement_group_id
        for group in map(PlacementGroupTableData.FromString, _table())
        if not ray.ActorID(group.creator_actor_id).is_nil()  # nil for those that the driver made
        and group.creator_actor_dead
        and not group.is_detached
        and group.creator_job_id.hex() == own_job
        and group.state != PlacementGroupTableData.REMOVED
    ]
    for group_id in found:
        remove_placement_group(PlacementGroup(ray.PlacementGroupID(group_id)))
    return len(found)


def _table() -> list[bytes]:
    table: list[bytes] = state._connect_and_get_accessor().get_placement_group_table()
    return table
