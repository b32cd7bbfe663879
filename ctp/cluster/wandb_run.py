"""A run in Weights & Biases; a resumed run continues its run there. Needs the extra wandb."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import wandb

from ctp.cluster.service_run import (
    Log,
    ServiceRun,
    group_of,
    known_id,
    places_of,
    report_failure,
    write_id,
)
from ctp.lease import Outcome
from ctp.training.config import RunConfig

FILE = "wandb.json"
"""File of the run folder with the id of its run in Weights & Biases."""
INIT_SECONDS = 30.0
"""How long a start waits for the server, unless WANDB_INIT_TIMEOUT says otherwise."""
EXIT_CODES = {Outcome.ENDED: 0, Outcome.FAILED: 1, Outcome.STOPPED: 130}


@contextmanager
def wandb_run(config: RunConfig, project: str) -> Iterator[Log]:
    """Continue or create the run in a project; for use in a `with` statement.

    Key, server, entity, mode and folder are those of W&B's own variables (`WANDB_API_KEY`,
    `WANDB_BASE_URL`, `WANDB_ENTITY`, `WANDB_MODE`, `WANDB_DIR`) or of `wandb login`.

    Yields:
        a function that logs a log line; one that does nothing if W&B cannot be used.
    """
    try:
        run = _WandbRun(config, project)
    except wandb.Error as error:
        report_failure(_WandbRun.NAME, f"{error} Run wandb login, or set WANDB_MODE=offline")
        yield lambda row: None
        return
    with run.logging() as log:
        yield log


class _WandbRun(ServiceRun):
    NAME = "Weights & Biases"
    ERRORS = (wandb.Error,)

    def __init__(self, config: RunConfig, project: str):
        place = "/".join(filter(None, [os.environ.get("WANDB_ENTITY"), project]))
        run_id = known_id(config, FILE, place)
        if run_id is None:
            run_id = uuid.uuid4().hex[:8]
            write_id(config, FILE, place, run_id)
        settings = wandb.Settings(
            silent=True,  # which also asks no questions
            console="off",
            init_timeout=float(os.environ.get("WANDB_INIT_TIMEOUT", INIT_SECONDS)),
        )
        wandb.setup(settings)
        self._run = wandb.init(
            project=project,
            id=run_id,
            resume="allow",
            name=config.name,
            group=group_of(config),
            config={**config.flatten(), **places_of(config)},
            reinit="create_new",  # a notebook may have a run of its own
            settings=settings,
        )
        where = self._run.url or f"{self._run.settings.sync_dir}; wandb sync uploads it"
        print(f"{self.NAME}: {where}")
        super().__init__(float(self._run.summary.get("clips", 0)))

    def send(self, step: int, metrics: Mapping[str, float]) -> None:
        self._run.log(dict(metrics), step=step)

    def set_outcome(self, outcome: Outcome) -> None:
        self._run.finish(exit_code=EXIT_CODES[outcome])
