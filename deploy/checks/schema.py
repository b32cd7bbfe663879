"""JSON schemas of manifests: KubeRay's own, and ours in `rules.yaml`."""

from __future__ import annotations

import gzip
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml
from jsonschema import Draft202012Validator

from checks.manifest import Document

RULES = Path(__file__).with_name("rules.yaml")


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
