"""The versions that files are written with, and reading files of other versions."""

from __future__ import annotations

import json
import os
import subprocess
import tomllib
from collections.abc import Mapping
from functools import lru_cache
from importlib import metadata
from pathlib import Path

FORMAT_VERSION = 1
"""Version of run folders, checkpoints and encoder files. Raise it when older files can no longer be
read, or when older versions of ctp would misread new files."""
COMMIT_VARIABLE = "CTP_COMMIT"
"""Environment variable with the git commit of a package that was built without its repository."""
UNKNOWN = "unknown"
GIT_TIMEOUT_SECONDS = 10.0

_ROOT = Path(__file__).parents[1]


@lru_cache(maxsize=1)
def written_by() -> Mapping[str, str]:
    """Return the versions of this process: "ctp", "torch", "ray", and "commit", the git commit.

    The commit ends in "+changes" if files differ from it; it is "unknown" if ctp was installed
    without git. What is not installed is "unknown", too.
    """
    return {
        "ctp": _own_version(),
        "torch": _installed("torch"),
        "ray": _installed("ray"),
        "commit": _commit(),
    }


def stamp(versions: Mapping[str, str]) -> dict[str, str]:
    """Return the format version and the versions for the metadata of a safetensors file."""
    return {"format_version": str(FORMAT_VERSION), "written_by": json.dumps(dict(versions))}


def check_stamp(metadata: Mapping[str, str], name: str) -> object:
    """Check that this version of ctp can read a safetensors file, given its metadata.

    Returns:
        the versions that it was written by, for `describe_writer`.

    Raises:
        ValueError: it has a later format.
    """
    version = metadata.get("format_version")
    versions = json.loads(metadata.get("written_by", "null"))
    check_format(int(version) if version else None, versions, name)
    return versions


def describe_writer(versions: object) -> str:
    """Return e.g. "ctp 0.1.0 (commit 1a2b3c4), torch 2.9.0, Ray 2.60.0", given what `written_by`
    returned; "an older version of ctp" for anything else."""
    if not isinstance(versions, Mapping) or "ctp" not in versions:
        return "an older version of ctp, which did not record itself"
    known = {name: str(versions.get(name, UNKNOWN)) for name in ("ctp", "torch", "ray")}
    commit = short_commit(versions)
    return "ctp {ctp} (commit {commit}), torch {torch}, Ray {ray}".format(**known, commit=commit)


def short_commit(versions: Mapping[str, object]) -> str:
    """Return the first seven digits of the commit, and "+changes" if files differ from it."""
    commit, plus, changes = str(versions.get("commit", UNKNOWN)).partition("+")
    return f"{commit[:7]}{plus}{changes}"


def check_format(version: object, versions: object, name: str) -> None:
    """Check that this version of ctp can read a file.

    Args:
        version: the format version that the file names; None: it was written before there were any.
        versions: `written_by` of the process that wrote it.
        name: what to call the file in errors.

    Raises:
        ValueError: it has a later format.
    """
    if version is None or (isinstance(version, int) and version <= FORMAT_VERSION):
        return
    raise ValueError(
        f"{name} has format version {version}, and this version of ctp reads up to "
        f"{FORMAT_VERSION}. It was written by {describe_writer(versions)}. Use that version, or a "
        "later one"
    )


def _own_version() -> str:
    """Return the version of the code that runs, which another installed one may be older than."""
    project = _ROOT / "pyproject.toml"
    if project.exists():
        found = tomllib.loads(project.read_text()).get("project", {})
        if found.get("name") == "ctp":
            return str(found.get("version", UNKNOWN))
    return _installed("ctp")


def _installed(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return UNKNOWN


def _commit() -> str:
    # the checkout first: it is the code that runs, whatever was built or installed before
    return _checked_out() or os.environ.get(COMMIT_VARIABLE) or _installed_commit() or UNKNOWN


def _checked_out() -> str:
    """Return the commit of the checkout that this file belongs to, "" if it is none."""
    if not (_ROOT / ".git").exists():
        return ""  # a repository further up is not ctp's: it may hold the virtual environment
    commit = _git("rev-parse", "HEAD")
    changed = _git("status", "--porcelain", "--untracked-files=no")
    return f"{commit}+changes" if commit and changed else commit


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(_ROOT), *arguments]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=GIT_TIMEOUT_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""  # git is not installed, or hangs on a network disk
    return done.stdout.strip() if done.returncode == 0 else ""


def _installed_commit() -> str:
    """Return the commit that pip installed ctp from, "" if it was not from a repository."""
    try:
        text = metadata.distribution("ctp").read_text("direct_url.json")  # PEP 610
    except metadata.PackageNotFoundError:
        return ""
    return str(json.loads(text or "{}").get("vcs_info", {}).get("commit_id", ""))
