"""The steps that build the image, run outside of an image."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PROJECT = Path(__file__).parents[2]


def step(
    name: str, project: Path, python: Path, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run a step of deploy/install.sh of `project` with another `python`, in a folder with jobs."""
    environment = os.environ | {"PATH": f"{python.parent}:{os.environ['PATH']}"} | variables
    environment.pop("PYTHONPATH", None)
    return subprocess.run(
        [project / "deploy" / "install.sh", name],
        cwd=python.parents[2],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Return a copy of the files that the image is built from."""
    for name in ("ctp", "jobs", "deploy"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(PROJECT / name, tmp_path / "src" / name, ignore=ignored)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(PROJECT / name, tmp_path / "src")
    return tmp_path / "src"


@pytest.fixture
def python(tmp_path: Path) -> Path:
    """Return the python of a new environment, in a folder with the jobs.

    It finds the packages of this environment, which are those of the image without ctp.
    """
    app = tmp_path / "app"
    environment = app / "environment"
    # pip and setuptools come from this environment, too
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True)
    lent = sysconfig.get_path("purelib", vars={"base": str(environment)})
    (Path(lent) / "lent.pth").write_text(sysconfig.get_path("purelib"))
    shutil.copytree(PROJECT / "jobs", app / "jobs")
    return environment / "bin" / "python"


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("aiohttp_cors") is None,
    reason="the extra ray[default], which the image has, is not installed",
)
def test_the_steps_of_the_image_work(source: Path, python: Path) -> None:
    # packages of this environment are not installed again; other versions are only looked up
    planned = step("dependencies", source, python, PIP_DRY_RUN="1")
    assert planned.returncode == 0, planned.stderr
    installed = step("ctp", source, python, PIP_NO_BUILD_ISOLATION="0", PIP_NO_INDEX="1")
    assert installed.returncode == 0, installed.stderr
    asked = [python, "-P", "-c", "import ctp; print(ctp.__file__)"]  # not from this folder
    where = subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()
    assert Path(where).is_relative_to(python.parents[1])
    checked = step("check", source, python)
    assert checked.returncode == 0, checked.stdout + checked.stderr


@pytest.fixture
def cpu_index(tmp_path: Path) -> Path:
    """A package index of torch and torchvision without CUDA and of nothing else, like PyTorch's."""
    for name in ("torch", "torchvision"):
        wheel = f"{name}-{pinned()[name]}+cpu-py3-none-any.whl"
        folder, info = tmp_path / "index" / name, f"{name}-{pinned()[name]}+cpu.dist-info"
        folder.mkdir(parents=True)
        with zipfile.ZipFile(folder / wheel, "w") as file:
            file.writestr(f"{name}/__init__.py", "")
            file.writestr(
                f"{info}/METADATA",
                f"Metadata-Version: 2.1\nName: {name}\nVersion: {pinned()[name]}+cpu\n"
                # what the index lacks
                "Requires-Dist: numpy\n",
            )
            file.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
            file.writestr(f"{info}/RECORD", "")
        (folder / "index.html").write_text(f'<a href="{wheel.replace("+", "%2B")}">{wheel}</a>')
    return tmp_path / "index"


@pytest.mark.slow
def test_the_cpu_image_keeps_torch_without_cuda(
    source: Path, python: Path, cpu_index: Path
) -> None:
    # the torch that is lent has CUDA, and is not to be there
    first = step("torch", source, python, TORCH_INDEX=cpu_index.as_uri(), PIP_IGNORE_INSTALLED="1")
    assert first.returncode == 0, first.stderr
    planned = step("dependencies", source, python, PIP_DRY_RUN="1")
    assert planned.returncode == 0, planned.stderr
    listed = [python, "-m", "pip", "list", "--format=freeze"]
    installed = subprocess.run(listed, capture_output=True, text=True, check=True).stdout.split()
    for name in ("torch", "torchvision"):
        assert f"{name}=={pinned()[name]}+cpu" in installed
        assert f" {name}-" not in planned.stdout.partition("Would install")[2]


def test_without_an_index_torch_is_left_to_the_dependencies(source: Path) -> None:
    done = step("torch", source, Path(sys.executable))
    assert (done.returncode, done.stdout) == (0, "")


def test_an_unknown_step_is_refused(source: Path) -> None:
    done = step("dependecies", source, Path(sys.executable))
    assert (done.returncode, done.stderr) == (
        2,
        "error: no step 'dependecies'; there are torch, dependencies, ctp, check\n",
    )


def test_what_pinned_packages_need_is_pinned() -> None:
    """Followed through those that are installed here at the version that is pinned."""
    versions = pinned()
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    extra = project["optional-dependencies"]["mlflow"]
    left = [Requirement(each) for each in (*project["dependencies"], *extra, "ray[default]")]
    seen, floating = set(), set()
    while left:
        wanted = left.pop()
        name = canonicalize_name(wanted.name)
        if (name, *sorted(wanted.extras)) in seen:
            continue
        seen.add((name, *sorted(wanted.extras)))
        if name not in versions:
            floating.add(name)
        elif version_here(name) == versions[name]:
            left += needs(name, wanted.extras)
    assert floating == set()
    assert len(seen) > len(project["dependencies"])


def pinned() -> dict[str, str]:
    """Return the versions of deploy/constraints.txt, by name."""
    text = (PROJECT / "deploy" / "constraints.txt").read_text()
    return dict(line.split("==") for line in text.splitlines() if not line.startswith("#"))


def version_here(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def needs(name: str, extras: set[str]) -> list[Requirement]:
    """Return the requirements of a package with these extras on this machine."""
    asked = map(Requirement, requires(name) or [])
    return [
        each
        for each in asked
        if each.marker is None
        or any(each.marker.evaluate({"extra": extra}) for extra in {"", *extras})
    ]
