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
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict
from functools import reduce
from typing import Any, TypeVar

import yaml
from pydantic import ValidationError

from ctp.config import describe_kept, flatten, is_within, keep_stored, unflatten
from ctp.data import corpus
from ctp.data.quarantine import QuarantineLedger
from ctp.encoders.config import NAMED_WEIGHTS
from ctp.lease import Attempt
from ctp.run_names import CONFIG as CONFIG
from ctp.storage import Storage
from ctp.text import one_line
from ctp.training.checkpoint import CheckpointStore
from ctp.training.config import RunConfig
from ctp.versions import FORMAT_VERSION, check_format, describe_writer, written_by

METRICS = "metrics.jsonl"
KNN = "knn.jsonl"
SNAPSHOTS = "snapshots"
QUARANTINE = "quarantine.jsonl"
ENCODER = "encoder.safetensors"
CLASSIFIER = "classifier.safetensors"
SCORES = "scores.json"
CURVES = "curves.png"
LAST_FILE = CURVES
"""A run that has it is finished: the other files are written before."""
CONFUSION = "confusion.png"
CHECKPOINTS = "checkpoints"
TENSORBOARD = "tensorboard"

Row = Mapping[str, float | int | str]
C = TypeVar("C", bound=RunConfig)
Uris = str | tuple[str, ...]


def folder_of(config: RunConfig) -> Storage:
    """Return the folder of a run."""
    return Storage.from_uri(config.storage).join(config.name)


def checkpoint_store(config: RunConfig, attempt: Attempt | None = None) -> CheckpointStore:
    """Return the store of a run's checkpoints; `attempt` is needed to write them safely."""
    return CheckpointStore(folder_of(config).join(CHECKPOINTS), attempt=attempt)


def newest_sample(config: RunConfig) -> int:
    """Return the number of samples consumed at the newest checkpoint; 0 before the first."""
    name = checkpoint_store(config).newest()
    return 0 if name is None else int(name.partition("-")[2]) * config.compute.batch


def is_finished(config: RunConfig) -> bool:
    """Return whether the run is finished, so that nothing is left to do.

    It is not if the config has a larger `schedule.length`: then the run continues.

    Raises:
        ValueError: a run of that name is finished and has another config; names the differences.
        StorageError: the folder cannot be read.
    """
    folder = folder_of(config)
    if not folder.join(config.RESULT).exists():
        return False
    if not folder.join(CONFIG).exists():
        raise ValueError(
            f"run {config.name!r} is finished: {folder.join(config.RESULT).uri} exists, but not "
            f"its {CONFIG}. Give another --name, or delete the folder to start again"
        )
    if shorter_length(config) is not None:
        return False
    _check_same(config)
    return True


def shorter_length(config: RunConfig) -> int | None:
    """Return the length of the run in the folder if the config is that of the same run, but longer;
    otherwise None."""
    folder = folder_of(config)
    if not folder.join(CONFIG).exists():
        return None
    stored = read_config(folder, type(config))
    length = stored.schedule.length
    names = [each.name for each in config.differences(stored)]
    return length if names == ["schedule.length"] and config.schedule.length > length else None


def read_ledger(config: RunConfig) -> QuarantineLedger:
    """Return the videos that a run has quarantined so far."""
    place = folder_of(config).join(QUARANTINE)
    return QuarantineLedger.from_jsonl(place.read_bytes() if place.exists() else b"")


def create_or_resume(config: RunConfig) -> bool:
    """Create the run's folder, or check that it can be resumed, before anything is computed.

    To be called while `ctp.lease.hold` holds the folder.

    Returns:
        whether the run has a checkpoint, from which it resumes, also to train for longer.

    Raises:
        ValueError: a run of that name is finished or has another config; names the differences.
        StorageError: the folder cannot be written.
    """
    folder = folder_of(config)
    folder.check_writable()
    length, result = shorter_length(config), folder.join(config.RESULT)
    if result.exists():
        if length is None:
            raise ValueError(
                f"run {config.name!r} is finished: {result.uri} exists. Give a larger "
                "--schedule.length to continue it, another --name, or delete the folder to start "
                "again"
            )
        # its result stays, until the end of the longer run under another name
        stem, suffix = config.RESULT.split(".")
        kept = folder.join(f"{stem}-{length}-{config.schedule.unit}.{suffix}")
        kept.write_bytes(result.read_bytes())
        result.delete_file()
        print(f"the result after {length} {config.schedule.unit} is now {kept.uri}")
    store = checkpoint_store(config)
    for uri in store.without_state():
        print(f"warning: {uri} is skipped, because its state is missing", flush=True)
    is_old = store.newest() is not None
    if is_old and folder.join(CONFIG).exists() and length is None:
        _check_same(config)
    values = config_values(config)
    folder.join(CONFIG).write_bytes(yaml.safe_dump(values, sort_keys=False).encode())
    return is_old


def config_values(config: RunConfig) -> dict[str, Any]:
    """Return all values of a config for a YAML file, with its kind and score and what writes it."""
    return {
        "kind": config.KIND,
        "format_version": FORMAT_VERSION,
        "written_by": dict(written_by()),
        # for readers that cannot import the task
        "score": asdict(config.score) | {"loss_parts": list(config.score.loss_parts)},
        **config.model_dump(mode="json"),
    }


def _check_same(config: RunConfig) -> None:
    """Check that the folder contains a run of the same config.

    Raises:
        ValueError: it has another config; names the differences.
    """
    folder = folder_of(config)
    differences = config.differences(read_config(folder, type(config)))
    if differences:
        lines = [f"{each.name} was {each.there!r}, is {each.here!r}" for each in differences]
        raise ValueError(
            f"run {config.name!r} exists with another config:\n  "
            + "\n  ".join(lines)
            + "\nGive another --name, or resume it with its own config: "
            f"--config {folder.join(CONFIG).uri}"
        )


def with_stored_defaults(config: C, given: Iterable[str]) -> C:
    """Return the config with the values of the run that it resumes, where the user gave none.

    So the same command resumes a run although a default of ctp has changed. Prints each value that
    is taken from the run.

    Args:
        config: a run's config, named.
        given: dotted names of the options that the user gave.

    Raises:
        ValueError: the run's config cannot be read, or does not fit the given options.
        StorageError: the storage cannot be read.
    """
    folder = folder_of(config)
    is_old = folder.join(config.RESULT).exists() or checkpoint_store(config).newest() is not None
    if not is_old or not folder.join(CONFIG).exists():
        return config
    stored = read_config(folder, type(config))
    if stored.recipe != config.recipe:
        return config  # another recipe is no changed default: its values are meant
    return merge_stored(config, stored, given, folder.join(CONFIG).uri)


def merge_stored(config: C, stored: C, given: Iterable[str], origin: str) -> C:
    """Return a stored config with the options that the user gave, and those that may change.

    Prints each value that the user did not give and whose default was another.

    Args:
        config: the config of today's defaults and the given options.
        stored: the config to be continued.
        given: dotted names of the options that the user gave.
        origin: the file of the stored config.

    Raises:
        ValueError: the given options do not fit the stored config.
    """
    config = with_absolute_paths(config)
    kept = keep_stored(config, stored.model_dump(), [*given, *config.MAY_CHANGE, "name"])
    for line in describe_kept(config, kept, origin):
        print(line)
    return kept


def read_config(folder: Storage, *kinds: type[C], may_lack: bool = False) -> C:
    """Return the config of a run.

    Args:
        folder: of the run.
        kinds: classes of configs; the file says which of them it is.
        may_lack: let options that the file lacks, as one of an older version of ctp does, have
            their defaults. For readers that do not continue the run.

    Raises:
        ValueError: the folder contains no config, or one that is not of these kinds, or whose
            options are not those of this version of ctp.
        StorageError: it cannot be read.
    """
    place = folder.join(CONFIG)
    if not place.exists():
        raise ValueError(f"{folder.uri} is not a run folder: it contains no {CONFIG}")
    try:
        return parse_config(yaml.safe_load(place.read_bytes()), kinds, may_lack)
    except (yaml.YAMLError, ValueError) as error:
        raise ValueError(f"{place.uri}: {one_line(error)}") from error


def parse_config(values: Any, kinds: Sequence[type[C]], may_lack: bool = False) -> C:
    """Return the config with the values of a YAML file; see `read_config`.

    Raises:
        ValueError: the options are not those of this version of ctp; names each, and the version
            that wrote them.
    """
    configs = {config.KIND: config for config in kinds}
    kind = str(values.get("kind", "") if isinstance(values, Mapping) else "")
    if kind not in configs:
        what = f"it is a run of {kind}" if kind else "it does not say what kind of run it is"
        raise ValueError(f"{what}; expected {' or '.join(configs)}")
    writer = values.get("written_by")
    check_format(values.get("format_version"), writer, "the run")
    problems: list[str] = []
    config: C | None
    unknown = _unknown(configs[kind], values)
    harmless = {name for name in unknown if is_within(name, configs[kind].MAY_CHANGE)}
    if harmless:  # of an older version, and they never shaped a result
        values = _without(values, harmless)
    try:
        config = configs[kind].from_values(values)
    except ValueError as error:
        problems.append(str(error))
        config = _validated(configs[kind], _without(values, unknown))
    lacking = [] if may_lack or config is None else _lacking(config, values)
    if lacking:
        problems.append(f"there is no value of {', '.join(lacking)}")
    if problems or config is None:
        raise ValueError(
            f"{'; '.join(problems)}. It was written by {describe_writer(writer)}, and this is "
            f"{describe_writer(written_by())}. Use that version. If you know what these options "
            "are called now, and which values they had, correct the file"
        )
    return config


def _unknown(config: type[C], values: Any) -> set[str]:
    """Return those of a file's options, dotted, that a config lacks."""
    try:
        config.model_validate(values)
    except ValidationError as error:
        extra = [each["loc"] for each in error.errors() if each["type"] == "extra_forbidden"]
        return {".".join(map(str, location)) for location in extra}
    return set()


def _without(values: Mapping[str, Any], names: Collection[str]) -> dict[str, Any]:
    """Return nested values without some options, dotted."""
    return unflatten({name: value for name, value in flatten(values) if not is_within(name, names)})


def _validated(config: type[C], values: Mapping[str, Any]) -> C | None:
    """Return the config of values, None if they do not fit."""
    try:
        return config.model_validate(values)
    except ValidationError:
        return None


def _lacking(config: RunConfig, values: Mapping[str, Any]) -> list[str]:
    """Return the options that shape the result and are not among a file's values."""
    present = dict(flatten(values))
    return [
        name for name in config.flatten() if not is_within(name, [*config.MAY_CHANGE, *present])
    ]


# ---- paths --------------------------------------------------------------------------------------


def with_absolute_paths(config: C) -> C:
    """Return the config with absolute local paths: workers run in other folders than the user.

    Raises:
        ValueError: there is no run of the name of the initial weights.
        StorageError: the storage cannot be read.
    """
    values = with_absolute_weights(config).model_dump()
    for name in config.LOCATIONS:
        *sections, field = name.split(".")
        section = reduce(dict.__getitem__, sections, values)
        section[field] = absolute(section[field])
    return type(config).model_validate(values | {"storage": Storage.from_uri(config.storage).uri})


def with_absolute_weights(config: C) -> C:
    """Return the config with initial weights that are the same in any folder; raises as
    `with_absolute_paths`."""
    from ctp.encoders.weights import absolute_weights  # torch, which holding a config does not need

    name = config.WEIGHTS
    return config.replace(**{name: absolute_weights(getattr(config, name), config.storage)})


def input_locations(config: RunConfig) -> list[Uris]:
    """Return what the run reads: the values of the config's `LOCATIONS`, and the file of its
    initial weights."""
    weights = getattr(config, config.WEIGHTS)
    files = [] if weights in NAMED_WEIGHTS else [weights]
    return [operator.attrgetter(name)(config) for name in config.LOCATIONS] + files


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


def read_scores(
    config: RunConfig, folder: Storage, rows: Sequence[Mapping[str, Any]]
) -> Mapping[str, Any]:
    """Return the scores of a run: its scores.json, or without a test its last log line with a
    score; nothing if there are none yet.

    Args:
        config: of the run.
        folder: of the run.
        rows: its log.
    """
    if config.RESULT != SCORES:
        return next((row for row in reversed(rows) if config.score.key in row), {})
    place = folder.join(SCORES)
    scores: Mapping[str, Any] = json.loads(place.read_bytes()) if place.exists() else {}
    return scores


def read_rows(place: Storage) -> list[dict[str, float]]:
    """Return the rows of a file of JSON lines, without a last line that was cut short."""
    if not place.exists():
        return []
    lines = place.read_bytes().split(b"\n")
    return [json.loads(line) for line in lines[:-1]]


def to_jsonl(rows: Iterable[Row]) -> bytes:
    """Return rows as JSON lines."""
    return "".join(json.dumps(row) + "\n" for row in rows).encode()
