"""A run in MLflow; a resumed run continues its MLflow run. Needs the extra mlflow."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from mlflow import MlflowClient
from mlflow.entities import Metric, Param
from mlflow.exceptions import MlflowException

from ctp.cluster.service_run import Log, ServiceRun, group_of, known_id, places_of, write_id
from ctp.lease import Outcome
from ctp.training.config import RunConfig
from ctp.training.run_folder import folder_of

FILE = "mlflow.json"
"""File of the run folder with the id of its MLflow run."""
STATUSES = {Outcome.ENDED: "FINISHED", Outcome.FAILED: "FAILED", Outcome.STOPPED: "KILLED"}


@contextmanager
def mlflow_run(config: RunConfig) -> Iterator[Log]:
    """Continue or create the run at `config.mlflow_uri`; for use in a `with` statement.

    Yields:
        a function that logs a log line.

    Raises:
        ValueError: MLflow cannot be reached, or has lost the run.
    """
    with _open(config).logging() as log:
        yield log


class _MlflowRun(ServiceRun):
    NAME = "MLflow"
    ERRORS = (MlflowException,)

    def __init__(self, client: MlflowClient, run_id: str):
        self._client, self._id = client, run_id
        client.update_run(run_id, status="RUNNING")
        super().__init__(client.get_run(run_id).data.metrics.get("clips", 0))

    def send(self, step: int, metrics: Mapping[str, float]) -> None:
        now = int(time.time() * 1000)
        found = [Metric(name, value, now, step) for name, value in metrics.items()]
        self._client.log_batch(self._id, metrics=found)

    def set_outcome(self, outcome: Outcome) -> None:
        self._client.set_terminated(self._id, STATUSES[outcome])


def _open(config: RunConfig) -> _MlflowRun:
    try:
        client = MlflowClient(config.mlflow_uri)
        run_id = known_id(config, FILE, config.mlflow_uri) or _create(client, config)
        return _MlflowRun(client, run_id)
    except MlflowException as error:
        raise ValueError(
            f"mlflow_uri {config.mlflow_uri!r} cannot be used: {error}. Correct it, leave "
            f"mlflow_uri empty, or delete {folder_of(config).join(FILE).uri} for a new MLflow run"
        ) from error


def _create(client: MlflowClient, config: RunConfig) -> str:
    """Create an MLflow run, write its id to the run folder, and return it."""
    experiment = group_of(config)
    found = client.get_experiment_by_name(experiment)
    number = found.experiment_id if found else client.create_experiment(experiment)
    run = client.create_run(number, tags=places_of(config), run_name=config.name)
    run_id = str(run.info.run_id)
    client.log_batch(
        run_id, params=[Param(name, str(value)) for name, value in config.flatten().items()]
    )
    write_id(config, FILE, config.mlflow_uri, run_id)
    return run_id
