"""Logging to MLflow where that is asked for; it need not be installed where it is not."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

from ctp.training.config import RunConfig
from ctp.training.run_folder import Row


def mlflow_log(config: RunConfig) -> AbstractContextManager[Callable[[Row], None]]:
    """What takes a run's log lines to MLflow, if that is asked for; in a `with` statement.

    Raises:
        ValueError: it is not installed here, cannot be reached, or knows the run no more.
    """
    if not config.mlflow_uri:
        return nullcontext(lambda row: None)
    try:
        from ctp.cluster.mlflow_run import mlflow_run
    except ModuleNotFoundError as error:
        raise ValueError(
            "mlflow_uri is set, and MLflow is not installed here. pip install -e '.[mlflow]', or "
            "leave mlflow_uri empty"
        ) from error
    return mlflow_run(config)
