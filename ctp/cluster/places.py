"""Whether what a job reads and writes is where every node of its cluster sees it."""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import PurePath
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from ctp.training.claim import Uris, is_path

UNPACKED = ("runtime_resources", "working_dir_files")
"""Where a node unpacks the working directory of a submitted job, and deletes it after the job."""
ANSWER_SECONDS = 60.0
"""A node that takes longer to answer is not waited for."""


def check_lasting(uri: str, option: str) -> None:
    """Check that what a job writes outlives it.

    Args:
        uri: where it writes.
        option: that says so.

    Raises:
        ValueError: in the copy of the working directory that Ray deletes after the job.
    """
    path = PurePath(os.path.abspath(uri)) if is_path(uri) else PurePath()
    if UNPACKED in zip(path.parts, path.parts[1:], strict=False):
        raise ValueError(
            f"--{option} {uri} lies in the job's working directory, a copy that Ray deletes after "
            f"the job. Give an object store, --{option} s3://bucket/prefix, or the absolute path "
            "of a folder that all nodes share"
        )


def check_seen(uris: Iterable[Uris]) -> None:
    """Check that all nodes that work see the local files and folders among some places.

    Raises:
        ValueError: some do not; names them.
    """
    several = [(uri,) if isinstance(uri, str) else uri for uri in uris]
    paths = sorted({uri for each in several for uri in each if is_path(uri)})
    for path, nodes in _blind(paths).items():
        raise ValueError(
            f"{path} is not seen by {', '.join(nodes)}, where the run would work, too. Give an "
            "object store, s3://bucket/prefix, or the path of a folder that all nodes share"
        )


def _blind(paths: list[str]) -> dict[str, list[str]]:
    """Path -> addresses of the nodes that do not see it."""
    blind: dict[str, list[str]] = {}
    nodes = _other_nodes() if paths else []
    if not nodes:
        return blind
    asked = {_ask(node["NodeID"], paths): node["NodeManagerAddress"] for node in nodes}
    answered, _ = ray.wait([*asked], num_returns=len(asked), timeout=ANSWER_SECONDS)
    for answer in answered:
        with suppress(RayError):  # the node has just left
            for path in ray.get(answer):
                blind.setdefault(path, []).append(asked[answer])
    return blind


def _other_nodes() -> list[dict[str, Any]]:
    """The nodes that work, besides the one of this process."""
    here = ray.get_runtime_context().get_node_id()
    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    return [
        node
        for node in nodes
        if node["Alive"] and node["Resources"].get("CPU") and node["NodeID"] != here
    ]


def _ask(node: str, paths: list[str]) -> Any:
    """Which of some paths a node does not see; to be waited for."""
    there = NodeAffinitySchedulingStrategy(node, soft=False)
    return ray.remote(_missing).options(num_cpus=0, scheduling_strategy=there).remote(paths)


def _missing(paths: list[str]) -> list[str]:
    return [path for path in paths if not os.path.exists(path)]
