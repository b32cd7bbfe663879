"""A run is one run in MLflow, however often it is started, and MLflow's troubles do not stop it."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from ctp.cluster.mlflow_run import FILE, mlflow_run
from ctp.cluster.service_log import service_log
from ctp.pretext.config import PretrainConfig
from ctp.training.config import RunConfig
from ctp.training.run_folder import Row, folder_of
from ctp.training.trainer import RunStoppedError


@pytest.fixture
def config(
    small_run: PretrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> PretrainConfig:
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # a real store that needs no server
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    return small_run.replace(mlflow_uri=(tmp_path / "mlflow").as_uri())


def row(step: int, loss: float) -> Row:
    return {"step": step, "clips": 4 * step, "loss": loss, "total_steps": 6, "note": "text"}


def run_once(config: RunConfig, *rows: Row, ending: BaseException | None = None) -> None:
    with mlflow_run(config) as log:
        for each in rows:
            log(each)
        if ending is not None:
            raise ending


def known_runs(config: RunConfig) -> list[Run]:
    client = MlflowClient(config.mlflow_uri)
    experiment = client.get_experiment_by_name("ctp-pretrain")
    assert experiment is not None
    return list(client.search_runs([experiment.experiment_id]))


def known_losses(config: RunConfig) -> list[tuple[int, float]]:
    (run,) = known_runs(config)
    history = MlflowClient(config.mlflow_uri).get_metric_history(run.info.run_id, "loss")
    return [(metric.step, metric.value) for metric in history]


def test_a_resumed_run_continues_its_mlflow_run(config: PretrainConfig) -> None:
    again = row(3, 0.8)  # workers were started again, from a checkpoint before
    with pytest.raises(KeyboardInterrupt):
        run_once(config, row(2, 0.9), row(4, 0.7), again, ending=KeyboardInterrupt())
    (run,) = known_runs(config)
    assert run.info.status == "KILLED"
    run_once(config.replace(scaling={"num_workers": 2}), row(4, 0.7), row(6, 0.5))
    (run,) = known_runs(config)
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "run"
    assert known_losses(config) == [(2, 0.9), (4, 0.7), (6, 0.5)]
    assert run.data.metrics.keys() == {"loss", "clips"}


def test_it_has_the_config_and_where_things_lie(config: PretrainConfig) -> None:
    run_once(config)
    (run,) = known_runs(config)
    assert run.data.params["optimizer.learning_rate"] == "0.01"
    assert run.data.params["data.uri"] == "corpus:20"
    assert run.data.params["seed"] == "0"
    folder = folder_of(config)
    assert run.data.tags["ctp.folder"] == folder.uri
    assert run.data.tags["ctp.result"] == folder.join("encoder.safetensors").uri


def test_a_run_that_begins_anew_is_another_run(config: PretrainConfig) -> None:
    for _ in range(2):
        run_once(config, row(2, 0.9))
        folder_of(config).delete_folder()
    assert len(known_runs(config)) == 2


def test_a_loss_that_is_not_finite_is_reported(config: PretrainConfig) -> None:
    ending = RunStoppedError("the loss is not finite")
    with pytest.raises(RunStoppedError, match="the loss is not finite"):
        run_once(config, row(2, math.nan), ending=ending)
    ((step, loss),) = known_losses(config)
    assert step == 2
    assert math.isnan(loss)
    assert known_runs(config)[0].info.status == "FAILED"


def test_the_run_continues_when_mlflow_fails(
    config: PretrainConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    with mlflow_run(config) as log:
        log(row(2, 0.9))
        (run,) = known_runs(config)
        MlflowClient(config.mlflow_uri).delete_run(run.info.run_id)
        log(row(4, 0.7))
        log(row(6, 0.5))
    assert capsys.readouterr().err.count("MLflow failed") == 2
    with pytest.raises(ValueError, match=rf"cannot be used.*delete .*{FILE}"):
        run_once(config)


def test_a_missing_server_is_reported_before_the_run(
    config: PretrainConfig, free_port: int
) -> None:
    config = config.replace(mlflow_uri=f"http://127.0.0.1:{free_port}")
    with pytest.raises(ValueError, match=rf"mlflow_uri 'http://127.0.0.1:{free_port}' cannot be"):
        run_once(config)


def test_another_server_has_another_run(config: PretrainConfig, tmp_path: Path) -> None:
    other = config.replace(mlflow_uri=(tmp_path / "other").as_uri())
    for each in (config, other):
        run_once(each, row(2, 0.9))
    assert known_losses(other) == known_losses(config) == [(2, 0.9)]
    assert json.loads(folder_of(config).join(FILE).read_bytes())["uri"] == other.mlflow_uri
    assert config.differences(other) == []  # it may change when a run is continued


def test_without_mlflow_the_error_says_what_to_install(
    config: PretrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "ctp.cluster.mlflow_run")
    monkeypatch.setitem(sys.modules, "mlflow", None)
    message = r"-e '\.\[mlflow\]', or leave mlflow_uri empty"
    with pytest.raises(ValueError, match=message), service_log(config):
        pass
    with service_log(config.replace(mlflow_uri="")) as log:  # what is not asked for is not missed
        log(row(2, 0.9))
