"""List the runs of a storage with state, checkpoints and score; prune and delete runs."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal

from ctp.downstream.config import FinetuneConfig
from ctp.lease import ATTEMPTS, Outcome, hold, read_claims, read_lease
from ctp.pretext.config import PretrainConfig
from ctp.progress import duration
from ctp.report.runs import RUN_CONFIGS
from ctp.run_names import find_run_folder
from ctp.storage import Storage, StorageError
from ctp.text import one_line
from ctp.training import run_folder
from ctp.training.checkpoint import CheckpointStore
from ctp.training.config import RunConfig
from ctp.training.run_folder import CHECKPOINTS, CONFIG, METRICS
from ctp.versions import describe_writer

State = Literal["running", "finished", "failed", "stopped", "unreadable"]
SWEEP_RUNS = "runs"
"""The folder of a sweep's runs, in the sweep's folder."""
READ_AT_ONCE = 16
TAIL_BYTES = 2**18
"""How much of a log is read at first; it holds the last hundreds of its lines."""
NONE = "–"


@dataclass(frozen=True)
class RunSummary:
    """A run in a list.

    Attributes:
        name: name of its folder, below the storage.
        kind: what it does, e.g. "pretrain ctp".
        state: running: a process holds its lease; finished: its last file is written; failed: its
            last process ended by an error; stopped: it has ended or was lost before its end;
            unreadable: see `headline`.
        step: steps in its log, or at its last checkpoint.
        checkpoint_seconds: age of its last checkpoint, None if there is none.
        headline: the score that it is judged by, or why it failed or is unreadable.
    """

    name: str
    kind: str
    state: State
    step: int
    checkpoint_seconds: float | None
    headline: str

    @property
    def cells(self) -> list[str]:
        """Return its line in a table, see `COLUMNS`."""
        age = self.checkpoint_seconds
        since = NONE if age is None else f"{duration(age)} ago"
        return [self.name, self.kind, self.state, str(self.step), since, self.headline or NONE]


COLUMNS = ("name", "kind", "state", "step", "checkpoint", "score")


def list_runs(storage: str) -> list[RunSummary]:
    """Return the runs below a storage, also those of its sweeps, sorted by name.

    Raises:
        ValueError: there are none.
        StorageError: the storage cannot be listed.
    """
    below = Storage.from_uri(storage)
    with ThreadPoolExecutor(READ_AT_ONCE) as pool:
        names = list(_run_names(below, pool))
        if not names:
            raise ValueError(f"no run in {below.uri}: expected folders with a {CONFIG}")
        return list(pool.map(lambda name: summarise(below, name), names))


def _run_names(below: Storage, pool: ThreadPoolExecutor) -> Iterator[str]:
    folders = below.list_folders()
    is_run = pool.map(lambda name: below.join(name, CONFIG).exists(), folders)
    for name, found in zip(folders, is_run, strict=True):
        if found:
            yield name
        elif trials := below.join(name, SWEEP_RUNS).list_folders():
            yield from (f"{name}/{SWEEP_RUNS}/{trial}" for trial in trials)


def summarise(below: Storage, name: str) -> RunSummary:
    """Return the summary of a run below a storage."""
    return summarise_folder(below.join(*name.split("/")), name)


def summarise_folder(folder: Storage, name: str) -> RunSummary:
    """Return the summary of a run's folder, which may be unreadable."""
    try:
        config = run_folder.read_config(folder, *RUN_CONFIGS.values(), may_lack=True)
        return _summarise(folder, name, config)
    except (ValueError, StorageError) as error:
        return RunSummary(name, NONE, "unreadable", 0, None, one_line(error))


def _summarise(folder: Storage, name: str, config: RunConfig) -> RunSummary:
    state, reason = read_state(folder, config.RESULT)
    rows = _last_rows(folder.join(METRICS), config.score.key)
    store = CheckpointStore(folder.join(CHECKPOINTS))
    newest, age = store.newest(), None
    if newest is not None:
        written_ns = store.manifest_place(newest).version()[1]
        age = None if written_ns is None else max(time.time() - written_ns / 1e9, 0.0)
    saved = 0 if newest is None else store.read_manifest(newest).step
    headline = config.score.describe(run_folder.read_scores(config, folder, rows))
    headline = one_line(f"{headline} {reason}") if reason else headline
    return RunSummary(
        name=name,
        kind=kind_of(config),
        state=state,
        step=max([saved, *(int(row["step"]) for row in rows[-1:])]),
        checkpoint_seconds=age,
        headline=headline,
    )


def kind_of(config: RunConfig) -> str:
    """Return the kind of a run, for pretraining with its task and for a probe with its protocol."""
    if isinstance(config, PretrainConfig):
        return f"{config.KIND} {config.task.name}"
    if isinstance(config, FinetuneConfig) and config.protocol != config.KIND:
        return f"{config.KIND} {config.protocol}"
    return config.KIND


def read_state(folder: Storage, result: str) -> tuple[State, str]:
    """Return the state of a run, and why it failed or "".

    Args:
        folder: of the run.
        result: the file that the run is for.

    Raises:
        StorageError: it cannot be read.
    """
    lease = read_lease(folder)
    if lease is not None and lease.is_probably_live:
        return "running", ""
    if folder.join(result).exists() and folder.join(run_folder.LAST_FILE).exists():
        return "finished", ""
    if lease is not None and lease.heartbeat.outcome is Outcome.FAILED:
        return "failed", lease.heartbeat.reason
    return "stopped", ""


def _last_rows(place: Storage, key: str) -> Sequence[Mapping[str, Any]]:
    """Return the last rows of a log, down to one with an entry `key` if there is one."""
    size = place.version()[0]
    if size is None:
        return []
    start = max(size - TAIL_BYTES, 0)
    lines = place.read_bytes(start).split(b"\n")
    rows = [json.loads(line) for line in lines[bool(start) : -1]]  # without what was cut
    return rows if not start or any(key in row for row in rows) else run_folder.read_rows(place)


# ---- one run ------------------------------------------------------------------------------------


def find_run(storage: str, name: str) -> Storage:
    """Return the folder of a run, also of one that was lost at its start; see `find_run_folder`."""
    return find_run_folder(name, storage, (CONFIG, ATTEMPTS))  # claims come before the config


def describe_run(storage: str, name: str) -> list[str]:
    """Return lines about a run: state, checkpoints, and the processes that wrote it.

    Raises:
        ValueError: there is no such run.
        StorageError: it cannot be read.
    """
    folder = find_run(storage, name)
    summary, lease = summarise_folder(folder, name), read_lease(folder)
    lines = [
        f"{folder.uri}: {summary.kind}, {summary.state}, step {summary.step}",
        *([summary.headline] if summary.headline else []),
    ]
    if summary.state == "running" and lease is not None:
        lines.append(f"held by {lease.claim.describe()}")
    store = CheckpointStore(folder.join(CHECKPOINTS))
    lines += ["", "checkpoints:"]
    lines += [_describe_checkpoint(store, each) for each in store.complete()] or ["  none"]
    lines += ["", "attempts:"]
    for claim in read_claims(folder):
        lines.append(f"  {claim.describe()}: {describe_writer(claim.written_by)}")
    return lines


def _describe_checkpoint(store: CheckpointStore, name: str) -> str:
    manifest = store.read_manifest(name)
    return (
        f"  {name}, {manifest.bytes / 2**20:.1f} MiB, by attempt {manifest.attempt}, "
        f"{describe_writer(manifest.written_by)}"
    )


def prune_run(storage: str, name: str, keep: int) -> list[str]:
    """Delete all but the newest `keep` checkpoints of a run, and what was left half-written.

    Returns:
        the names of the deleted checkpoints.

    Raises:
        ValueError: there is no such run.
        FolderInUseError: it is running.
        StorageError: something cannot be deleted.
    """
    folder = find_run(storage, name)
    with hold(folder, "prune") as lease:
        store = CheckpointStore(folder.join(CHECKPOINTS), attempt=lease.attempt)
        return store.prune(keep)


def delete_run(storage: str, name: str) -> None:
    """Delete the folder of a run.

    Raises:
        ValueError: there is no such run.
        FolderInUseError: it is running.
        StorageError: something cannot be deleted.
    """
    folder = find_run(storage, name)
    with hold(folder, "delete") as lease:
        lease.delete_folder()
