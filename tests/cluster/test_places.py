"""Where a job may run, and where what it reads and writes may lie."""

from __future__ import annotations

from pathlib import Path

import pytest

from ctp.cluster.connect import check_place
from ctp.cluster.places import check_lasting
from ctp.pretext.config import PretrainConfig
from ctp.sweeps.check import places_of
from ctp.sweeps.config import SweepConfig
from ctp.sweeps.plan import Plan
from ctp.training.claim import read_places

UNPACKED = "/tmp/ray/session_1/runtime_resources/working_dir_files/_ray_pkg_0123"


def test_a_cluster_that_does_not_answer_is_told_at_once(
    monkeypatch: pytest.MonkeyPatch, free_port: int
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{free_port}")
    with pytest.raises(
        ConnectionError, match=rf"no cluster answers at 127.0.0.1:{free_port}.*unset"
    ):
        check_place()


@pytest.mark.parametrize("address", ["http://head:8265", "ray://head:10001"])
def test_where_jobs_are_sent_is_no_cluster_to_join(
    monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(ValueError, match=r"ray job submit .* or unset RAY_ADDRESS to run on this"):
        check_place()


def test_what_would_be_deleted_with_the_job_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"--out .*/runs lies in the job's working directory"):
        check_lasting(f"{UNPACKED}/runs", "out")
    monkeypatch.setattr("os.getcwd", lambda: UNPACKED)
    with pytest.raises(ValueError, match="--storage runs lies in the job's working directory"):
        check_lasting("runs", "storage")


@pytest.mark.parametrize("uri", ["", "s3://bucket/runs", "/shared/working_dir_files/runs", "runs"])
def test_what_lasts_is_taken(uri: str) -> None:
    check_lasting(uri, "storage")


def test_a_run_reads_its_videos_and_initial_weights() -> None:
    config = PretrainConfig.model_validate(
        {"data": {"uri": ("/a", "s3://b"), "heldout_uri": "/c"}, "initial_encoder": "/d"}
    )
    assert read_places(config) == [("/a", "s3://b"), "/c", (), (), "/d"]


def test_a_sweep_reads_the_videos_of_all_its_runs(
    tmp_path: Path,
) -> None:
    config = SweepConfig(
        name="mine",
        storage=str(tmp_path),
        grid=("game.num_patches=1,2",),
        set=("data.uri=/a", "embed.data.uri=/b", "linear.data.test_uri=/c"),
        scores=("retrieval", "linear"),
    )
    places = places_of(Plan.of(config))
    assert {"/a", "/b", "/c"} <= set(places)
