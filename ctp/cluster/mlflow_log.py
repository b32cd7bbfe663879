"""Logging to MLflow if `mlflow_uri` is set; otherwise it need not be installed."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

from ctp.training.config import RunConfig
from ctp.training.run_folder import Row


def mlflow_log(config: RunConfig) -> AbstractContextManager[Callable[[Row], None]]:
    """Return a context manager whose value logs a run's log lines to MLflow, or ignores them.

    Raises:
        ValueError: MLflow is not installed, cannot be reached, or has lost the run.
    """
    if not config.mlflow_uri:
        return nullcontext(lambda row: None)
    try:
        from ctp.cluster.mlflow_run import mlflow_run
    except ModuleNotFoundError as error:
        raise ValueError(
            "mlflow_uri is set, but MLflow is not installed. Run pip install -e '.[mlflow]', or "
            "leave mlflow_uri empty"
        ) from error
    return mlflow_run(config)
