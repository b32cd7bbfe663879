"""Log a run to MLflow and to Weights & Biases, if they are asked for."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager

from ctp.cluster.service_run import Log, report_failure
from ctp.training.config import RunConfig
from ctp.training.run_folder import Row

WANDB_PROJECT = "WANDB_PROJECT"
"""Variable that names the project of Weights & Biases, as in its own documentation. It is no option
of a run: like the key, it belongs to the user and not to the run."""


@contextmanager
def service_log(config: RunConfig) -> Iterator[Log]:
    """Yield a function that logs log lines to the services that are asked for; the others need not
    be installed.

    Raises:
        ValueError: MLflow is not installed, cannot be reached, or has lost the run.
    """
    with ExitStack() as stack:
        logs = [stack.enter_context(run) for run in _runs(config)]

        def log(row: Row) -> None:
            for each in logs:
                each(row)

        yield log


def _runs(config: RunConfig) -> Iterator[AbstractContextManager[Log]]:
    if config.mlflow_uri:
        try:
            from ctp.cluster.mlflow_run import mlflow_run
        except ModuleNotFoundError as error:
            raise ValueError(
                "mlflow_uri is set, but MLflow is not installed. Run pip install -e '.[mlflow]', "
                "or leave mlflow_uri empty"
            ) from error
        yield mlflow_run(config)
    if project := os.environ.get(WANDB_PROJECT):
        try:
            from ctp.cluster.wandb_run import wandb_run
        except ModuleNotFoundError:
            reason = f"{WANDB_PROJECT} is set, but wandb is not installed"
            report_failure("Weights & Biases", f"{reason}. Run pip install -e '.[wandb]'")
        else:
            yield wandb_run(config, project)
