"""A run in MLflow: one there, however often it is started here. Needs the extra mlflow."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Metric, Param
from mlflow.exceptions import MlflowException

from ctp.cluster.metrics import tags_of
from ctp.training.claim import run_storage
from ctp.training.config import RunConfig
from ctp.training.run_folder import Row

FILE = "mlflow.json"
"""Of the run folder: which run of MLflow it is."""
NO_METRICS = {"step", "total_steps"}
"""Entries of a log line that say when, rather than what."""


@contextmanager
def mlflow_run(config: RunConfig) -> Iterator[Callable[[Row], None]]:
    """Go on with the run's run at `config.mlflow_uri`, or begin one; in a `with` statement.

    Yields:
        What takes the run's log lines. When MLflow fails it says so and takes no more: the run
        goes on, and its folder has all of them.

    Raises:
        ValueError: MLflow cannot be reached, or knows the run no more.
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
    """A run of MLflow that log lines are added to."""

    def __init__(self, client: MlflowClient, run_id: str):
        self._client, self._id, self._is_lost = client, run_id, False
        client.update_run(run_id, status="RUNNING")
        self._clips = client.get_run(run_id).data.metrics.get("clips", 0)

    def log(self, row: Row) -> None:
        """Add a log line, unless that was done before workers or the run were broken off."""
        clips = float(row["clips"])
        if self._is_lost or clips <= self._clips:
            return
        self._clips = clips
        now, step = int(time.time() * 1000), int(row["step"])
        values = {k: v for k, v in row.items() if k not in NO_METRICS and not isinstance(v, str)}
        with self._or_without():
            metrics = [Metric(name, value, now, step) for name, value in values.items()]
            self._client.log_batch(self._id, metrics=metrics)

    def end(self, status: str) -> None:
        """Say how the run ended."""
        with self._or_without():
            self._client.set_terminated(self._id, status)

    @contextmanager
    def _or_without(self) -> Iterator[None]:
        try:
            yield
        except MlflowException as error:
            self._is_lost = True
            print(f"MLflow fails, the run goes on without it: {error}", file=sys.stderr)


def _open(config: RunConfig) -> _Run:
    try:
        client = MlflowClient(config.mlflow_uri)
        return _Run(client, _known(config) or _begun(client, config))
    except MlflowException as error:
        raise ValueError(
            f"mlflow_uri {config.mlflow_uri!r} cannot be used: {error}. Mend it, leave mlflow_uri "
            f"empty, or delete {run_storage(config).join(FILE).uri} to begin another run there"
        ) from error


def _known(config: RunConfig) -> str | None:
    """The id of the run that an earlier start has begun there."""
    file = run_storage(config).join(FILE)
    known = json.loads(file.read_bytes()) if file.exists() else {}
    run_id: str | None = known.get("run_id") if known.get("uri") == config.mlflow_uri else None
    return run_id


def _begun(client: MlflowClient, config: RunConfig) -> str:
    """The id of a new run, which the run folder remembers."""
    folder, experiment = run_storage(config), f"ctp-{tags_of(config)['kind']}"
    found = client.get_experiment_by_name(experiment)
    number = found.experiment_id if found else client.create_experiment(experiment)
    places = {"ctp.folder": folder.uri, "ctp.result": folder.join(config.RESULT).uri}
    run_id = client.create_run(number, tags=places, run_name=config.name).info.run_id
    params = dict(_dotted("", config.model_dump(mode="json")))
    client.log_batch(run_id, params=[Param(name, str(value)) for name, value in params.items()])
    known = {"uri": config.mlflow_uri, "run_id": run_id}
    folder.join(FILE).write_bytes(json.dumps(known).encode())
    return str(run_id)


def _dotted(prefix: str, values: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """The fields of a config and of its sections, by dotted names."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _dotted(f"{prefix}{name}.", value)
        else:
            yield prefix + name, value
