"""The log that a run writes."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable
from pathlib import Path

from torch.utils.tensorboard import SummaryWriter

from ctp.lease import Attempt
from ctp.storage import Storage
from ctp.training.run_folder import METRICS, TENSORBOARD, Row, read_rows, to_jsonl

NO_CURVES = ("step", "total_steps")
"""Entries of a row that TensorBoard does not get."""


class MetricsLog:
    """Writes rows of numbers to `metrics.jsonl` and TensorBoard; one process of a run holds it."""

    def __init__(self, folder: Storage, first_step: int, attempt: Attempt | None = None):
        """Open the log to continue after `first_step`.

        Later rows, which an interrupted run had written, are removed, so that no step occurs twice.

        Args:
            folder: of the run.
            first_step: steps done.
            attempt: checked before the run folder is written; None: no other process writes it.

        Raises:
            StorageError: the log cannot be read or written.
            SupersededError: another process took over the run.
        """
        self._attempt = attempt
        self._check()
        self._target = folder.join(METRICS)
        # an object store cannot append, so the log is written here and copied there by sync
        self._remote = None if folder.is_local else folder
        self._local = Path(folder.path if folder.is_local else tempfile.mkdtemp(prefix="ctp-"))
        self._local.mkdir(parents=True, exist_ok=True)
        there = self._target.read_bytes() if self._target.exists() else b""
        lines = to_jsonl([row for row in read_rows(self._target) if row["step"] <= first_step])
        file = self._local / METRICS
        if self._remote or lines != there:
            Storage.from_uri(file).write_bytes(lines)  # at once or not at all
        self._file = file.open("a")
        # purge_step hides what an interrupted run had written after its last checkpoint
        self._board = SummaryWriter(self._local / TENSORBOARD, purge_step=first_step + 1)

    def write(self, rows: Iterable[Row]) -> None:
        """Append rows; each names its "step".

        Raises:
            SupersededError: another process took over the run.
        """
        if self._remote is None:  # otherwise the run folder is not written before `sync`
            self._check()
        for row in rows:
            self._file.write(json.dumps(row) + "\n")
            for name, value in row.items():
                if name not in NO_CURVES and isinstance(value, int | float):
                    self._board.add_scalar(name, value, int(row["step"]))
        # so that others can follow the run, and a killed process loses nothing
        self._file.flush()

    def sync(self) -> None:
        """Bring the run folder up to date, if it lies in an object store.

        Raises:
            StorageError: it cannot be written.
            SupersededError: another process took over the run.
        """
        self._board.flush()
        if self._remote is not None:
            self._check()
            for path in sorted(self._local.rglob("*")):
                if path.is_file():
                    name = path.relative_to(self._local).as_posix()
                    self._remote.join(name).write_bytes(path.read_bytes())

    def close(self) -> None:
        """Sync for the last time."""
        self._file.close()
        self.sync()
        self._board.close()

    def _check(self) -> None:
        if self._attempt is not None:
            self._attempt.check()
