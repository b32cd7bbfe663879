"""Where a job may run, and where what it reads and writes may lie."""

from __future__ import annotations

import pytest

from ctp.cluster.connect import check_place
from ctp.cluster.path_visibility import check_lasting
from ctp.pretext.config import PretrainConfig
from ctp.training.run_folder import input_locations

UNPACKED = "/tmp/ray/session_1/runtime_resources/working_dir_files/_ray_pkg_0123"


def test_a_cluster_that_does_not_answer_is_reported_at_once(
    monkeypatch: pytest.MonkeyPatch, free_port: int
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{free_port}")
    with pytest.raises(
        ConnectionError, match=rf"no cluster answers at 127.0.0.1:{free_port}.*unset"
    ):
        check_place()


@pytest.mark.parametrize("address", ["http://head:8265", "ray://head:10001"])
def test_the_address_of_the_job_server_is_refused(
    monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(ValueError, match=r"ray job submit .* or unset RAY_ADDRESS to run on this"):
        check_place()


def test_results_that_ray_would_delete_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"--out .*/runs lies in the job's working directory"):
        check_lasting(f"{UNPACKED}/runs", "out")
    monkeypatch.setattr("os.getcwd", lambda: UNPACKED)
    with pytest.raises(ValueError, match="--storage runs lies in the job's working directory"):
        check_lasting("runs", "storage")


@pytest.mark.parametrize("uri", ["", "s3://bucket/runs", "/shared/working_dir_files/runs", "runs"])
def test_results_that_are_kept_are_accepted(uri: str) -> None:
    check_lasting(uri, "storage")


def test_a_run_reads_its_videos_and_initial_weights() -> None:
    config = PretrainConfig.model_validate(
        {"data": {"uri": ("/a", "s3://b"), "heldout_uri": "/c"}, "initial_encoder": "/d.pth"}
    )
    assert input_locations(config) == [("/a", "s3://b"), "/c", (), (), "/d.pth"]
