"""Check manifests, and the image that they name, for what no schema can say.

    python deploy/check.py deploy/overlays/*

A folder is rendered by kustomize, a file is taken as it is. A line is printed for each fault; with
`CTP_KUBERAY_SCHEMAS`, a folder of KubeRay's CRDs (`ray.io_rayjobs.yaml.gz`, …), what they refuse is
a fault, too.
"""

from __future__ import annotations

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
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from ctp.cluster.connect import DATA_PLUMBING_CPUS, Demand, require, run_demands
from ctp.cluster.sweep import trial_demands
from ctp.sweeps.config import SweepConfig
from ctp.sweeps.plan import Plan
from ctp.training.config import ScalingConfig
from ctp.training.run_folder import Uris, is_local_path

PROJECT = Path(__file__).parents[1]
SCHEMAS = "CTP_KUBERAY_SCHEMAS"
Document = Mapping[str, Any]

MOST_CHARACTERS = {"RayJob": 47, "RayCluster": 53}
"""KubeRay makes names of pods and services from these, and refuses longer ones."""
LABEL = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
OF_A_SHELL = re.compile(r"[\n;&|<>$`'\"\\(){}*?#!~]")
"""What the entrypoint may not hold: the submitter's shell reads it before the head's."""
SECRETS = re.compile(r"AKIA[0-9A-Z]{16}|-----BEGIN [A-Z ]*PRIVATE KEY|://[^/\s:@]+:[^/\s@]+@")
SECRET_NAMES = re.compile(r"KEY|SECRET|TOKEN|PASSWORD|CREDENTIAL", re.IGNORECASE)
SPOT_TAINTS = {"cloud.google.com/gke-spot", "kubernetes.azure.com/scalesetpriority", "spot"}
GPU = "nvidia.com/gpu"
DRAIN_VARIABLE, STOP_VARIABLE = "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S", "RAY_JOB_STOP_WAIT_TIME_S"
QUEUE_LABEL = "kueue.x-k8s.io/queue-name"
MOST_GROUPS_OF_KUEUE = 7
POWERS: Mapping[str, float] = {"m": 1e-3, "": 1, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12} | {
    f"{letter}i": 1024**power for power, letter in enumerate("KMGT", start=1)
}
"""Suffixes of quantities."""


@dataclass(frozen=True)
class Pod:
    """A pod template of a manifest.

    Attributes:
        name: what it is, for messages.
        spec: the pod's.
        group: the group of Ray nodes that it makes; empty for a submitter.
    """

    name: str
    spec: Document
    group: Document

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
        """How much of a resource the container asks for (`requests`) or may take (`limits`)."""
        return quantity(self.container.get("resources", {}).get(kind, {}).get(name, 0))


@dataclass(frozen=True)
class Ray:
    """A RayCluster or a RayJob of a manifest, with all that was rendered along with it."""

    document: Document
    around: Sequence[Document]

    @property
    def is_job(self) -> bool:
        """Whether it is a RayJob."""
        return bool(self.document["kind"] == "RayJob")

    @property
    def name(self) -> str:
        """Its name."""
        return str(self.document["metadata"]["name"])

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
        return Pod("head", group["template"]["spec"], group)

    @property
    def workers(self) -> list[Pod]:
        """The groups of workers."""
        groups = self.cluster.get("workerGroupSpecs", ())
        return [Pod(each["groupName"], each["template"]["spec"], each) for each in groups]

    @property
    def pods(self) -> list[Pod]:
        """All that the manifest names; the autoscaler's container is in the head's pod."""
        template = self.job.get("submitterPodTemplate")
        submitter = [Pod("submitter", template["spec"], {})] if template else []
        return [self.head, *self.workers, *submitter]


def quantity(text: str | int | float) -> float:
    """A Kubernetes quantity as a number: 500m is 0.5, 1Ki is 1024.

    Raises:
        ValueError: it is none.
    """
    found = re.fullmatch(rf"([0-9.]+)({'|'.join(POWERS)})", str(text))
    if not found:
        raise ValueError(f"{text!r} is no quantity; wanted one like 3, 500m or 12Gi")
    return float(found.group(1)) * POWERS[found.group(2)]


@lru_cache
def config_of(entrypoint: str) -> Document:
    """The config that an entrypoint comes to, by the job's own `--print-config`.

    Raises:
        ValueError: a shell would change it, the job is not there, or it refuses an option.
    """
    found = OF_A_SHELL.search(entrypoint)
    if found:
        raise ValueError(f"{found.group()!r} means something to a shell; use `>-`, plain words")
    words = entrypoint.split()
    if words[:1] != ["python"] or not (PROJECT / words[1]).is_file():
        raise ValueError(f"{' '.join(words[:2])!r} is no job; wanted python jobs/NAME.py")
    said, complaints = io.StringIO(), io.StringIO()
    main = runpy.run_path(str(PROJECT / words[1]), run_name=words[1])["main"]
    with redirect_stdout(said), redirect_stderr(complaints):
        try:
            main([*words[2:], "--print-config"])
        except SystemExit as error:
            if error.code:
                raise ValueError(complaints.getvalue().splitlines()[0]) from error
    config: Document = yaml.safe_load(said.getvalue())
    return config


# ---- rules of a cluster --------------------------------------------------------------------------


def name_fits(ray: Ray) -> Iterator[str]:
    """KubeRay refuses long names, and what is no label."""
    most = MOST_CHARACTERS[ray.document["kind"]]
    if len(ray.name) > most:
        yield f"the name has {len(ray.name)} characters; KubeRay takes {most}"
    if not LABEL.fullmatch(ray.name):
        yield f"the name {ray.name!r} must be of a-z, 0-9 and -, and begin with a letter"


def head_computes_nothing(ray: Ray) -> Iterator[str]:
    """Actors on the head would starve the driver; a head on a spot node would lose the run."""
    num_cpus = ray.head.group.get("rayStartParams", {}).get("num-cpus")
    if num_cpus != "0":
        yield f"head: rayStartParams.num-cpus is {num_cpus!r}; wanted '0', the text"
    taints = {each.get("key") for each in ray.head.spec.get("tolerations", ())}
    for taint in sorted(taints & SPOT_TAINTS):
        yield f"head: tolerates {taint}; where spot nodes go, the driver must not be"


def autoscaler_is_v2(ray: Ray) -> Iterator[str]:
    """The second autoscaler knows of nodes that are about to go, and wants new pods for old."""
    if not ray.cluster.get("enableInTreeAutoscaling"):
        return
    version = ray.cluster.get("autoscalerOptions", {}).get("version")
    if version != "v2":
        yield f"autoscalerOptions.version is {version!r}; wanted v2"
    for pod in (ray.head, *ray.workers):
        policy = pod.spec.get("restartPolicy")
        if policy != "Never":
            yield f"{pod.name}: restartPolicy is {policy!r}; autoscaler v2 wants Never"


def replicas_are_in_order(ray: Ray) -> Iterator[str]:
    """minReplicas <= replicas <= maxReplicas."""
    for pod in ray.workers:
        counts = [pod.group[key] for key in ("minReplicas", "replicas", "maxReplicas")]
        if counts != sorted(counts):
            yield f"{pod.name}: wanted minReplicas <= replicas <= maxReplicas, got {counts}"


def resources_are_rays(ray: Ray) -> Iterator[str]:
    """What Ray hands out, which KubeRay takes from the limits, is what Kubernetes reserves."""
    for pod in ray.pods:
        for name in ("cpu", "memory", GPU):
            asked, most = pod.resource(name, "requests"), pod.resource(name)
            if asked != most or (name != GPU and not most):
                yield f"{pod.name}: {name} requests {asked:g} and limits {most:g} must be the same"
    for pod in ray.workers:
        if pod.resource("cpu") % 1:
            yield f"{pod.name}: {pod.resource('cpu'):g} CPUs; Ray counts whole ones"
        for name in sorted({"num-cpus", "num-gpus", "memory"} & set(pod.group["rayStartParams"])):
            yield f"{pod.name}: leave rayStartParams.{name} out; KubeRay takes it from the limits"


def gpus_are_reached(ray: Ray) -> Iterator[str]:
    """GPU nodes are tainted as a rule, and only GPU workers belong there."""
    for pod in ray.pods:
        tolerates = any(each.get("key") == GPU for each in pod.spec.get("tolerations", ()))
        if pod.resource(GPU) and not tolerates:
            yield f"{pod.name}: has a GPU and does not tolerate {GPU}"
        if tolerates and not pod.resource(GPU):
            yield f"{pod.name}: tolerates {GPU} and has no GPU"


def has_time_to_leave(ray: Ray) -> Iterator[str]:
    """Ray's waits end before Kubernetes kills."""
    for pod in (ray.head, *ray.workers):
        grace = pod.spec.get("terminationGracePeriodSeconds", 30)
        for name in (DRAIN_VARIABLE, STOP_VARIABLE):
            wait = float(pod.environment.get(name, {}).get("value", "nan"))
            if not 0 < wait < grace:
                yield (
                    f"{pod.name}: {name} is {wait:g}; wanted more than 0 and less than "
                    f"terminationGracePeriodSeconds, {grace}"
                )


def is_confined(ray: Ray) -> Iterator[str]:
    """Kubernetes' restricted pod security standard, and a token for Ray's own doors."""
    for pod in ray.pods:
        context = pod.spec.get("securityContext", {})
        if not (context.get("runAsNonRoot") and context.get("runAsUser")):
            yield f"{pod.name}: securityContext must have runAsNonRoot true and a runAsUser"
        if context.get("seccompProfile", {}).get("type") != "RuntimeDefault":
            yield f"{pod.name}: securityContext.seccompProfile must be of type RuntimeDefault"
        for container in pod.spec["containers"]:
            yield from _container_is_confined(f"{pod.name}: {container['name']}", container)
    if ray.cluster.get("enableInTreeAutoscaling"):
        yield from _container_is_confined("autoscaler", ray.cluster.get("autoscalerOptions", {}))
    if ray.cluster.get("authOptions", {}).get("mode") != "token":
        yield "authOptions.mode must be token, or who reaches the port runs code"


def _container_is_confined(name: str, container: Document) -> Iterator[str]:
    context = container.get("securityContext", {})
    if context.get("allowPrivilegeEscalation") is not False:
        yield f"{name}: securityContext.allowPrivilegeEscalation must be false"
    if context.get("capabilities", {}).get("drop") != ["ALL"]:
        yield f"{name}: securityContext.capabilities.drop must be [ALL]"


def account_is_there(ray: Ray) -> Iterator[str]:
    """Pods come to S3 through their service account."""
    accounts = {each["metadata"]["name"] for each in ray.around if each["kind"] == "ServiceAccount"}
    for pod in (ray.head, *ray.workers):
        name = pod.spec.get("serviceAccountName")
        if name not in accounts:
            yield f"{pod.name}: there is no ServiceAccount {name!r} along with it"


def images_are_pinned(ray: Ray) -> Iterator[str]:
    """All of one version: Ray refuses nodes of another."""
    tags = {}
    for pod in ray.pods:
        for container in pod.spec["containers"]:
            last = container["image"].rpartition("/")[2]
            tags[pod.name] = last.partition(":")[2]
    for name, tag in tags.items():
        if tag in ("", "latest"):
            yield f"{name}: the image has no tag of its own"
    if len(set(tags.values())) > 1:
        yield f"images are of several tags: {', '.join(map(': '.join, tags.items()))}"


def ray_is_the_images(ray: Ray) -> Iterator[str]:
    """rayVersion tells KubeRay what the image holds."""
    version, pinned = ray.cluster.get("rayVersion"), pins(PROJECT).get("ray")
    if version != pinned:
        yield f"rayVersion is {version}; deploy/constraints.txt puts {pinned} into the image"


# ---- rules of a job ------------------------------------------------------------------------------


def ends(job: Ray) -> Iterator[str]:
    """GPUs are given back."""
    if job.job.get("shutdownAfterJobFinishes") is not True:
        yield "shutdownAfterJobFinishes must be true, or its GPUs stay"
    if not job.job.get("ttlSecondsAfterFinished"):
        yield "ttlSecondsAfterFinished is not set; give some minutes for a look at the end"


def runs(job: Ray) -> Iterator[str]:
    """The job takes the entrypoint, can be retried, and fits its cluster."""
    config = config_of(job.job["entrypoint"])
    yield from _goes_on_by_name(job, config)
    yield from _saves_in_time(job, config)
    if "scaling" in config:
        yield from _reads_from_s3([config.get("data", {}).get("uri", "")])
        yield from _fits(job, ScalingConfig.model_validate(config["scaling"]))
    elif "grid" in config:
        yield from _sweeps(job, SweepConfig.model_validate(config))


def _sweeps(job: Ray, config: SweepConfig) -> Iterator[str]:
    """All trials can be made out, and one fits; how many do, the sweep works out itself."""
    try:
        plan = Plan.from_config(config.replace(storage="/"))  # an object store would be asked
    except ValueError as error:
        yield str(error)
        return
    yield from _reads_from_s3(plan.locations())
    try:
        for phase in trial_demands(plan):
            _require(job, "maxReplicas", phase)
    except ValueError as error:
        yield str(error)


def _reads_from_s3(locations: Iterable[Uris]) -> Iterator[str]:
    """Videos are where every node sees them: nothing is mounted."""
    several = [(uri,) if isinstance(uri, str) else uri for uri in locations]
    for uri in dict.fromkeys(uri for each in several for uri in each if is_local_path(uri)):
        yield f"videos of {uri}: wanted s3://…; no pod has that folder"


def _goes_on_by_name(job: Ray, config: Document) -> Iterator[str]:
    """A retry is another cluster: it finds the run by its name, where all clusters can."""
    if job.job.get("backoffLimit") and not config.get("name"):
        yield "backoffLimit without --name: a retry would start from the beginning"
    storage = config.get("storage", "")
    if not storage.startswith("s3://"):
        yield f"--storage {storage}: wanted s3://…; a pod's disk goes with the pod"


def _saves_in_time(job: Ray, config: Document) -> Iterator[str]:
    """Ray kills a job that is stopped after some seconds, by default 3."""
    needed = config.get("checkpoint", {}).get("grace_seconds", 0)
    wait = float(job.head.environment[STOP_VARIABLE]["value"])
    if needed >= wait:
        yield f"--checkpoint.grace_seconds {needed:g}: {STOP_VARIABLE} of the head is {wait:g}"


def _fits(job: Ray, scaling: ScalingConfig) -> Iterator[str]:
    """The most workers fit the most nodes, the fewest those that are there at the start."""
    most = scaling.replace(min_workers=None)
    for needed, replicas in ((most, "maxReplicas"), (scaling, "replicas")):
        try:
            _require(job, replicas, run_demands(needed))
        except ValueError as error:
            yield str(error)


def _require(job: Ray, replicas: str, demands: Sequence[Demand]) -> None:
    """`require`, of the nodes that a field of the cluster's groups tells."""
    cpus, gpus = (
        sum(pod.resource(name) * pod.group[replicas] for pod in job.workers)
        for name in ("cpu", GPU)
    )
    require(demands, cpus - DATA_PLUMBING_CPUS, gpus, f"the cluster of {replicas}")


def suits_kueue(job: Ray) -> Iterator[str]:
    """What Kueue's own webhook refuses."""
    if QUEUE_LABEL not in job.document["metadata"].get("labels", {}):
        return
    if job.job.get("clusterSelector"):
        yield "Kueue starts no job on a cluster that is there already: leave clusterSelector out"
    if job.cluster.get("enableInTreeAutoscaling"):
        yield "Kueue takes no cluster that scales by itself: set enableInTreeAutoscaling false"
    if len(job.workers) > MOST_GROUPS_OF_KUEUE:
        yield f"{len(job.workers)} groups of workers; Kueue takes {MOST_GROUPS_OF_KUEUE}"
    if any(pod.name == "head" for pod in job.workers):
        yield "a group of workers is called head; Kueue has that name for the head"


Rule = Callable[[Ray], Iterator[str]]
CLUSTER_RULES: tuple[Rule, ...] = (
    name_fits,
    head_computes_nothing,
    autoscaler_is_v2,
    replicas_are_in_order,
    resources_are_rays,
    gpus_are_reached,
    has_time_to_leave,
    is_confined,
    account_is_there,
    images_are_pinned,
    ray_is_the_images,
)
JOB_RULES: tuple[Rule, ...] = (ends, runs, suits_kueue)


# ---- rules of any document, and of the image -----------------------------------------------------


def has_no_secret(document: Document) -> Iterator[str]:
    """Keys are a service account's or a Secret's that is not in a file."""
    if document["kind"] == "Secret":
        yield "a Secret does not belong into a file"
    for path, value in _leaves(document):
        if SECRETS.search(str(value)):
            yield f"{path}: holds what looks like a key or a password"
    for path, name in _leaves(document):
        if path.endswith(".env.name") and SECRET_NAMES.search(str(name)):
            yield f"{path}: {name}: pods get keys through their service account"


def _leaves(node: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """All values of a document, each with the keys that lead to it, without places in lists."""
    if isinstance(node, Mapping):
        for key, value in node.items():
            yield from _leaves(value, f"{path}.{key}")
    elif isinstance(node, list):
        for value in node:
            yield from _leaves(value, path)
    else:
        yield path.removeprefix("."), node


def pins(project: Path) -> dict[str, str]:
    """The versions of deploy/constraints.txt, by name."""
    lines = (project / "deploy" / "constraints.txt").read_text().splitlines()
    return dict(line.split("==") for line in lines if not line.startswith("#"))


def image_faults(project: Path) -> Iterator[str]:
    """What is wrong with deploy/Dockerfile and deploy/constraints.txt."""
    about = tomllib.loads((project / "pyproject.toml").read_text())["project"]
    steps = (project / "deploy" / "Dockerfile").read_text()
    base = re.findall(r"^FROM (\S+)", steps, re.MULTILINE)[-1]
    python = re.match(r"python:(\d+\.\d+\.\d+)\S*@sha256:[0-9a-f]{64}$", base)
    if not python:
        yield f"FROM {base}: wanted python:X.Y.Z-…@sha256:…, pinned by tag and digest"
    elif python.group(1) not in SpecifierSet(about["requires-python"]):
        yield f"FROM {base}: ctp needs Python {about['requires-python']}"
    users = re.findall(r"^USER (\S+)", steps, re.MULTILINE)
    if not users or not re.fullmatch(r"[1-9]\d*(:[1-9]\d*)?", users[-1]):
        yield f"USER {users[-1:]}: wanted the number of a user that is not root"
    yield from _pin_faults(about["dependencies"], pins(project))


def _pin_faults(dependencies: Sequence[str], versions: Mapping[str, str]) -> Iterator[str]:
    for wanted in map(Requirement, dependencies):
        version = versions.get(canonicalize_name(wanted.name))
        if version is None:
            yield f"deploy/constraints.txt: {wanted.name} is not pinned"
        elif version not in wanted.specifier:
            yield f"deploy/constraints.txt: {wanted.name} {version}; pyproject.toml wants {wanted}"


# ---- schemas -------------------------------------------------------------------------------------


def schema_faults(document: Document, schemas: Path) -> Iterator[str]:
    """What KubeRay's schema of a RayJob or RayCluster refuses, unknown fields included."""
    # it comes with Ray; who has no schemas needs none
    from jsonschema import Draft202012Validator  # type: ignore[import-untyped]

    validator = Draft202012Validator(schema(document["kind"], schemas))
    for error in validator.iter_errors(document):
        yield f"{'.'.join(map(str, error.absolute_path))}: {error.message[:200]}"


@lru_cache
def schema(kind: str, schemas: Path) -> Document:
    """The JSON schema of a kind at version v1, closed: the API server drops what it does not know.

    Raises:
        FileNotFoundError: it is not in the folder.
    """
    with gzip.open(schemas / f"ray.io_{kind.lower()}s.yaml.gz") as file:
        versions = yaml.load(file, yaml.CSafeLoader)["spec"]["versions"]
    found = next(each for each in versions if each["name"] == "v1")
    closed: Document = _closed(found["schema"]["openAPIV3Schema"])
    return closed


def _closed(node: Any) -> Any:
    """A schema that refuses fields that it does not name."""
    if isinstance(node, list):
        return [_closed(each) for each in node]
    if not isinstance(node, dict):
        return node
    closed = {key: _closed(value) for key, value in node.items()}
    if isinstance(node.get("properties"), dict) and "additionalProperties" not in node:
        closed["additionalProperties"] = bool(node.get("x-kubernetes-preserve-unknown-fields"))
    return closed


# ---- the command ---------------------------------------------------------------------------------


def render(path: Path) -> list[Document]:
    """The documents of a folder, by kustomize, or of a file.

    Raises:
        ValueError: it cannot be rendered.
    """
    if path.is_file():
        return [each for each in yaml.safe_load_all(path.read_text()) if each]
    done = subprocess.run([*kustomize(), str(path)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise ValueError(f"{path}: {done.stderr.strip()}")
    return [each for each in yaml.safe_load_all(done.stdout) if each]


def kustomize() -> list[str]:
    """The command that renders a folder.

    Raises:
        ValueError: there is none on this machine.
    """
    for command in (["kustomize", "build"], ["kubectl", "kustomize"]):
        if shutil.which(command[0]):
            return command
    raise ValueError("neither kustomize nor kubectl is on the PATH; install one of them")


def faults(documents: Sequence[Document], schemas: Path | None = None) -> Iterator[str]:
    """What is wrong with the documents of a manifest, each fault a line."""
    for document in documents:
        name = f"{document['kind']}/{document['metadata']['name']}"
        for fault in _document_faults(document, documents, schemas):
            yield f"{name}: {fault}"


def _document_faults(
    document: Document, around: Sequence[Document], schemas: Path | None
) -> Iterator[str]:
    yield from has_no_secret(document)
    if document["kind"] not in MOST_CHARACTERS:
        return
    if schemas:
        refused = list(schema_faults(document, schemas))
        yield from refused
        if refused:
            return  # the rules rely on the schema
    ray = Ray(document, around)
    for rule in (*CLUSTER_RULES, *(JOB_RULES if ray.is_job else ())):
        try:
            yield from rule(ray)
        except KeyError as error:
            yield f"{rule.__name__}: there is no {error}"
        except ValueError as error:
            yield f"{rule.__name__}: {error}"


def main(argv: Sequence[str]) -> None:
    """Check the image and the manifests that are named; tell each fault."""
    schemas = Path(os.environ[SCHEMAS]) if SCHEMAS in os.environ else None
    found = [f"image: {fault}" for fault in image_faults(PROJECT)]
    for name in argv:
        try:
            found += [f"{name}: {fault}" for fault in faults(render(Path(name)), schemas)]
        except ValueError as error:
            found.append(str(error))
    print("\n".join(found) or f"{len(argv)} manifest(s) and the image: no fault")
    if not schemas:
        print(f"KubeRay's schemas were not asked: {SCHEMAS} is not set", file=sys.stderr)
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main(sys.argv[1:])
