"""The run folder: config, metrics, quarantine ledger, checkpoints, the encoder.

    config.yaml  metrics.jsonl  tensorboard/  checkpoints/  encoder.safetensors  quarantine.jsonl
    knn.jsonl  snapshots/

It may lie in an object store, where nothing can be appended to: what grows is written to a local
folder first and goes up as a whole at each `sync`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping

from ctp.storage import Storage
from ctp.text import near_miss

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
