"""Check manifests, and the image that they name, for faults that would show only in a cluster.

    python deploy/check.py deploy/shared/aws deploy/overlays/pretrain

kustomize renders each folder; a file is read as it is. Each fault is printed on a line.

* KubeRay's schemas, if `CTP_KUBERAY_SCHEMAS` names a folder with its CRDs
  (`ray.io_rayjobs.yaml.gz`, `ray.io_rayclusters.yaml.gz`);
* `rules.yaml`: what each manifest must have;
* the rules in this file, which compare several fields.

`--template` accepts the placeholders of a manifest that is still to be filled in.
"""

from __future__ import annotations

import argparse
import gzip
import io
import os
import re
import runpy
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from ctp.cluster.connect import DATA_PLUMBING_CPUS, Demand, require, run_demands
from ctp.cluster.sweep import trial_demands
from ctp.sweeps.config import SweepConfig
from ctp.sweeps.plan import Plan
from ctp.training.config import ScalingConfig
from ctp.training.run_folder import Uris

PROJECT = Path(__file__).parents[1]
SHARED = PROJECT / "deploy" / "shared" / "base"
RULES = PROJECT / "deploy" / "rules.yaml"
SCHEMAS = "CTP_KUBERAY_SCHEMAS"
Document = Mapping[str, Any]

RAY_KINDS = ("RayJob", "RayCluster")
SHELL_CHARACTERS = re.compile(r"[\n;&|<>$`'\"\\(){}*?#!~]")
"""What the entrypoint may not contain: the submitter's shell reads it before the head's."""
OBJECT_STORE = re.compile(r"(s3|gs)://")
REMOTE = re.compile(r"(s3|gs|https?)://|databricks")
KEYS = re.compile(
    r"AKIA[0-9A-Z]{16}|-----BEGIN [A-Z ]*PRIVATE KEY"
    r"|[?&](access_key|secret_key|session_token|password|token)="
)
USER_IN_URI = re.compile(r"://[^/\s@]+@")
KEY_NAMES = re.compile(r"KEY|SECRET|TOKEN|PASSWORD|CREDENTIAL", re.IGNORECASE)
PLACEHOLDER = re.compile(
    r"<[^<>]*>|\$\{|\{\{|\byour-[a-z]+|(?i:\b(replace|change|fill)[-_ ]?(me|this|in)\b)"
    r"|(?i:\b(todo|fixme|tbd|placeholder)\b)|\bexample\.(com|org|net)\b|\.example\b|\b123456789012\b"
    r"|\bXX+\b|(?<=://)[A-Z_]+\b|\b(REGISTRY|BUCKET|PROJECT(_ID)?|ACCOUNT(_ID)?|ROLE)\b"
)
"""A value that stands for one of the user's own. `123456789012` is the account of AWS's manuals."""
SPOT_TAINTS = {"cloud.google.com/gke-spot", "kubernetes.azure.com/scalesetpriority", "spot"}
SPOT_LABELS = {
    "karpenter.sh/capacity-type": "spot",
    "eks.amazonaws.com/capacityType": "SPOT",
    "cloud.google.com/gke-spot": "true",
    "cloud.google.com/gke-preemptible": "true",
    "kubernetes.azure.com/scalesetpriority": "spot",
}
"""What Karpenter, EKS, GKE and AKS label spot nodes with."""
GPU = "nvidia.com/gpu"
GPU_VARIABLES = ("NCCL_DEBUG", "NCCL_SOCKET_IFNAME", "TORCH_NCCL_ASYNC_ERROR_HANDLING")
OBJECT_STORE_SHARE = 0.3
"""Share of a pod's memory that Ray takes for objects, in /dev/shm or, if that is full, on disk."""
DRAIN_VARIABLE, STOP_VARIABLE = "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S", "RAY_JOB_STOP_WAIT_TIME_S"
QUEUE_LABEL = "kueue.x-k8s.io/queue-name"
MAX_KUEUE_GROUPS = 7
IMAGE_EXTRAS = ("mlflow",)
"""The extras of pyproject.toml that deploy/install.sh installs."""
POWERS: Mapping[str, float] = {"m": 1e-3, "": 1, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12} | {
    f"{letter}i": 1024**power for power, letter in enumerate("KMGT", start=1)
}
"""Suffixes of quantities."""


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


# ---- rules of a cluster --------------------------------------------------------------------------


def is_off_spot(ray: Ray) -> Iterator[str]:
    """Check that head and submitter run on no spot node; taints alone do not keep them off."""
    for pod in (ray.head, *ray.submitters):
        tolerated = {each.get("key") for each in pod.spec.get("tolerations", ())}
        for taint in sorted(tolerated & SPOT_TAINTS):
            yield f"{pod.name}: tolerates {taint}; a spot node may leave with it"
        for label, value in SPOT_LABELS.items():
            if accepts_node(pod.spec, {label: value}):
                yield (
                    f"{pod.name}: nodeAffinity accepts spot nodes with {label}={value}; require "
                    f'{{key: {label}, operator: NotIn, values: ["{value}"]}}'
                )


def accepts_node(spec: Document, labels: Mapping[str, str]) -> bool:
    """Return whether a pod's node selector and affinity accept a node with these labels only."""
    if any(labels.get(key) != value for key, value in spec.get("nodeSelector", {}).items()):
        return False
    affinity = spec.get("affinity", {}).get("nodeAffinity", {})
    required = affinity.get("requiredDuringSchedulingIgnoredDuringExecution")
    if required is None:
        return True
    # one of the terms must match, with all its expressions
    return any(
        all(_matches(each, labels) for each in term.get("matchExpressions", ()))
        for term in required["nodeSelectorTerms"]
    )


def _matches(expression: Document, labels: Mapping[str, str]) -> bool:
    value, listed = labels.get(expression["key"]), expression.get("values", ())
    match expression["operator"]:
        case "In":
            return value in listed
        case "NotIn":
            return value not in listed
        case "Exists":
            return value is not None
        case "DoesNotExist":
            return value is None
        case _:  # Gt, Lt: no label of a spot node is a number
            return False


def replicas_are_in_order(ray: Ray) -> Iterator[str]:
    """Check that minReplicas <= replicas <= maxReplicas."""
    for pod in ray.workers:
        counts = [pod.group[key] for key in ("minReplicas", "replicas", "maxReplicas")]
        if counts != sorted(counts):
            yield f"{pod.name}: expected minReplicas <= replicas <= maxReplicas, got {counts}"


def resources_are_reserved(ray: Ray) -> Iterator[str]:
    """Check that Kubernetes reserves what Ray uses: the limits."""
    for pod in ray.pods:
        for name in ("cpu", "memory", "ephemeral-storage", GPU):
            asked, limit = pod.resource(name, "requests"), pod.resource(name)
            if asked != limit or (name != GPU and not limit):
                yield f"{pod.name}: {name} requests {asked:g} and limits {limit:g} must be the same"
    for pod in ray.workers:
        if pod.resource("cpu") % 1:
            yield f"{pod.name}: {pod.resource('cpu'):g} CPUs; Ray counts whole ones"


def shared_memory_fits(ray: Ray) -> Iterator[str]:
    """Check /dev/shm, which Ray's object store and NCCL share; it is part of the pod's memory."""
    for pod in (ray.head, *ray.workers):
        mounts = {each["mountPath"]: each["name"] for each in pod.container.get("volumeMounts", ())}
        volumes = {each["name"]: each for each in pod.spec.get("volumes", ())}
        volume = volumes.get(mounts.get("/dev/shm", ""), {}).get("emptyDir", {})
        size, memory = quantity(volume.get("sizeLimit", 0)), pod.resource("memory")
        if volume.get("medium") != "Memory" or not OBJECT_STORE_SHARE * memory <= size < memory:
            yield (
                f"{pod.name}: expected an emptyDir at /dev/shm with medium Memory and a sizeLimit "
                f"of {OBJECT_STORE_SHARE:.0%} of the memory ({memory / 2**30:g}Gi) or more, but "
                f"not all; got {size / 2**30:g}Gi, medium {volume.get('medium')}"
            )


def gpus_are_reached(ray: Ray) -> Iterator[str]:
    """Check that GPU workers, and no others, go to GPU nodes, and that NCCL is set up there."""
    for pod in ray.pods:
        tolerates = any(each.get("key") == GPU for each in pod.spec.get("tolerations", ()))
        if pod.resource(GPU) and not tolerates:
            yield f"{pod.name}: has a GPU and does not tolerate {GPU}"
        if tolerates and not pod.resource(GPU):
            yield f"{pod.name}: tolerates {GPU} and has no GPU"
        if pod.resource(GPU):
            for name in GPU_VARIABLES:
                if name not in pod.environment:
                    yield f"{pod.name}: has a GPU and no variable {name}; see base/raycluster.yaml"


def has_time_to_leave(ray: Ray) -> Iterator[str]:
    """Check that Ray stops waiting before Kubernetes kills the pod."""
    for pod in (ray.head, *ray.workers):
        grace = pod.spec.get("terminationGracePeriodSeconds", 30)
        for name in (DRAIN_VARIABLE, STOP_VARIABLE):
            wait = float(pod.environment.get(name, {}).get("value", "nan"))
            if not 0 < wait < grace:
                yield (
                    f"{pod.name}: {name} is {wait:g}; expected more than 0 and less than "
                    f"terminationGracePeriodSeconds, {grace}"
                )


def uses_what_is_shared(ray: Ray) -> Iterator[str]:
    """Check accounts, priority classes and network policies against those of deploy/shared."""
    shared = read(SHARED)
    for pod in ray.pods:
        for kind, field in (
            ("ServiceAccount", "serviceAccountName"),
            ("PriorityClass", "priorityClassName"),
        ):
            name = pod.spec.get(field)
            known = [each["metadata"]["name"] for each in shared if each["kind"] == kind]
            # the submitter needs no account: it talks to the head only
            if name not in known and not (name is None and pod.name == "submitter"):
                yield f"{pod.name}: {field} is {name!r}; deploy/shared has {', '.join(known)}"
        if not any(_selects(each, pod) for each in shared if each["kind"] == "NetworkPolicy"):
            yield (
                f"{pod.name}: no NetworkPolicy of deploy/shared selects its labels; anyone in the "
                "Kubernetes cluster can reach it. Add app.kubernetes.io/part-of: ctp"
            )


def _selects(policy: Document, pod: Pod) -> bool:
    wanted = policy["spec"]["podSelector"].get("matchLabels", {})
    labels = pod.template.get("metadata", {}).get("labels", {})
    return bool(wanted.items() <= labels.items())


def decoders_have_own_account(ray: Ray) -> Iterator[str]:
    """Check that a video that takes over a decoder does not get the rights of the driver."""
    for pod in ray.workers:
        account = pod.spec.get("serviceAccountName")
        if not pod.resource(GPU) and account == ray.head.spec.get("serviceAccountName"):
            yield f"{pod.name}: has the head's ServiceAccount {account!r}; expected ctp-decode"


def autoscaler_has_token(ray: Ray) -> Iterator[str]:
    """Check that the autoscaler's container, and no other, mounts a token of Kubernetes."""
    if not ray.cluster.get("enableInTreeAutoscaling"):
        return
    tokens = {
        volume["name"]
        for volume in ray.head.spec.get("volumes", ())
        for source in volume.get("projected", {}).get("sources", ())
        if "serviceAccountToken" in source
    }
    mounted = {each["name"] for each in ray.cluster["autoscalerOptions"].get("volumeMounts", ())}
    if not tokens & mounted:
        yield "autoscalerOptions: mounts no serviceAccountToken volume of the head; it needs one"
    for container in ray.head.spec["containers"]:
        if tokens & {each["name"] for each in container.get("volumeMounts", ())}:
            yield f"head: {container['name']} mounts the autoscaler's token"


def images_are_pinned(ray: Ray) -> Iterator[str]:
    """Check that images have equal tags, or digests: Ray refuses nodes of another version."""
    tags = {}
    for pod in ray.pods:
        for container in pod.spec["containers"]:
            name, _, digest = container["image"].partition("@")
            tag = name.rpartition("/")[2].partition(":")[2]
            if digest:
                if not re.fullmatch(r"sha256:[0-9a-f]{64}", digest):
                    yield f"{pod.name}: the digest {digest!r} is not sha256: and 64 hex digits"
            elif tag in ("", "latest"):
                yield f"{pod.name}: the image {container['image']!r} has no digest and no tag"
            else:
                tags[pod.name] = tag
    if len(set(tags.values())) > 1:
        yield f"images have several tags: {', '.join(map(': '.join, tags.items()))}"


def ray_version_is_the_images(ray: Ray) -> Iterator[str]:
    """Check that rayVersion, which tells KubeRay what the image contains, is true."""
    version, pinned = ray.cluster.get("rayVersion"), pins(PROJECT).get("ray")
    if version != pinned:
        yield f"rayVersion is {version}; deploy/constraints.txt puts {pinned} into the image"


# ---- rules of a job ------------------------------------------------------------------------------


def deadlines_are_in_order(job: Ray) -> Iterator[str]:
    """Check the deadlines: the time to start is part of the time of an attempt."""
    start, whole = job.job["preRunningDeadlineSeconds"], job.job["activeDeadlineSeconds"]
    if start >= whole:
        yield f"preRunningDeadlineSeconds {start} must be less than activeDeadlineSeconds {whole}"


def runs(job: Ray) -> Iterator[str]:
    """Check that the job accepts the entrypoint, can be retried, and fits its cluster."""
    config = config_of(job.job["entrypoint"])
    yield from _resumes_by_name(job, config)
    yield from _saves_in_time(job, config)
    if "scaling" in config:
        yield from _reads_from_object_store([config.get("data", {}).get("uri", "")])
        yield from _fits(job, ScalingConfig.model_validate(config["scaling"]))
    elif "grid" in config:
        yield from _sweeps(job, SweepConfig.model_validate(config))


@lru_cache
def config_of(entrypoint: str) -> Document:
    """Return the config of an entrypoint, by the job's own `--print-config`.

    Raises:
        ValueError: a shell would change it, there is no such job, or it refuses an option.
    """
    found = SHELL_CHARACTERS.search(entrypoint)
    if found:
        raise ValueError(f"{found.group()!r} means something to a shell; use `>-`, plain words")
    words = entrypoint.split()
    if words[:1] != ["python"] or not (PROJECT / words[1]).is_file():
        raise ValueError(f"{' '.join(words[:2])!r} is no job; expected python jobs/NAME.py")
    output, errors = io.StringIO(), io.StringIO()
    main = runpy.run_path(str(PROJECT / words[1]), run_name=words[1])["main"]
    with redirect_stdout(output), redirect_stderr(errors):
        try:
            main([*words[2:], "--print-config"])
        except SystemExit as error:
            if error.code:
                raise ValueError(errors.getvalue().splitlines()[0]) from error
    config: Document = yaml.safe_load(output.getvalue())
    return config


def _sweeps(job: Ray, config: SweepConfig) -> Iterator[str]:
    """Check that all trials can be planned, and that one fits; the sweep computes how many do."""
    try:
        plan = Plan.from_config(config.replace(storage="/"))  # an object store would be asked
    except ValueError as error:
        yield str(error)
        return
    yield from _reads_from_object_store(plan.locations())
    try:
        for phase in trial_demands(plan):
            _require(job, "maxReplicas", phase)
    except ValueError as error:
        yield str(error)


def _reads_from_object_store(locations: Iterable[Uris]) -> Iterator[str]:
    """Check that videos are where every node sees them: nothing is mounted."""
    several = [(uri,) if isinstance(uri, str) else uri for uri in locations]
    for uri in dict.fromkeys(uri for each in several for uri in each):
        if uri and not OBJECT_STORE.match(uri) and not uri.startswith("corpus:"):
            yield f"videos of {uri}: expected s3://… or gs://…; no pod has that folder"


def _resumes_by_name(job: Ray, config: Document) -> Iterator[str]:
    """Check that another cluster finds the run by its name, where all clusters can."""
    if job.job.get("backoffLimit") and not config.get("name"):
        yield "backoffLimit without --name: a retry would start from the beginning"
    for name in ("storage", "mlflow_uri"):
        uri = config.get(name)
        if uri and not REMOTE.match(uri):
            yield f"--{name} {uri}: expected a URI like s3://…; a pod's disk goes with the pod"


def _saves_in_time(job: Ray, config: Document) -> Iterator[str]:
    """Check the time to save: Ray kills a job that is stopped after some seconds, by default 3."""
    needed = config.get("checkpoint", {}).get("grace_seconds", 0)
    wait = float(job.head.environment[STOP_VARIABLE]["value"])
    if needed >= wait:
        yield f"--checkpoint.grace_seconds {needed:g}: {STOP_VARIABLE} of the head is {wait:g}"


def _fits(job: Ray, scaling: ScalingConfig) -> Iterator[str]:
    """Check that all workers fit the largest cluster, and the fewest that at the start."""
    largest = scaling.replace(min_workers=None)
    for needed, replicas in ((largest, "maxReplicas"), (scaling, "replicas")):
        try:
            _require(job, replicas, run_demands(needed))
        except ValueError as error:
            yield str(error)


def _require(job: Ray, replicas: str, demands: Sequence[Demand]) -> None:
    """Call `require` for the nodes in the field `replicas` of the groups."""
    cpus, gpus = (
        sum(pod.resource(name) * pod.group[replicas] for pod in job.workers)
        for name in ("cpu", GPU)
    )
    require(demands, cpus - DATA_PLUMBING_CPUS, gpus, f"the cluster of {replicas}")


def suits_kueue(job: Ray) -> Iterator[str]:
    """Check what Kueue's own webhook refuses."""
    if QUEUE_LABEL not in job.document["metadata"].get("labels", {}):
        return
    if job.job.get("clusterSelector"):
        yield "Kueue starts no job on an existing cluster: leave clusterSelector out"
    if job.cluster.get("enableInTreeAutoscaling"):
        yield "Kueue takes no cluster that scales by itself: set enableInTreeAutoscaling false"
    if len(job.workers) > MAX_KUEUE_GROUPS:
        yield f"{len(job.workers)} groups of workers; Kueue takes {MAX_KUEUE_GROUPS}"
    if any(pod.name == "head" for pod in job.workers):
        yield "a group of workers is called head; Kueue has that name for the head"


Rule = Callable[[Ray], Iterator[str]]
CLUSTER_RULES: tuple[Rule, ...] = (
    is_off_spot,
    replicas_are_in_order,
    resources_are_reserved,
    shared_memory_fits,
    gpus_are_reached,
    has_time_to_leave,
    uses_what_is_shared,
    decoders_have_own_account,
    autoscaler_has_token,
    images_are_pinned,
    ray_version_is_the_images,
)
JOB_RULES: tuple[Rule, ...] = (deadlines_are_in_order, runs, suits_kueue)


# ---- rules of any document, and of the image -----------------------------------------------------


def text_faults(document: Document, *, is_template: bool) -> Iterator[str]:
    """Yield keys, passwords and placeholders in a document.

    A key belongs into a Secret that is not in a file, to which `secretKeyRef` refers, or to the
    role of a service account.
    """
    if document["kind"] == "Secret":
        yield "a Secret does not belong into a file; create it by kubectl create secret"
    for path, value in _leaves(document):
        text = str(value)
        if KEYS.search(text) or USER_IN_URI.search(text):
            yield f"{path}: contains what looks like a key, a password or a user name in a URI"
        found = PLACEHOLDER.search(text)
        if found and not is_template and not path.endswith("description"):
            yield f"{path}: fill in your own value for {found.group()!r} in {text[:80]!r}"
    for path, name, value in _variables(document):
        # a path to a mounted file is no key
        if KEY_NAMES.search(name) and value is not None and not str(value).startswith("/"):
            yield f"{path}: {name} has its value in the file; use valueFrom.secretKeyRef or a role"


def _leaves(node: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield all values of a document with the keys that lead to them, without places in lists."""
    if isinstance(node, Mapping):
        for key, value in node.items():
            yield from _leaves(value, f"{path}.{key}")
    elif isinstance(node, list):
        for value in node:
            yield from _leaves(value, path)
    else:
        yield path.removeprefix("."), node


def _variables(node: Any, path: str = "") -> Iterator[tuple[str, str, Any]]:
    """Yield path, name and value of each environment variable; None if it has no literal value."""
    if isinstance(node, Mapping):
        for each in node.get("env") or ():
            yield f"{path}.env".removeprefix("."), each["name"], each.get("value")
        for key, value in node.items():
            yield from _variables(value, f"{path}.{key}")
    elif isinstance(node, list):
        for value in node:
            yield from _variables(value, path)


def deletion_faults(paths: Mapping[str, Sequence[Document]]) -> Iterator[str]:
    """Yield what `kubectl delete -k` of one overlay would take from another.

    Args:
        paths: the documents of each path.
    """
    shared = {_identity(each): "deploy/shared" for each in read(SHARED)}
    owners: dict[tuple[str, ...], str] = {}
    for path, documents in paths.items():
        if not any(each["kind"] in RAY_KINDS for each in documents):
            continue  # it is deploy/shared, or the like
        for document in documents:
            kind, _, name = identity = _identity(document)
            owner = shared.get(identity) or owners.setdefault(identity, path)
            if owner != path:
                yield f"{path}: {kind}/{name} is also in {owner}, which would lose it with this one"
            elif kind in ("ServiceAccount", "PriorityClass", "Namespace"):
                yield f"{path}: {kind}/{name} may be used by others; move it to deploy/shared"


def _identity(document: Document) -> tuple[str, str, str]:
    metadata = document["metadata"]
    return document["kind"], metadata.get("namespace", ""), metadata["name"]


def pins(project: Path) -> dict[str, str]:
    """Return the versions of deploy/constraints.txt, by name."""
    lines = (project / "deploy" / "constraints.txt").read_text().splitlines()
    return dict(line.split("==") for line in lines if not line.startswith("#"))


def image_faults(project: Path) -> Iterator[str]:
    """Yield what is wrong with deploy/Dockerfile and deploy/constraints.txt."""
    about = tomllib.loads((project / "pyproject.toml").read_text())["project"]
    steps = (project / "deploy" / "Dockerfile").read_text()
    base = re.findall(r"^FROM (\S+)", steps, re.MULTILINE)[-1]
    python = re.match(r"python:(\d+\.\d+\.\d+)\S*@sha256:[0-9a-f]{64}$", base)
    if not python:
        yield f"FROM {base}: expected python:X.Y.Z-…@sha256:…, pinned by tag and digest"
    elif python.group(1) not in SpecifierSet(about["requires-python"]):
        yield f"FROM {base}: ctp needs Python {about['requires-python']}"
    users = re.findall(r"^USER (\S+)", steps, re.MULTILINE)
    if not users or not re.fullmatch(r"[1-9]\d*(:[1-9]\d*)?", users[-1]):
        yield f"USER {users[-1:]}: expected the number of a user that is not root"
    extras = (each for name in IMAGE_EXTRAS for each in about["optional-dependencies"][name])
    yield from _pin_faults([*about["dependencies"], *extras], pins(project))


def _pin_faults(dependencies: Sequence[str], versions: Mapping[str, str]) -> Iterator[str]:
    for wanted in map(Requirement, dependencies):
        version = versions.get(canonicalize_name(wanted.name))
        if version is None:
            yield f"deploy/constraints.txt: {wanted.name} is not pinned"
        elif version not in wanted.specifier:
            yield f"deploy/constraints.txt: {wanted.name} {version}; pyproject.toml wants {wanted}"


# ---- schemas -------------------------------------------------------------------------------------


def schema_faults(document: Document, schema: Document) -> Iterator[str]:
    """Yield what a JSON schema refuses, with the description of the part that refuses it."""
    for error in Draft202012Validator(schema).iter_errors(document):
        message = error.message if len(error.message) < 200 else f"{error.message[:200]}…"
        yield f"{'.'.join(map(str, error.absolute_path))}: {message}{_reason(error, schema)}"


def _reason(error: Any, schema: Document) -> str:
    """Return the innermost description on the way to the part of a schema that refuses."""
    node, found = schema, ""
    for key in error.absolute_schema_path:
        node = node[key]
        if isinstance(node, Mapping) and "$ref" in node and "$defs" in schema:
            node = {**schema["$defs"][node["$ref"].rpartition("/")[2]], **node}
        if isinstance(node, Mapping) and isinstance(node.get("description"), str):
            found = f" ({node['description']})"
    return found


@lru_cache
def rules(kind: str) -> Document:
    """Return the schema of `rules.yaml` for a kind."""
    found = yaml.safe_load(RULES.read_text())
    schema: Document = {"$defs": found["$defs"], **found[kind]}
    return schema


@lru_cache
def kuberay_schema(kind: str, schemas: Path) -> Document:
    """Return KubeRay's schema of a kind, closed: the API server drops what it does not know.

    Raises:
        FileNotFoundError: it is not in the folder.
    """
    with gzip.open(schemas / f"ray.io_{kind.lower()}s.yaml.gz") as file:
        versions = yaml.load(file, yaml.CSafeLoader)["spec"]["versions"]
    found = next(each for each in versions if each["name"] == "v1")
    closed: Document = _closed(found["schema"]["openAPIV3Schema"])
    return closed


def _closed(node: Any) -> Any:
    """Return a schema that refuses fields that it does not name."""
    if isinstance(node, list):
        return [_closed(each) for each in node]
    if not isinstance(node, dict):
        return node
    closed = {key: _closed(value) for key, value in node.items()}
    if isinstance(node.get("properties"), dict) and "additionalProperties" not in node:
        closed["additionalProperties"] = bool(node.get("x-kubernetes-preserve-unknown-fields"))
    return closed


# ---- the command ---------------------------------------------------------------------------------


def read(path: Path) -> list[Document]:
    """Return the documents of a file, or of the files of a folder, as they are."""
    files = [path] if path.is_file() else sorted(path.glob("*.yaml"))
    found = [each for file in files for each in yaml.safe_load_all(file.read_text()) if each]
    return [each for each in found if each["kind"] not in ("Kustomization", "Component")]


def render(path: Path) -> list[Document]:
    """Return the documents of a folder, by kustomize, or of a file.

    Raises:
        ValueError: it cannot be rendered.
    """
    if path.is_file():
        return read(path)
    done = subprocess.run([*kustomize(), str(path)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise ValueError(f"{path}: {done.stderr.strip()}")
    return [each for each in yaml.safe_load_all(done.stdout) if each]


def kustomize() -> list[str]:
    """Return the command that renders a folder.

    Raises:
        ValueError: there is none on this machine.
    """
    for command in (["kustomize", "build"], ["kubectl", "kustomize"]):
        if shutil.which(command[0]):
            return command
    raise ValueError("neither kustomize nor kubectl is on the PATH; install one of them")


def faults(
    documents: Sequence[Document], schemas: Path | None = None, *, is_template: bool = False
) -> Iterator[str]:
    """Yield what is wrong with the documents of a manifest, each fault a line.

    Args:
        documents: the documents.
        schemas: the folder of KubeRay's CRDs.
        is_template: whether placeholders are accepted.
    """
    for document in documents:
        name = f"{document['kind']}/{document['metadata']['name']}"
        found = [
            *text_faults(document, is_template=is_template),
            *(_ray_faults(Ray(document), schemas) if document["kind"] in RAY_KINDS else ()),
        ]
        for fault in dict.fromkeys(found):
            yield f"{name}: {fault}"


def _ray_faults(ray: Ray, schemas: Path | None) -> Iterator[str]:
    kind = ray.document["kind"]
    if schemas:
        refused = list(schema_faults(ray.document, kuberay_schema(kind, schemas)))
        yield from refused
        if refused:
            return  # the rules rely on the schema
    yield from schema_faults(ray.document, rules(kind))
    for rule in (*CLUSTER_RULES, *(JOB_RULES if ray.is_job else ())):
        try:
            yield from rule(ray)
        except KeyError as error:
            yield f"{rule.__name__}: there is no {error}"
        except ValueError as error:
            yield f"{rule.__name__}: {error}"


def main(argv: Sequence[str]) -> None:
    """Check the image and the manifests at the given paths; print each fault."""
    parser = argparse.ArgumentParser(description="Check manifests of ctp and its image.")
    parser.add_argument("--template", action="store_true", help="accept placeholders")
    parser.add_argument("paths", nargs="+", help="folders for kustomize, or files")
    options = parser.parse_args(argv)
    schemas = Path(os.environ[SCHEMAS]) if SCHEMAS in os.environ else None
    found = [f"image: {fault}" for fault in image_faults(PROJECT)]
    documents: dict[str, list[Document]] = {}
    for path in options.paths:
        try:
            documents[path] = render(Path(path))
        except ValueError as error:
            found.append(str(error))
            continue
        own = faults(documents[path], schemas, is_template=options.template)
        found += [f"{path}: {fault}" for fault in own]
    found += deletion_faults(documents)
    print("\n".join(found) or f"{len(options.paths)} manifest(s) and the image: no fault")
    if not schemas:
        print(f"KubeRay's schemas were not checked: {SCHEMAS} is not set", file=sys.stderr)
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main(sys.argv[1:])
