"""A run's place: where its folder lies, and who may write to it."""

from __future__ import annotations

import os

import yaml

from ctp.pretext.config import PretrainConfig
from ctp.storage import Storage
from ctp.training import run_folder
from ctp.training.checkpoint import CheckpointStore
from ctp.video.catalog import CORPUS


def anchored(config: PretrainConfig) -> PretrainConfig:
    """The config with absolute local paths: workers run in other folders than the user."""
    data = config.data.replace(
        uri=_absolute(config.data.uri), heldout_uri=_absolute(config.data.heldout_uri)
    )
    return config.replace(
        storage=Storage.of(config.storage).uri,
        data=data,
        initial_encoder=_absolute(config.initial_encoder) if config.initial_encoder else "",
    )


def run_storage(config: PretrainConfig) -> Storage:
    """Where the run's folder lies."""
    return Storage.of(config.storage).join(config.name)


def newest_clips(config: PretrainConfig) -> int:
    """Clips consumed at the newest checkpoint of the run; 0 before the first."""
    name = checkpoint_store(config).newest()
    return 0 if name is None else int(name.partition("-")[2]) * config.compute.total_batch


def checkpoint_store(config: PretrainConfig) -> CheckpointStore:
    """Where the run's checkpoints lie."""
    folder = run_storage(config).join(run_folder.CHECKPOINTS)
    return CheckpointStore(folder, config.checkpoint.keep)


def open_run(config: PretrainConfig) -> bool:
    """Claim the run's folder before anything is spent.

    Returns:
        Whether the run has a checkpoint, from which it is continued.

    Raises:
        ValueError: a run of that name is finished, or has another config; names what differs.
        StorageError: the folder cannot be written.
    """
    folder = run_storage(config)
    folder.check_writable()
    if folder.join(run_folder.ENCODER).exists():
        raise ValueError(
            f"run {config.name!r} is finished: {folder.join(run_folder.ENCODER).uri} is there. "
            "Give another --name, or delete the folder to start anew"
        )
    kept = folder.join(run_folder.CONFIG)
    is_old = checkpoint_store(config).newest() is not None
    if is_old and kept.exists():
        there = PretrainConfig.model_validate(yaml.safe_load(kept.read_bytes()))
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


def _to_yaml(config: PretrainConfig) -> bytes:
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False).encode()


def _absolute(uri: str | tuple[str, ...]) -> str | tuple[str, ...]:
    if isinstance(uri, tuple):
        return tuple(str(_absolute(each)) for each in uri)
    is_path = "://" not in uri and not uri.startswith(CORPUS)
    return os.path.abspath(os.path.expanduser(uri)) if is_path else uri
