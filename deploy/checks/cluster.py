"""Rules of a RayCluster, or the cluster of a RayJob, that compare several fields."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping

from checks.image import pins
from checks.manifest import GPU, PROJECT, Document, Pod, Ray, quantity, shared_documents

SPOT_TAINTS = {"cloud.google.com/gke-spot", "kubernetes.azure.com/scalesetpriority", "spot"}
SPOT_LABELS = {
    "karpenter.sh/capacity-type": "spot",
    "eks.amazonaws.com/capacityType": "SPOT",
    "cloud.google.com/gke-spot": "true",
    "cloud.google.com/gke-preemptible": "true",
    "kubernetes.azure.com/scalesetpriority": "spot",
}
"""What Karpenter, EKS, GKE and AKS label spot nodes with."""
GPU_VARIABLES = ("NCCL_DEBUG", "NCCL_SOCKET_IFNAME", "TORCH_NCCL_ASYNC_ERROR_HANDLING")
OBJECT_STORE_SHARE = 0.3
"""Share of a pod's memory that Ray takes for objects, in /dev/shm or, if that is full, on disk."""
TOKEN_FOLDER = "/var/run/secrets/kubernetes.io/serviceaccount"
"""Where Ray's autoscaler reads the token, as any process in a pod does."""
DRAIN_VARIABLE, STOP_VARIABLE = "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S", "RAY_JOB_STOP_WAIT_TIME_S"


def is_off_spot(ray: Ray) -> Iterator[str]:
    """Check that head and submitter run on no spot node; taints alone do not keep them off."""
    for pod in (ray.head, *ray.submitters):
        tolerated = {each.get("key") for each in pod.spec.get("tolerations", ())}
        for taint in sorted(tolerated & SPOT_TAINTS):
            yield f"{pod.name}: tolerates {taint}; it may run on a spot node, which is reclaimed"
        for label, value in SPOT_LABELS.items():
            if accepts_node(pod.spec, {label: value}):
                yield (
                    f"{pod.name}: nodeAffinity accepts spot nodes with {label}={value}; require "
                    f'{{key: {label}, operator: NotIn, values: ["{value}"]}}'
                )


def accepts_node(spec: Document, labels: Mapping[str, str]) -> bool:
    """Return whether a pod's node selector and affinity may accept a spot node.

    Args:
        spec: the pod's spec.
        labels: those of the node whose keys are in `SPOT_LABELS`. It may have any other labels, so
            requirements for them keep no spot node off.
    """
    selector = spec.get("nodeSelector", {})
    if any(key in SPOT_LABELS and labels.get(key) != value for key, value in selector.items()):
        return False
    affinity = spec.get("affinity", {}).get("nodeAffinity", {})
    required = affinity.get("requiredDuringSchedulingIgnoredDuringExecution")
    if required is None:
        return True
    # one of the terms must match, with all its expressions; a term without any matches nothing
    terms = [term.get("matchExpressions", ()) for term in required["nodeSelectorTerms"]]
    return any(term and all(_may_match(each, labels) for each in term) for term in terms)


def _may_match(expression: Document, labels: Mapping[str, str]) -> bool:
    value, listed = labels.get(expression["key"]), expression.get("values", ())
    if expression["key"] not in SPOT_LABELS:
        return True
    match expression["operator"]:
        case "In":
            return value in listed
        case "NotIn":
            return value not in listed
        case "Exists":
            return value is not None
        case "DoesNotExist":
            return value is None
        case _:  # Gt, Lt: no such label is a number
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
    shared = shared_documents()
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
    mounts = ray.cluster["autoscalerOptions"].get("volumeMounts", ())
    if not tokens & {each["name"] for each in mounts if each["mountPath"] == TOKEN_FOLDER}:
        yield f"autoscalerOptions: no serviceAccountToken volume of the head at {TOKEN_FOLDER}"
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
