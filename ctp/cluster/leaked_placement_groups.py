"""Removing placement groups of actors that have died.

Ray keeps the resources that an actor has reserved until the whole job ends, though nothing can use
them once the actor is dead. Ray Train has a cleaner, but it asks the State API, which does not run
everywhere, and misses groups that were made just before their actor died.
"""

from __future__ import annotations

import ray
from ray._private.state import state  # nothing public says who created a placement group
from ray.core.generated.gcs_pb2 import PlacementGroupTableData  # type: ignore[attr-defined]
from ray.util.placement_group import PlacementGroup, remove_placement_group


def remove_leaked_placement_groups() -> int:
    """Remove the placement groups of this job's dead actors; return how many there were."""
    own_job = ray.get_runtime_context().get_job_id()
    leaked = [
        group.placement_group_id
        for group in map(PlacementGroupTableData.FromString, _table())
        if not group.is_detached
        and group.creator_job_id.hex() == own_job
        and group.state != PlacementGroupTableData.REMOVED
        and _is_dead(ray.ActorID(group.creator_actor_id))
    ]
    for group_id in leaked:
        remove_placement_group(PlacementGroup(ray.PlacementGroupID(group_id)))
    return len(leaked)


def _table() -> list[bytes]:
    table: list[bytes] = state._connect_and_get_accessor().get_placement_group_table()
    return table


def _is_dead(actor: ray.ActorID) -> bool:
    """Return whether an actor is dead. The nil id is that of the driver, which is alive.

    A group's own `creator_actor_dead` is set when the actor dies. It stays False in a group that
    the actor's process, which ends a moment later, asks for after that.
    """
    if actor.is_nil():
        return False
    # Ray forgets dead ones
    return bool(state.actor_table(actor.hex()).get("State", "DEAD") == "DEAD")
