"""Actors through which processes leave word for each other.

They are small, and start at once: next to nothing is imported here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ctp.cluster.metrics import RunMetrics

if TYPE_CHECKING:
    from ctp.training.run_folder import Row


class Board:
    """Where a run's first worker posts its log lines, its driver and Prometheus read them, and the
    driver says when the run is to save or to end.

    If its process is lost, so are the lines that nobody has read; the run's folder has them all.
    """

    def __init__(self, tags: dict[str, str], num_videos: int) -> None:
        """No worker has started yet; for the arguments see `RunMetrics`."""
        self._rows: list[Row] = []
        # here, since this process lives as long as the run, whatever becomes of its workers
        self._metrics = RunMetrics(tags, num_videos)
        self._is_going = self._is_stop_asked = False
        self._saved_step: int | None = None
        self._reason_to_end: str | None = None

    def end(self, reason: str) -> None:
        """The run is to end at its next log line."""
        self._reason_to_end = reason

    def reason_to_end(self) -> str | None:
        """Why it is; None if it is not."""
        return self._reason_to_end

    def start(self, first_clip: int) -> None:
        """Workers have started and go on from a clip."""
        self._is_going = True
        self._metrics.start(first_clip)

    def ask_to_stop(self) -> bool:
        """Ask the run to save; says whether there is anything to save yet."""
        self._is_stop_asked = True
        return self._is_going

    def is_stop_asked(self) -> bool:
        """Until it is heeded: what is done after that is not worth another save."""
        return self._is_stop_asked and self._saved_step is None

    def saved(self, step: int) -> None:
        """The state after a step is safe."""
        self._saved_step = step if self._is_stop_asked else None

    def saved_step(self) -> int | None:
        """The step whose state was saved because the run was asked to; None before that."""
        return self._saved_step

    def post(self, row: Row) -> None:
        """Take in a log line."""
        self._is_going = True
        self._rows.append(row)
        self._metrics.take(row)

    def take(self) -> list[Row]:
        """The log lines since this was called last; to be called every few seconds."""
        self._metrics.refresh()
        rows, self._rows = self._rows, []
        return rows


class Desk:
    """Where a sweep says which of its trials are to stop."""

    def __init__(self) -> None:
        self._reasons: dict[str, str] = {}

    def stop(self, name: str, reason: str) -> None:
        """A trial is to stop."""
        self._reasons[name] = reason

    def reason_to_stop(self, name: str) -> str | None:
        """Why a trial is to stop; None if it is not."""
        return self._reasons.get(name)
