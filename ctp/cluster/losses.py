"""The record of the processes that died on videos, as an actor that outlives the others."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Any

import ray
from ray.core.generated import common_pb2
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from ctp.data.journal import Death, Journal, LossRecord, Machine, Standing
from ctp.data.quarantine import QuarantinedVideo

REASON: Any = common_pb2.NodeDeathInfo  # type: ignore[attr-defined]  # its stubs lack it
UNEXPECTED = {REASON.UNSPECIFIED, REASON.UNEXPECTED_TERMINATION}
"""Reasons of a node's death that may be a container without memory."""
RESTART_ALWAYS = {"max_restarts": -1, "max_task_retries": -1}
"""Options of an actor that is restarted, with its calls, as long as its node exists."""


def keep_losses(known: Iterable[QuarantinedVideo] = ()) -> Any:
    """Return a new actor with a `LossRecord`, on the node of this process.

    Args:
        known: quarantined videos; those that have ended processes are not tried.
    """
    options = {"num_cpus": 0, "scheduling_strategy": on_this_node(), **RESTART_ALWAYS}
    return ray.remote(LossRecord).options(**options).remote(list(known), states_of_nodes)


def on_this_node() -> NodeAffinitySchedulingStrategy:
    """Return the node of this process; an actor on it exists as long as the process."""
    here = ray.get_runtime_context().get_node_id()
    return NodeAffinitySchedulingStrategy(here, soft=False)


def open_journal(losses: Any, max_seconds_per_video: float, *, slow: bool = False) -> Journal:
    """Return the `Journal` of this actor's process.

    Args:
        losses: from `keep_losses`.
        max_seconds_per_video: the process ends when it works longer on a video.
        slow: whether videos take so long (100 ms) that each can be named to the record.
    """
    actor = ray.get_runtime_context().get_actor_id()
    assert actor is not None, "only an actor is replaced when it dies"
    return Journal(_RemoteRecord(losses, actor), actor, max_seconds_per_video, slow=slow)


def states_of_nodes(nodes: Collection[str]) -> dict[str, Machine]:
    """Return the states of nodes.

    A container that is ended for lack of memory and a machine that fails look alike.
    """
    known = {each["NodeID"]: each for each in ray.nodes()}  # type: ignore[no-untyped-call]
    return {node: _state(known.get(node)) for node in nodes}


def _state(node: dict[str, Any] | None) -> Machine:
    if node is not None and node["Alive"]:
        return Machine.ALIVE
    return Machine.LOST if node is None or node["DeathReason"] in UNEXPECTED else Machine.LEFT


class _RemoteRecord:
    """The record, as one actor calls it."""

    def __init__(self, losses: Any, actor: str):
        self._losses, self._actor = losses, actor

    def start(self, process: str, deaths: Sequence[Death]) -> str:
        node = ray.get_runtime_context().get_node_id()
        error: str = ray.get(self._losses.start.remote(self._actor, process, node, deaths))
        return error

    def begin_task(self, videos: Sequence[str]) -> Standing:
        standing: Standing = ray.get(self._losses.begin_task.remote(self._actor, videos))
        return standing

    def end_task(self) -> None:
        self._losses.end_task.remote(self._actor)

    def name(self, video: str, limit: float) -> None:
        self._losses.name.remote(self._actor, video, limit)

    def grant(self, video: str, limit: float) -> bool:
        granted: bool = ray.get(self._losses.grant.remote(self._actor, video, limit))
        return granted

    def release(self, video: str) -> None:
        self._losses.release.remote(self._actor, video)
