"""Computing features by Ray Data: readers decode the videos of a part, encoders encode them.

A block is a part at every stage, so that no part waits for another one.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import ray
import ray.data
import torch
from ray.data import Dataset

from ctp.cluster.connect import Demand, check_cluster, check_place, cluster, find_place
from ctp.cluster.errors import stopped_errors
from ctp.cluster.losses import keep_losses, open_journal
from ctp.cluster.memory import DecoderMemory
from ctp.cluster.path_visibility import check_lasting
from ctp.cluster.stream import Columns, map_by_actors
from ctp.cluster.waiting import silence_reported
from ctp.data.parquet_folder import QUARANTINE, find_beside
from ctp.data.quarantine import QuarantineLedger, format_quarantined
from ctp.downstream.embed_config import EmbedConfig, EmbedScalingConfig
from ctp.downstream.extraction import Extraction, embed_part, open_extraction, read_part
from ctp.downstream.feature_folder import Counts, finish, write_part
from ctp.downstream.features import open_embedder
from ctp.lease import Attempt, hold
from ctp.progress import VideoCounter, duration
from ctp.storage import Storage
from ctp.training.config import AUTO
from ctp.video.limits import DecodingLimits

NEVER_SPLIT_BYTES = 2**40


def demands(scaling: EmbedScalingConfig) -> list[Demand]:
    """Return the processes that computing features needs."""
    gpus = float(scaling.use_gpu)
    return [
        Demand(
            "reader",
            scaling.readers,
            scaling.cpus_per_reader,
            0.0,
            "scaling.num_readers or cpus_per_reader",
        ),
        Demand(
            "encoder",
            scaling.num_encoders,
            scaling.cpus_per_encoder,
            gpus,
            "scaling.num_encoders or cpus_per_encoder",
        ),
    ]


def embed(config: EmbedConfig) -> str:
    """Compute features of videos, on this machine or on the cluster that `RAY_ADDRESS` names.

    Returns:
        the URI of their folder, for `feature_folder.read_features`.

    Raises:
        ValueError: an option, the encoder or the cluster does not fit, or no video can be used.
        LeaseError: another process writes the folder.
        StoppedError: the storage fails, or a feature is not finite.
    """
    started = time.monotonic()
    config = _with_chosen_scaling(config)
    check_place(demands(config.scaling))
    check_lasting(config.out, "out")
    extraction = open_extraction(config)
    folder = extraction.folder
    with hold(folder, "embed") as lease:
        counts = _embed_held(extraction.held(lease.attempt), lease.attempt)
    print(f"{counts.videos} videos, {counts.clips} features, {counts.quarantined} quarantined")
    if counts.quarantined:
        place = find_beside(folder, QUARANTINE)
        ledger = list(QuarantineLedger.from_jsonl(place.read_bytes()))
        print(format_quarantined(ledger, place.uri))
    if not counts.videos:
        raise ValueError("no video can be used; see the reasons above")
    print(f"{folder.uri} after {duration(time.monotonic() - started)}")
    return folder.uri


def _with_chosen_scaling(config: EmbedConfig) -> EmbedConfig:
    """Return the config with a number of readers in place of "auto", and print it."""
    if config.scaling.num_readers != AUTO:
        return config
    place = find_place()
    scaling = config.scaling.choose(place.cpus)
    print(f"chosen from {place}: scaling.num_readers {scaling.num_readers}")
    return config.replace(scaling=scaling)


def _embed_held(extraction: Extraction, attempt: Attempt) -> Counts:
    """Compute the features of a folder that is held, and finish it."""
    print(extraction.describe(), flush=True)
    if slow := extraction.catalog.describe_long():
        print(slow)
    if extraction.left:
        scaling, data = extraction.config.scaling, extraction.config.data
        limits = DecodingLimits(data.max_megapixels)
        memory = DecoderMemory.from_catalog(limits, extraction.catalog, extraction.part_bytes)
        print(f"each of {scaling.readers} reader(s) takes {memory.describe()}")
        paths = extraction.folder.uri, data.uri
        number = extraction.videos_in(extraction.left)
        with cluster(paths=paths), VideoCounter(number) as counter:
            extract(extraction, counter.add)
    else:
        print(f"{extraction.folder.uri} is finished: all parts exist")
    attempt.check()
    manifest = finish(extraction.folder, extraction.manifest, extraction.catalog.quarantined)
    assert manifest.counts is not None
    return manifest.counts


def extract(extraction: Extraction, report: Callable[[int], None]) -> None:
    """Compute all parts that are left, on the cluster that is joined.

    Args:
        extraction: the features to be made.
        report: called with the number of videos done since its last call.

    Raises:
        ValueError: the cluster has too few CPUs or GPUs.
        StoppedError: the storage fails, or a feature is not finite.
    """
    check_cluster(demands(extraction.config.scaling), "the cluster")
    needed = demands(extraction.config.scaling)
    with stopped_errors(), silence_reported("finished part", needed) as progress:
        for row in _written(extraction, keep_losses()).iter_rows():
            progress()
            report(int(row["videos"]))


def _written(extraction: Extraction, losses: Any) -> Dataset:
    """Return the number of videos of each part, a row when the part is written."""
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.target_max_block_size = NEVER_SPLIT_BYTES
    scaling = extraction.config.scaling
    encoder = ray.put(extraction.encoder)
    work = replace(extraction, encoder=b"")  # it is large: once in the object store
    parts = [{"number": number} for number in extraction.left]
    read = map_by_actors(
        ray.data.from_items(parts, override_num_blocks=len(parts)),
        _Reader,
        (work, losses),
        min(scaling.readers, len(parts)),
        num_cpus=scaling.cpus_per_reader,
    )
    # readers and encoders work at the same time, each at its own pace
    encoded = map_by_actors(
        read,
        _Encoder,
        (work, encoder),
        min(scaling.num_encoders, len(parts)),
        num_cpus=scaling.cpus_per_encoder,
        num_gpus=float(scaling.use_gpu),
    )
    write = partial(_write, folder=extraction.folder.uri, attempt=extraction.attempt)
    return encoded.map_batches(write, batch_size=None, num_cpus=0)


class _Reader:
    """An actor that decodes the videos of a part. A bad video may end its process."""

    def __init__(self, work: Extraction, losses: Any):
        max_seconds = work.config.data.max_seconds_per_video
        self._journal = open_journal(losses, max_seconds, slow=True)
        torch.set_num_threads(1)
        self._work = work

    def __call__(self, row: Columns) -> Columns:
        number = int(row["number"][0])
        with self._journal.task():
            rows = read_part(self._work.config, self._work.catalog, number, self._journal)
        return {**rows, "part": np.full(len(rows["id"]), number)}


class _Encoder:
    """An actor that computes the features of a part's views."""

    def __init__(self, work: Extraction, encoder: Any):
        self._embedder = open_embedder(work.config, ray.get(encoder))

    def __call__(self, rows: Columns) -> Columns:
        return {**embed_part(self._embedder, rows), "part": rows["part"]}


def _write(rows: Columns, folder: str, attempt: Attempt | None) -> Columns:
    if attempt is not None:
        attempt.check()
    write_part(Storage.from_uri(folder), int(rows["part"][0]), rows)
    return {"videos": np.array([len(rows["id"])])}
