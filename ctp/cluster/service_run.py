"""A run in a service such as MLflow, beside its run folder."""

from __future__ import annotations

import json
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import ClassVar

from ctp.cluster.metrics import tags_of
from ctp.lease import Outcome
from ctp.text import one_line
from ctp.training.config import RunConfig
from ctp.training.run_folder import Row, folder_of

NO_METRICS = {"step", "total_steps"}
"""Entries of a log line that are not metrics."""
Log = Callable[[Row], None]


class ServiceRun(ABC):
    """A run in a service. If the service fails, the run continues without it, and its folder
    contains all lines.

    Attributes:
        NAME: name of the service.
        ERRORS: exceptions by which it reports that it fails.
    """

    NAME: ClassVar[str]
    ERRORS: ClassVar[tuple[type[Exception], ...]]

    def __init__(self, clips: float):
        """Start.

        Args:
            clips: entry "clips" of the last line that the service has.
        """
        self._clips, self._is_lost = clips, False

    @abstractmethod
    def send(self, step: int, metrics: Mapping[str, float]) -> None:
        """Send the numbers of a log line."""

    @abstractmethod
    def set_outcome(self, outcome: Outcome) -> None:
        """Set the final state of the run."""

    @contextmanager
    def logging(self) -> Iterator[Log]:
        """Yield a function that logs a log line, and set the outcome at the end."""
        outcome = Outcome.FAILED
        try:
            yield self._log
            outcome = Outcome.ENDED
        except KeyboardInterrupt:
            outcome = Outcome.STOPPED
            raise
        finally:
            with self._ignore_failure():
                self.set_outcome(outcome)

    def _log(self, row: Row) -> None:
        """Add a log line, unless it was added before workers or the run were restarted."""
        clips = float(row["clips"])
        if self._is_lost or clips <= self._clips:
            return
        self._clips = clips
        # texts are no metrics
        metrics = {
            name: value
            for name, value in row.items()
            if name not in NO_METRICS and not isinstance(value, str)
        }
        with self._ignore_failure():
            self.send(int(row["step"]), metrics)

    @contextmanager
    def _ignore_failure(self) -> Iterator[None]:
        try:
            yield
        except self.ERRORS as error:
            # each further attempt would delay the run until it times out
            self._is_lost = True
            report_failure(self.NAME, error)


def report_failure(service: str, error: object) -> None:
    """Print a line about a service that fails."""
    print(f"{service} failed, the run continues without it: {one_line(error)}", file=sys.stderr)


def known_id(config: RunConfig, file: str, place: str) -> str | None:
    """Return the id of a run in a service that an earlier start wrote, None if there is none.

    Args:
        config: of the run.
        file: name of the file in the run folder.
        place: where the service keeps the run; one at another place has another id.
    """
    found = folder_of(config).join(file)
    known = json.loads(found.read_bytes()) if found.exists() else {}
    run_id: str | None = known.get("run_id") if known.get("uri") == place else None
    return run_id


def write_id(config: RunConfig, file: str, place: str, run_id: str) -> None:
    """Write the id of a run in a service to the run folder; see `known_id`."""
    known = {"uri": place, "run_id": run_id}
    folder_of(config).join(file).write_bytes(json.dumps(known).encode())


def places_of(config: RunConfig) -> dict[str, str]:
    """Return where the folder and the result of a run are, by their names in a service."""
    folder = folder_of(config)
    return {"ctp.folder": folder.uri, "ctp.result": folder.join(config.RESULT).uri}


def group_of(config: RunConfig) -> str:
    """Return the name for all runs of the same kind in a service."""
    return f"ctp-{tags_of(config)['kind']}"
