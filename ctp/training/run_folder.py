"""The run folder: what it contains, and creating or resuming it.

    config.yaml  metrics.jsonl  tensorboard/  checkpoints/  encoder.safetensors  quarantine.jsonl
    knn.jsonl  snapshots/

It may be in an object store, where nothing can be appended to: files that grow are written to a
local folder first and uploaded as a whole at each `sync`.
"""

from __future__ import annotations

import json
import operator
import os
from collections.abc import Iterable, Mapping
from functools import reduce
from typing import TypeVar

import yaml

from ctp.data import corpus
from ctp.data.quarantine import QuarantineLedger
from ctp.storage import Storage
from ctp.text import near_miss, one_line
from ctp.training.checkpoint import CheckpointStore
from ctp.training.config import RunConfig

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
C = TypeVar("C", bound=RunConfig)
Uris = str | tuple[str, ...]


def folder_of(config: RunConfig) -> Storage:
    """Return the folder of a run."""
    return Storage.from_uri(config.storage).join(config.name)


def checkpoint_store(config: RunConfig) -> CheckpointStore:
    """Return the store of a run's checkpoints."""
    return CheckpointStore(folder_of(config).join(CHECKPOINTS))


def newest_sample(config: RunConfig) -> int:
    """Return the number of samples consumed at the newest checkpoint; 0 before the first."""
    name = checkpoint_store(config).newest()
    return 0 if name is None else int(name.partition("-")[2]) * config.compute.total_batch


def read_ledger(config: RunConfig) -> QuarantineLedger:
    """Return the videos that a run has quarantined so far."""
    place = folder_of(config).join(QUARANTINE)
    return QuarantineLedger.from_jsonl(place.read_bytes() if place.exists() else b"")


def create_or_resume(config: RunConfig) -> bool:
    """Create the run's folder, or check that it can be resumed, before anything is computed.

    Returns:
        whether the run has a checkpoint, from which it resumes.

    Raises:
        ValueError: a run of that name is finished or has another config; names the differences.
        StorageError: the folder cannot be written.
    """
    folder = folder_of(config)
    folder.check_writable()
    if folder.join(config.RESULT).exists():
        raise ValueError(
            f"run {config.name!r} is finished: {folder.join(config.RESULT).uri} exists. "
            "Give another --name, or delete the folder to start again"
        )
    place = folder.join(CONFIG)
    is_old = checkpoint_store(config).newest() is not None
    if is_old and place.exists():
        there = read_config(folder, type(config))
        differences = config.differences(there)
        if differences:
            lines = [f"{each.name} was {each.there!r}, is {each.here!r}" for each in differences]
            raise ValueError(
                f"run {config.name!r} exists with another config:\n  "
                + "\n  ".join(lines)
                + "\nGive another --name, or resume it with its own config: "
                f"--config {place.uri}"
            )
    values = {"kind": config.KIND, **config.model_dump(mode="json")}
    place.write_bytes(yaml.safe_dump(values, sort_keys=False).encode())
    return is_old


def read_config(folder: Storage, *kinds: type[C]) -> C:
    """Return the config of a run.

    Args:
        folder: of the run.
        kinds: classes of configs; the file says which of them it is.

    Raises:
        ValueError: the folder contains no config, or one that is not of these kinds.
        StorageError: it cannot be read.
    """
    configs = {config.KIND: config for config in kinds}
    place = folder.join(CONFIG)
    if not place.exists():
        raise ValueError(f"{folder.uri} is not a run folder: it contains no {CONFIG}")
    try:
        values = yaml.safe_load(place.read_bytes())
        kind = str(values.get("kind", "") if isinstance(values, Mapping) else "")
        if kind not in configs:
            raise ValueError(
                f"unknown kind of run {kind!r}, expected {' or '.join(configs)}. Folders of "
                "older versions have none and cannot be read"
            )
        return configs[kind].from_values(values)
    except (yaml.YAMLError, ValueError) as error:
        raise ValueError(f"{place.uri}: {one_line(error)}") from error


def find_run(run: str, storage: str) -> Storage:
    """Return the folder of a run, given its name below `storage`, or its path or URI.

    Raises:
        ValueError: there is none; names those that exist.
    """
    below = Storage.from_uri(storage)
    folder = Storage.from_uri(run) if "/" in run else below.join(run)
    if folder.join(CONFIG).exists():
        return folder
    missing = f"{folder.join(CONFIG).uri} does not exist"
    if "/" in run:
        raise ValueError(f"--run {run}: no run folder, {missing}")
    runs = below.list_folders()
    existing = f"runs in {below.uri}: {', '.join(runs)}" if runs else f"no run in {below.uri}"
    raise ValueError(f"--run {run}: {missing}{near_miss(run, runs)}; {existing}")


# ---- paths --------------------------------------------------------------------------------------


def with_absolute_paths(config: C) -> C:
    """Return the config with absolute local paths: workers run in other folders than the user."""
    values = config.model_dump()
    for name in config.LOCATIONS:
        *sections, field = name.split(".")
        section = reduce(dict.__getitem__, sections, values)
        section[field] = absolute(section[field])
    return type(config).model_validate(values | {"storage": Storage.from_uri(config.storage).uri})


def input_locations(config: RunConfig) -> list[Uris]:
    """Return the values of the config's `LOCATIONS`: what the run reads."""
    return [operator.attrgetter(name)(config) for name in config.LOCATIONS]


def absolute(uri: Uris) -> Uris:
    """Return the same location, or locations, for a process in any working directory."""
    if isinstance(uri, tuple):
        return tuple(str(absolute(each)) for each in uri)
    return os.path.abspath(os.path.expanduser(uri)) if is_local_path(uri) else uri


def is_local_path(uri: str) -> bool:
    """Return whether this is a file or folder of a machine."""
    return bool(uri) and "://" not in uri and not uri.startswith(corpus.SCHEME)


# ---- metrics ------------------------------------------------------------------------------------


def snapshot_name(step: int) -> str:
    """Return the name of the encoder after a step, which waits for its k-NN score."""
    return f"{SNAPSHOTS}/{step:08d}.safetensors"


def snapshot_step(name: str) -> int:
    """Return the step of a `snapshot_name`."""
    return int(name.rpartition("/")[2].partition(".")[0])


def read_metrics(folder: Storage) -> list[dict[str, float]]:
    """Return the rows of `metrics.jsonl`, in order, with the entries of `knn.jsonl` for the same
    steps."""
    knn = {row["step"]: row for row in read_rows(folder.join(KNN))}
    return [row | knn.get(row["step"], {}) for row in read_rows(folder.join(METRICS))]


def read_rows(place: Storage) -> list[dict[str, float]]:
    """Return the rows of a file of JSON lines, without a last line that was cut short."""
    if not place.exists():
        return []
    lines = place.read_bytes().split(b"\n")
    return [json.loads(line) for line in lines[:-1]]


def to_jsonl(rows: Iterable[Row]) -> bytes:
    """Return rows as JSON lines."""
    return "".join(json.dumps(row) + "\n" for row in rows).encode()
