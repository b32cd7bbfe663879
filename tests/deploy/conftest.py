"""Fixtures: the checker of deploy/, and tools that may not be installed."""

from __future__ import annotations

import importlib
import os
from pathlib import Path
from typing import Any

import pytest

DEPLOY = Path(__file__).parents[2] / "deploy"


@pytest.fixture(scope="session")
def check() -> Any:
    """The module deploy/check.py, which imports its parts as a script does: from its folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(DEPLOY)
        return importlib.import_module("check")


@pytest.fixture(scope="session")
def schemas() -> Path:
    """Return the folder of KubeRay's CRDs."""
    folder = os.environ.get("CTP_KUBERAY_SCHEMAS")
    if folder is None:
        pytest.skip("CTP_KUBERAY_SCHEMAS names no folder of KubeRay's ray.io_rayjobs.yaml.gz, …")
    return Path(folder)


@pytest.fixture(scope="session")
def can_render(check: Any) -> None:
    """Skip the test if kustomize is not installed."""
    try:
        check.kustomize()
    except ValueError as error:
        pytest.skip(str(error))
