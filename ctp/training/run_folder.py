"""The run folder: config, metrics, quarantine ledger, checkpoints, the encoder.

    config.yaml  metrics.jsonl  tensorboard/  checkpoints/  encoder.safetensors  quarantine.jsonl
    knn.jsonl  snapshots/

It may lie in an object store, where nothing can be appended to: what grows is written to a local
folder first and goes up as a whole at each `sync`.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

from torch.utils.tensorboard import SummaryWriter

from ctp.cli import near_miss
from ctp.storage import Storage

CONFIG = "config.yaml"
METRICS = "metrics.jsonl"
KNN = "knn.jsonl"
SNAPSHOTS = "snapshots"
QUARANTINE = "quarantine.jsonl"
ENCODER = "encoder.safetensors"
CLASSIFIER = "classifier.safetensors"
SCORES = "scores.json"
CURVES = "curves.png"
CONFUSION = "confusion.png"
CHECKPOINTS = "checkpoints"
TENSORBOARD = "tensorboard"

Row = Mapping[str, float | int | str]


def find_run(run: str, storage: str) -> Storage:
    """The folder of a run, by its name below `storage` or by its path or URI.

    Raises:
        ValueError: there is none; names what there is.
    """
    below = Storage.of(storage)
    folder = Storage.of(run) if "/" in run else below.join(run)
    if folder.join(CONFIG).exists():
        return folder
    where = f"{folder.join(CONFIG).uri} is not there"
    if "/" in run:
        raise ValueError(f"--run {run}: no run folder, {where}")
    runs = below.list_folders()
    there = f"runs in {below.uri}: {', '.join(runs)}" if runs else f"no run in {below.uri}"
    raise ValueError(f"--run {run}: {where}{near_miss(run, runs)}; {there}")


def snapshot_name(step: int) -> str:
    """Where the encoder after a step lies for as long as it is to be scored."""
    return f"{SNAPSHOTS}/{step:08d}.safetensors"


def snapshot_step(name: str) -> int:
    """The step of a `snapshot_name`."""
    return int(name.rpartition("/")[2].partition(".")[0])


class MetricsLog:
    """Writes rows of numbers to `metrics.jsonl` and TensorBoard; one process of a run holds it."""

    def __init__(self, folder: Storage, first_step: int):
        """Open the log to go on after `first_step`: rows of later steps, that a run which was
        broken off had written, are dropped, so that no step is there twice.
        """
        self._target = folder.join(METRICS)
        self._remote = None if folder.is_local else folder
        self._local = Path(folder.path if folder.is_local else tempfile.mkdtemp(prefix="ctp-"))
        self._local.mkdir(parents=True, exist_ok=True)
        there = self._target.read_bytes() if self._target.exists() else b""
        lines = to_jsonl([row for row in read_rows(self._target) if row["step"] <= first_step])
        file = self._local / METRICS
        if self._remote or lines != there:
            Storage.of(file).write_bytes(lines)  # at once or not at all
        self._file = file.open("a")
        self._board = SummaryWriter(self._local / TENSORBOARD, purge_step=first_step + 1)

    def write(self, rows: Iterable[Row]) -> None:
        """Append rows; each names its "step"."""
        for row in rows:
            self._file.write(json.dumps(row) + "\n")
            for name, value in row.items():
                if name != "step" and isinstance(value, int | float):
                    self._board.add_scalar(name, value, int(row["step"]))
        self._file.flush()

    def sync(self) -> None:
        """Bring the run folder up to date, if it lies in an object store."""
        self._board.flush()
        if self._remote is not None:
            for path in sorted(self._local.rglob("*")):
                if path.is_file():
                    name = path.relative_to(self._local).as_posix()
                    self._remote.join(name).write_bytes(path.read_bytes())

    def close(self) -> None:
        """Sync for the last time."""
        self._file.close()
        self.sync()
        self._board.close()


def read_metrics(folder: Storage) -> list[dict[str, float]]:
    """The rows of `metrics.jsonl`, in order, with what `knn.jsonl` has of the same steps."""
    knn = {row["step"]: row for row in read_rows(folder.join(KNN))}
    return [row | knn.get(row["step"], {}) for row in read_rows(folder.join(METRICS))]


def read_rows(place: Storage) -> list[dict[str, float]]:
    """The rows of a file of JSON lines; a last line cut short by a kill is left out."""
    if not place.exists():
        return []
    lines = place.read_bytes().split(b"\n")
    return [json.loads(line) for line in lines[:-1]]


def to_jsonl(rows: Iterable[Row]) -> bytes:
    """Rows as a file of JSON lines."""
    return "".join(json.dumps(row) + "\n" for row in rows).encode()
