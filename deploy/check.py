"""Check manifests, and the image that they name, for faults that would show only in a cluster.

    python deploy/check.py deploy/shared/aws deploy/overlays/pretrain

kustomize renders each folder; a file is read as it is. Each fault is printed on a line.

* KubeRay's schemas, if `CTP_KUBERAY_SCHEMAS` names a folder with its CRDs
  (`ray.io_rayjobs.yaml.gz`, `ray.io_rayclusters.yaml.gz`);
* `checks/rules.yaml`: what each manifest must have;
* `checks/*.py`: rules that compare several fields, and what the job itself accepts.

`--template` accepts the placeholders of a manifest that is still to be filled in.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import yaml
from checks.cluster import CLUSTER_RULES
from checks.image import image_faults
from checks.job import JOB_RULES
from checks.manifest import PROJECT, RAY_KINDS, Document, Ray, read, shared_documents
from checks.schema import kuberay_schema, rules, schema_faults
from checks.text import text_faults

SCHEMAS = "CTP_KUBERAY_SCHEMAS"


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


def deletion_faults(paths: Mapping[str, Sequence[Document]]) -> Iterator[str]:
    """Yield what `kubectl delete -k` of one overlay would take from another.

    Args:
        paths: the documents of each path.
    """
    shared = {_identity(each): "deploy/shared" for each in shared_documents()}
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
