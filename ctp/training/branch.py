"""Start a new run from the checkpoint of another one."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

from ctp.config import is_within, keep_stored, option_names
from ctp.lease import hold
from ctp.run_names import find_run_folder
from ctp.storage import Storage
from ctp.training.checkpoint import CheckpointStore
from ctp.training.config import RunConfig
from ctp.training.run_folder import (
    CHECKPOINTS,
    METRICS,
    checkpoint_store,
    create_or_resume,
    folder_of,
    read_config,
    with_absolute_paths,
)

C = TypeVar("C", bound=RunConfig)
MAY_DIFFER = (
    *("schedule", "optimizer.learning_rate", "optimizer.weight_decay"),
    *("compute.precision", "compute.compile", "sampling", "augment", "clips_per_test_video"),
)
"""Options, besides `MAY_CHANGE`, that can change when a training continues from a checkpoint. The
state in it, or its place in the order of the clips, depends on the others; some would be ignored,
such as the initial weights."""


def branch(config: C, source: str, given: Iterable[str]) -> C:
    """Create a run folder with the newest checkpoint of another run, and return its config.

    Nothing is done if the folder has a checkpoint already: the same command resumes the new run.

    Args:
        config: of the new run, with its name.
        source: the other run, as in `find_run_folder`.
        given: dotted names of the options that the user gave; all others are those of the source.

    Raises:
        ValueError: there is no such run, it has no checkpoint or no step is left, or the options
            do not fit the checkpoint.
        FolderInUseError: another process writes the new run.
        StorageError: something cannot be read or written.
    """
    folder = find_run_folder(source, config.storage)
    stored = read_config(folder, type(config))
    own = ["name", "storage", *given]
    branched = with_absolute_paths(keep_stored(config, stored.model_dump(), own))
    branched = branched.replace(recipe=stored.recipe)
    if checkpoint_store(branched).newest() is not None:
        return branched
    _check(branched, stored, folder)
    store = CheckpointStore(folder.join(CHECKPOINTS))
    newest = store.newest()
    if newest is None:
        raise ValueError(f"run {folder.uri} has no checkpoint to start from")
    with hold(folder_of(branched), branched.KIND) as lease:
        create_or_resume(branched)
        own_store = checkpoint_store(branched, lease.attempt)
        # the log first: a checkpoint that is newer than the log would leave a gap
        folder_of(branched).join(METRICS).write_bytes(folder.join(METRICS).read_bytes())
        own_store.save(store.load(newest))
        own_store.close()
    print(f"run {branched.name!r} starts from {folder.uri}, {newest}")
    return branched


def _check(branched: RunConfig, stored: RunConfig, folder: Storage) -> None:
    changed = branched.differences(stored)
    fixed = [str(each) for each in changed if not is_within(each.name, ("name", *MAY_DIFFER))]
    if fixed:
        allowed = [each for each in MAY_DIFFER if is_within(each, option_names(type(branched)))]
        raise ValueError(
            f"--from {folder.uri} continues the same training on the same videos: "
            f"{'; '.join(fixed)}. It may change {', '.join(allowed)}. To start from the weights "
            "alone, give them as initial weights"
        )
    if folder.join(stored.RESULT).exists():
        length = stored.schedule.length
        if branched.schedule.length <= length or branched.schedule.unit != stored.schedule.unit:
            raise ValueError(
                f"{folder.uri} is finished after {length} {stored.schedule.unit}: give a larger "
                "--schedule.length for the new run"
            )
