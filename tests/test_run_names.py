"""A run is found by its name, its folder or a file in it, on a disk and on an S3 server."""

from __future__ import annotations

from pathlib import Path

import pytest

from ctp.run_names import MAX_LISTED, find_run_folder
from ctp.storage import Storage


@pytest.fixture(params=["local", "s3"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    if request.param == "local":
        return Storage.from_uri(tmp_path / "my runs")
    return Storage.from_uri(f"{request.getfixturevalue('s3_bucket')}/my runs")


@pytest.fixture
def run(storage: Storage) -> Storage:
    folder = storage.join("a-run")
    for name in ("config.yaml", "encoder.safetensors"):
        folder.join(name).write_bytes(b"x")
    storage.join("no-run", "notes.txt").write_bytes(b"x")
    storage.join("sweep", "runs", "trial", "config.yaml").write_bytes(b"x")
    return folder


def test_every_way_to_name_a_run_finds_the_same_folder(run: Storage, storage: Storage) -> None:
    for way in ("a-run", run.uri, f"{run.uri}/", f"{run.uri}/encoder.safetensors"):
        assert find_run_folder(way, storage.uri).uri == run.uri
    trial = find_run_folder("sweep/runs/trial", storage.uri)
    assert trial.uri == storage.join("sweep", "runs", "trial").uri


def test_a_relative_path_is_one_of_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("runs/a", "elsewhere/b"):
        Storage.from_uri(folder).join("config.yaml").write_bytes(b"x")
    assert find_run_folder("a").path == find_run_folder("runs/a").path == f"{tmp_path}/runs/a"
    assert find_run_folder("elsewhere/b").path == f"{tmp_path}/elsewhere/b"


def test_an_error_lists_the_runs_that_exist_nearest_first(run: Storage, storage: Storage) -> None:
    for number in range(15):
        storage.join(f"other-{number:02}", "config.yaml").write_bytes(b"x")
    for way in ("b-run", f"{storage.uri}/b-run"):
        with pytest.raises(ValueError, match=r"no run .*did you mean a-run\?") as error:
            find_run_folder(way, storage.uri)
        listed = str(error.value).partition("(runs there: ")[2].partition(")")[0].split(", ")
        assert listed[0] == "a-run"
        assert len(listed) == MAX_LISTED
        assert "no-run" not in listed


@pytest.mark.parametrize("way", ["", "nothing", "/no/where", "no-run"])
def test_what_is_no_run_is_an_error(run: Storage, storage: Storage, way: str) -> None:
    with pytest.raises(ValueError, match=f"no run {way!r}"):
        find_run_folder(way, storage.uri)
