"""Find the folder of a run, however the user names it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path

from ctp.storage import Storage, StorageError
from ctp.text import near_miss, nearest

RUNS = "runs"
"""Where run folders are, if nothing else is said."""
PRETRAINED = Path(__file__).parent / "encoders" / "pretrained"
"""Folders with the encoders that are part of ctp, found by their names like runs."""
CONFIG = "config.yaml"
"""The file that every run folder has."""
MAX_LISTED = 10


def find_run_folder(run: str, storage: str = RUNS, files: Sequence[str] = (CONFIG,)) -> Storage:
    """Return the folder of a run.

    Args:
        run: its name below `storage` or `PRETRAINED`, the path or URI of its folder, or of a file
            in its folder.
        storage: folder or URI of run folders.
        files: names of files, at least one of which is in the folder.

    Raises:
        ValueError: there is no such folder; names the runs that exist, the most similar first.
        StorageError: the storage cannot be read.
    """
    below, place = Storage.from_uri(storage), Storage.from_uri(run)
    is_path = "/" in run
    is_relative = "://" not in run and not run.startswith(("/", "~"))
    named = [below.join(*run.split("/"))] if is_relative else []
    # last: a run of the user with the name of an encoder of ctp comes first
    own = Storage.from_uri(PRETRAINED).join(run)
    for folder in [place, *named] if is_path else [*named, place, own]:
        for each in (folder, folder.parent) if folder.is_file() else (folder,):
            if run and any(each.join(file).exists() for file in files):
                return each
    looked_in = place if is_path else below.join(run)
    around, name = below, run.rpartition("/")[2]
    if is_path and (beside := _runs_in(place.parent, name)):
        around, runs = place.parent, beside
    else:
        runs = _runs_in(below, name)
    there = f"runs there: {', '.join(runs)}" if runs else "there is no run"
    pretrained = [
        p.name for p in PRETRAINED.iterdir() if any((p / file).exists() for file in files)
    ]
    raise ValueError(
        f"no run {run!r}{near_miss(name, [*runs, *pretrained])}: {looked_in.uri} has no "
        f"{' or '.join(files)}. Expected a name in {around.uri} ({there}), "
        f"{''.join(f'{each}, ' for each in pretrained)}or the path or URI of a run's folder"
    )


def _runs_in(folder: Storage, name: str) -> list[str]:
    """Return the names of some runs in a folder, the most similar to `name` first."""
    with suppress(StorageError):  # the folder need not be readable: its runs are only a hint
        names = nearest(name, folder.list_folders())
        return list(islice((n for n in names if folder.join(n, CONFIG).exists()), MAX_LISTED))
    return []
