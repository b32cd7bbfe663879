"""Small actors through which the processes of a run, or of a sweep, exchange messages.

They start fast, because this module imports almost nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ctp.cluster.metrics import RunMetrics
from ctp.score import Score

if TYPE_CHECKING:
    from ctp.training.run_folder import Row


class RunCoordinator:
    """Passes log lines from a run's first worker to its driver and to Prometheus, notes from all
    processes to the driver, and requests to save or to stop from the driver to the workers.

    If its process is lost, so are log lines that were not read; the run folder has them all.
    """

    def __init__(self, tags: dict[str, str], num_videos: int, score: Score) -> None:
        """Start without any worker; see `RunMetrics` for the arguments."""
        self._rows: list[Row] = []
        self._notes: list[str] = []
        self._subjects = set[str]()
        # here, since this process exists as long as the run, and workers come and go
        self._metrics = RunMetrics(tags, num_videos, score)
        self._is_running = self._is_save_requested = False
        self._saved_step: int | None = None
        self._last_step, self._nodes = 0, set[str]()
        self._reason_to_stop: str | None = None

    def worker_joined(self, node: str) -> None:
        """Record the id of a worker's node."""
        self._nodes.add(node)

    def take_attempt(self) -> tuple[int, set[str]]:
        """Return the last step that was logged, and the workers' nodes since the last call."""
        nodes, self._nodes = self._nodes, set()
        return self._last_step, nodes

    def worker_started(self, first_sample: int) -> None:
        """Record that workers continue at a sample."""
        self._is_running = True
        self._metrics.start(first_sample)

    def update_worker(self, rank: int, values: dict[str, float]) -> None:
        """Record a worker's metrics."""
        self._metrics.update_worker(rank, values)

    def add_row(self, row: Row) -> None:
        """Add a log line."""
        self._is_running = True
        self._rows.append(row)
        self._last_step = max(self._last_step, int(row["step"]))
        self._metrics.update(row)

    def take_rows(self) -> list[Row]:
        """Return the log lines since the last call; to be called every few seconds."""
        self._metrics.refresh()
        rows, self._rows = self._rows, []
        return rows

    def add_note(self, subject: str, text: str) -> None:
        """Add a line for the driver to print; only the first on a subject is kept."""
        if subject not in self._subjects:
            self._subjects.add(subject)
            self._notes.append(text)

    def take_notes(self) -> list[str]:
        """Return the notes since the last call."""
        notes, self._notes = self._notes, []
        return notes

    def request_save(self) -> bool:
        """Ask the run to save; return whether there is anything to save yet."""
        self._is_save_requested = True
        return self._is_running

    def is_save_requested(self) -> bool:
        """Return whether the run should save; False again after it has."""
        return self._is_save_requested and self._saved_step is None

    def saved(self, step: int) -> None:
        """Record that the state after a step is saved."""
        self._saved_step = step if self._is_save_requested else None

    def saved_step(self) -> int | None:
        """Return the step that was saved on request, or None."""
        return self._saved_step

    def stop(self, reason: str) -> None:
        """Ask the run to stop at its next log line."""
        self._reason_to_stop = reason

    def reason_to_stop(self) -> str | None:
        """Return the reason to stop, or None."""
        return self._reason_to_stop


class StopSignals:
    """Passes requests to stop from a sweep to its trials."""

    def __init__(self) -> None:
        self._reasons: dict[str, str] = {}

    def stop(self, name: str, reason: str) -> None:
        """Ask a trial to stop."""
        self._reasons[name] = reason

    def reason_to_stop(self, name: str) -> str | None:
        """Return the reason for a trial to stop, or None."""
        return self._reasons.get(name)
