"""The versions that are recorded, and the refusal of files of later ones."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import pytest

from ctp.versions import FORMAT_VERSION, check_format, describe_writer, short_commit, written_by

MODULE = Path(sys.modules[written_by.__module__].__file__ or "")
PRINT_COMMIT = "from ctp.versions import written_by; print(written_by()['commit'])"
Commit = Callable[..., str]


@pytest.fixture
def commit_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Commit:
    """`commit_of(folder)`: the commit that a copy of the package in a folder records."""
    monkeypatch.delenv("CTP_COMMIT", raising=False)

    def find(folder: Path, **environment: str) -> str:
        package = folder / "ctp"
        package.mkdir(parents=True, exist_ok=True)
        (package / "__init__.py").touch()
        shutil.copy(MODULE, package)
        command = [sys.executable, "-c", PRINT_COMMIT]
        paths = {"PYTHONPATH": str(folder), "PATH": "/usr/bin:/bin", **environment}
        paths["PYTHONDONTWRITEBYTECODE"] = "1"  # a rewritten .pyc would be a change
        done = subprocess.run(
            command, env=paths, cwd=folder, capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    return find


def git(folder: Path, *arguments: str) -> str:
    user = ("-c", "user.name=a", "-c", "user.email=a@b")
    command = ["git", "-C", str(folder), *user, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def test_versions_are_those_installed() -> None:
    found = written_by()
    assert found["torch"] == metadata.version("torch")
    assert found["ray"] == metadata.version("ray")
    assert re.fullmatch(r"\d+\.\d+\.\d+", found["ctp"])
    assert found["ctp"] in describe_writer(found)
    assert found["commit"].startswith(short_commit(found).partition("+")[0])
    assert f"(commit {short_commit(found)})" in describe_writer(found)
    assert short_commit({"commit": "1a2b3c4d5e6f+changes"}) == "1a2b3c4+changes"
    assert short_commit({}) == "unknown"


def test_the_commit_is_that_of_the_checkout(tmp_path: Path, commit_of: Commit) -> None:
    commit_of(tmp_path)  # copies the package
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "add", "ctp")
    git(tmp_path, "commit", "--quiet", "-m", "first")
    head = git(tmp_path, "rev-parse", "HEAD")
    assert commit_of(tmp_path) == head
    assert commit_of(tmp_path, CTP_COMMIT="of the image") == head
    (tmp_path / "ctp" / "__init__.py").write_text("changed = True\n")
    assert commit_of(tmp_path) == f"{head}+changes"


def test_a_package_without_git_says_so_or_takes_the_commit_it_was_built_from(
    tmp_path: Path, commit_of: Commit
) -> None:
    # a repository further up is another project's
    git(tmp_path, "init", "--quiet")
    folder = tmp_path / "venv" / "site-packages"
    assert commit_of(folder) == "unknown"
    assert commit_of(folder, CTP_COMMIT="1a2b3c4") == "1a2b3c4"


def test_pip_records_the_commit_that_it_installed(tmp_path: Path, commit_of: Commit) -> None:
    about = tmp_path / "ctp-0.1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: ctp\nVersion: 0.1.0\n")
    (about / "direct_url.json").write_text(
        '{"url": "https://host/ctp.git", "vcs_info": {"vcs": "git", "commit_id": "5e6f7a8"}}'
    )
    assert commit_of(tmp_path) == "5e6f7a8"


def test_a_later_format_is_refused_with_the_version_that_wrote_it() -> None:
    check_format(None, None, "config.yaml")
    check_format(FORMAT_VERSION, written_by(), "config.yaml")
    writer = {"ctp": "9.1.0", "commit": "abc1234", "torch": "9.0", "ray": "9.2"}
    with pytest.raises(ValueError, match=r"config.yaml has .* 99.*ctp 9\.1\.0 \(commit abc1234\)"):
        check_format(99, writer, "config.yaml")
    with pytest.raises(ValueError, match="older version"):
        check_format(99, None, "config.yaml")
