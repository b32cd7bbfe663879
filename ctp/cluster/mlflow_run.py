"""A run in MLflow; a resumed run continues its MLflow run. Needs the extra mlflow."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from mlflow import MlflowClient
from mlflow.entities import Metric, Param
from mlflow.exceptions import MlflowException

from ctp.cluster.metrics import tags_of
from ctp.training.config import RunConfig
from ctp.training.run_folder import Row, folder_of

FILE = "mlflow.json"
"""File of the run folder with the id of its MLflow run."""
NO_METRICS = {"step", "total_steps"}
"""Entries of a log line that are not metrics."""


@contextmanager
def mlflow_run(config: RunConfig) -> Iterator[Callable[[Row], None]]:
    """Continue or create the run at `config.mlflow_uri`; for use in a `with` statement.

    Yields:
        a function that logs a log line. If MLflow fails, it prints the error and logs no more; the
        run continues, and its folder contains all lines.

    Raises:
        ValueError: MLflow cannot be reached, or has lost the run.
    """
    run, status = _open(config), "FAILED"
    try:
        yield run.log
        status = "FINISHED"
    except KeyboardInterrupt:
        status = "KILLED"
        raise
    finally:
        run.end(status)


class _Run:
    """An MLflow run."""

    def __init__(self, client: MlflowClient, run_id: str):
        self._client, self._id, self._is_lost = client, run_id, False
        client.update_run(run_id, status="RUNNING")
        self._clips = client.get_run(run_id).data.metrics.get("clips", 0)

    def log(self, row: Row) -> None:
        """Add a log line, unless it was added before workers or the run were restarted."""
        clips = float(row["clips"])
        if self._is_lost or clips <= self._clips:
            return
        self._clips = clips
        now, step = int(time.time() * 1000), int(row["step"])
        # MLflow takes no texts as metrics
        values = {k: v for k, v in row.items() if k not in NO_METRICS and not isinstance(v, str)}
        with self._ignore_failure():
            metrics = [Metric(name, value, now, step) for name, value in values.items()]
            self._client.log_batch(self._id, metrics=metrics)

    def end(self, status: str) -> None:
        """Set the final status of the run."""
        with self._ignore_failure():
            self._client.set_terminated(self._id, status)

    @contextmanager
    def _ignore_failure(self) -> Iterator[None]:
        try:
            yield
        except MlflowException as error:
            # each further attempt would delay the run until it times out
            self._is_lost = True
            print(f"MLflow failed, the run continues without it: {error}", file=sys.stderr)


def _open(config: RunConfig) -> _Run:
    try:
        client = MlflowClient(config.mlflow_uri)
        return _Run(client, _existing_id(config) or _create(client, config))
    except MlflowException as error:
        raise ValueError(
            f"mlflow_uri {config.mlflow_uri!r} cannot be used: {error}. Correct it, leave "
            f"mlflow_uri empty, or delete {folder_of(config).join(FILE).uri} for a new MLflow run"
        ) from error


def _existing_id(config: RunConfig) -> str | None:
    """Return the id of the MLflow run that an earlier start created."""
    file = folder_of(config).join(FILE)
    known = json.loads(file.read_bytes()) if file.exists() else {}
    run_id: str | None = known.get("run_id") if known.get("uri") == config.mlflow_uri else None
    return run_id


def _create(client: MlflowClient, config: RunConfig) -> str:
    """Create an MLflow run, write its id to the run folder, and return it."""
    folder, experiment = folder_of(config), f"ctp-{tags_of(config)['kind']}"
    found = client.get_experiment_by_name(experiment)
    number = found.experiment_id if found else client.create_experiment(experiment)
    places = {"ctp.folder": folder.uri, "ctp.result": folder.join(config.RESULT).uri}
    run_id = client.create_run(number, tags=places, run_name=config.name).info.run_id
    client.log_batch(
        run_id, params=[Param(name, str(value)) for name, value in config.flatten().items()]
    )
    known = {"uri": config.mlflow_uri, "run_id": run_id}
    folder.join(FILE).write_bytes(json.dumps(known).encode())
    return str(run_id)
