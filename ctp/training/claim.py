"""A run's place: where its folder lies, and who may write to it."""

from __future__ import annotations

import operator
import os
from functools import reduce
from typing import TypeVar

import yaml

from ctp.data.catalog import CORPUS
from ctp.storage import Storage
from ctp.training import run_folder
from ctp.training.checkpoint import CheckpointStore
from ctp.training.config import RunConfig

C = TypeVar("C", bound=RunConfig)
Uris = str | tuple[str, ...]


def anchored(config: C) -> C:
    """The config with absolute local paths: workers run in other folders than the user."""
    values = config.model_dump()
    for name in config.LOCATIONS:
        *sections, field = name.split(".")
        section = reduce(dict.__getitem__, sections, values)
        section[field] = absolute(section[field])
    return config.replace(**values | {"storage": Storage.of(config.storage).uri})


def read_places(config: RunConfig) -> list[Uris]:
    """What a run reads: the values of its `LOCATIONS`."""
    return [operator.attrgetter(name)(config) for name in config.LOCATIONS]


def absolute(uri: Uris) -> Uris:
    """The same place, or places, wherever the process runs that reads them."""
    if isinstance(uri, tuple):
        return tuple(str(absolute(each)) for each in uri)
    return os.path.abspath(os.path.expanduser(uri)) if is_path(uri) else uri


def is_path(uri: str) -> bool:
    """Whether this is a file or folder of a machine."""
    return bool(uri) and "://" not in uri and not uri.startswith(CORPUS)


def run_storage(config: RunConfig) -> Storage:
    """Where the run's folder lies."""
    return Storage.of(config.storage).join(config.name)


def newest_clips(config: RunConfig) -> int:
    """Clips consumed at the newest checkpoint of the run; 0 before the first."""
    name = checkpoint_store(config).newest()
    return 0 if name is None else int(name.partition("-")[2]) * config.compute.total_batch


def checkpoint_store(config: RunConfig) -> CheckpointStore:
    """Where the run's checkpoints lie."""
    folder = run_storage(config).join(run_folder.CHECKPOINTS)
    return CheckpointStore(folder, config.checkpoint.keep)


def open_run(config: RunConfig) -> bool:
    """Claim the run's folder before anything is spent.

    Returns:
        Whether the run has a checkpoint, from which it is continued.

    Raises:
        ValueError: a run of that name is finished, or has another config; names what differs.
        StorageError: the folder cannot be written.
    """
    folder = run_storage(config)
    folder.check_writable()
    if folder.join(config.RESULT).exists():
        raise ValueError(
            f"run {config.name!r} is finished: {folder.join(config.RESULT).uri} is there. "
            "Give another --name, or delete the folder to start anew"
        )
    kept = folder.join(run_folder.CONFIG)
    is_old = checkpoint_store(config).newest() is not None
    if is_old and kept.exists():
        there = type(config).model_validate(yaml.safe_load(kept.read_bytes()))
        mismatch = config.mismatch(there)
        if mismatch:
            raise ValueError(
                f"run {config.name!r} exists with another config:\n  "
                + "\n  ".join(mismatch)
                + "\nGive another --name, or the run's own config to continue it: "
                f"--config {kept.uri}"
            )
    kept.write_bytes(_to_yaml(config))
    return is_old


def _to_yaml(config: RunConfig) -> bytes:
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False).encode()
