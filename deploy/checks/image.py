"""What is wrong with deploy/Dockerfile and deploy/constraints.txt."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

IMAGE_EXTRAS = ("curate", "mlflow")
"""The extras of pyproject.toml that deploy/install.sh installs."""


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
