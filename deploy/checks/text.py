"""Keys, passwords and placeholders in a document."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from checks.manifest import Document

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
"""A placeholder for a value of the user. `123456789012` is the account in AWS's manuals."""


def text_faults(document: Document, *, is_template: bool) -> Iterator[str]:
    """Yield keys, passwords and placeholders in a document.

    A key belongs into a Secret that is not in a file, to which `secretKeyRef` refers, or to the
    role of a service account.
    """
    if document["kind"] == "Secret":
        yield "do not write a Secret into a file; create it by kubectl create secret"
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
