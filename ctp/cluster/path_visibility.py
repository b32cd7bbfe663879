"""Checks that every node of a cluster sees the files that a job reads and writes."""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import PurePath
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from ctp.data.listing import fixed_part
from ctp.training.run_folder import Uris, is_local_path

UNPACKED = ("runtime_resources", "working_dir_files")
"""Where a node unpacks the working directory of a submitted job, and deletes it after the job."""
ANSWER_SECONDS = 60.0
"""Time limit for the answer of a node; later answers are ignored."""


def check_lasting(uri: str, option: str) -> None:
    """Check that the output of a job is kept after the job.

    Args:
        uri: location of the output.
        option: name of the option that sets it.

    Raises:
        ValueError: it is in the copy of the working directory, which Ray deletes after the job.
    """
    path = PurePath(os.path.abspath(uri)) if is_local_path(uri) else PurePath()
    if UNPACKED in zip(path.parts, path.parts[1:], strict=False):
        raise ValueError(
            f"--{option} {uri} lies in the job's working directory, a copy that Ray deletes after "
            f"the job. Give an object store, --{option} s3://bucket/prefix, or the absolute path "
            "of a folder that all nodes share"
        )


def check_seen(uris: Iterable[Uris]) -> None:
    """Check that all nodes see local files and folders; other locations are not checked.

    For a pattern, such as `clips/*.mp4`, the folder that contains it is checked.

    Raises:
        ValueError: a node does not see one; names both.
    """
    several = [(uri,) if isinstance(uri, str) else uri for uri in uris]
    paths = sorted({fixed_part(uri) for each in several for uri in each if is_local_path(uri)})
    for path, nodes in _missing_on(paths).items():
        raise ValueError(
            f"{path} does not exist on {', '.join(nodes)}, where parts of the run would be. Give "
            "an object store, s3://bucket/prefix, or the path of a folder that all nodes share"
        )


def _missing_on(paths: list[str]) -> dict[str, list[str]]:
    """Return the addresses of the nodes where a path is missing, by path."""
    missing: dict[str, list[str]] = {}
    nodes = _other_nodes() if paths else []
    if not nodes:
        return missing
    asked = {_ask(node["NodeID"], paths): node["NodeManagerAddress"] for node in nodes}
    answered, _ = ray.wait([*asked], num_returns=len(asked), timeout=ANSWER_SECONDS)
    for answer in answered:
        with suppress(RayError):  # the node has just left
            for path in ray.get(answer):
                missing.setdefault(path, []).append(asked[answer])
    return missing


def _other_nodes() -> list[dict[str, Any]]:
    """Return the nodes with CPUs, except the one of this process."""
    here = ray.get_runtime_context().get_node_id()
    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    return [
        node
        for node in nodes
        if node["Alive"] and node["Resources"].get("CPU") and node["NodeID"] != here
    ]


def _ask(node: str, paths: list[str]) -> Any:
    """Start a task that returns which paths a node does not see."""
    there = NodeAffinitySchedulingStrategy(node, soft=False)
    return ray.remote(_missing).options(num_cpus=0, scheduling_strategy=there).remote(paths)


def _missing(paths: list[str]) -> list[str]:
    return [path for path in paths if not os.path.exists(path)]
