"""Manifests: how to read them, and what a RayCluster or RayJob consists of."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

PROJECT = Path(__file__).parents[2]
SHARED = PROJECT / "deploy" / "shared" / "base"
Document = Mapping[str, Any]
RAY_KINDS = ("RayJob", "RayCluster")
GPU = "nvidia.com/gpu"
POWERS: Mapping[str, float] = {"m": 1e-3, "": 1, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12} | {
    f"{letter}i": 1024**power for power, letter in enumerate("KMGT", start=1)
}
"""Suffixes of quantities."""


def read(path: Path) -> list[Document]:
    """Return the documents of a file, or of the files of a folder, as they are."""
    files = [path] if path.is_file() else sorted(path.glob("*.yaml"))
    found = [each for file in files for each in yaml.safe_load_all(file.read_text()) if each]
    return [each for each in found if each["kind"] not in ("Kustomization", "Component")]


@lru_cache
def shared_documents() -> Sequence[Document]:
    """Return what all overlays share, without the roles of a cloud."""
    return read(SHARED)


@dataclass(frozen=True)
class Pod:
    """A pod template of a manifest.

    Attributes:
        name: of the group of Ray nodes, or "submitter".
        template: the pod's metadata and spec.
        group: the group of Ray nodes that it belongs to; empty for a submitter.
    """

    name: str
    template: Document
    group: Document

    @property
    def spec(self) -> Document:
        """The pod's spec."""
        spec: Document = self.template["spec"]
        return spec

    @property
    def container(self) -> Document:
        """The container that Ray runs in: KubeRay takes the first."""
        first: Document = self.spec["containers"][0]
        return first

    @property
    def environment(self) -> dict[str, Document]:
        """The container's variables by name."""
        return {each["name"]: each for each in self.container.get("env", ())}

    def resource(self, name: str, kind: str = "limits") -> float:
        """Return how much of a resource the container asks for (`requests`) or gets (`limits`)."""
        return quantity(self.container.get("resources", {}).get(kind, {}).get(name, 0))


@dataclass(frozen=True)
class Ray:
    """A RayCluster or a RayJob."""

    document: Document

    @property
    def is_job(self) -> bool:
        """Whether it is a RayJob."""
        return bool(self.document["kind"] == "RayJob")

    @property
    def job(self) -> Document:
        """The spec of the RayJob."""
        spec: Document = self.document["spec"]
        return spec

    @property
    def cluster(self) -> Document:
        """The spec of the cluster."""
        cluster: Document = self.job["rayClusterSpec"] if self.is_job else self.document["spec"]
        return cluster

    @property
    def head(self) -> Pod:
        """The head."""
        group = self.cluster["headGroupSpec"]
        return Pod("head", group["template"], group)

    @property
    def workers(self) -> list[Pod]:
        """The groups of workers."""
        groups = self.cluster.get("workerGroupSpecs", ())
        return [Pod(each["groupName"], each["template"], each) for each in groups]

    @property
    def submitters(self) -> list[Pod]:
        """The submitter of a RayJob."""
        template = self.job.get("submitterPodTemplate")
        return [Pod("submitter", template, {})] if template else []

    @property
    def pods(self) -> list[Pod]:
        """All pods; the autoscaler is a container of the head."""
        return [self.head, *self.workers, *self.submitters]


def quantity(text: str | int | float) -> float:
    """Return a Kubernetes quantity as a number: 500m is 0.5, 1Ki is 1024.

    Raises:
        ValueError: it is none.
    """
    found = re.fullmatch(rf"([0-9.]+)({'|'.join(POWERS)})", str(text))
    if not found:
        raise ValueError(f"{text!r} is no quantity; expected one like 3, 500m or 12Gi")
    return float(found.group(1)) * POWERS[found.group(2)]
