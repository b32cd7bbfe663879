"""Making features by Ray Data: readers decode a part's videos, encoders encode them, tasks write.

A block is a part at every stage, so none waits for another one, and none need be in order.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import ray
import ray.data
from ray.data import ActorPoolStrategy, Dataset
from ray.util.annotations import RayDeprecationWarning

from ctp.cluster.connect import Demand, check_cluster
from ctp.cluster.faults import told_in_a_line
from ctp.downstream.embed_config import EmbedScalingConfig
from ctp.downstream.extraction import Extraction, PartReader, embed_part
from ctp.downstream.feature_folder import write_part
from ctp.downstream.features import open_embedder
from ctp.storage import Storage
from ctp.video.views import guarded_views

BLOCKS_PER_INPUT_BLOCK = 20_000
MAX_TASKS_IN_FLIGHT = 2
MAX_TASK_RETRIES = 3
"""What kills an actor, rather than the process that it decodes in, would do so for ever."""
CPUS_PER_WRITER = 0.25
NEVER_SPLIT_BYTES = 2**40

Block = dict[str, np.ndarray]


def demands(scaling: EmbedScalingConfig) -> list[Demand]:
    """What making features needs."""
    gpus = float(scaling.use_gpu)
    return [
        Demand(
            "reader",
            scaling.num_readers,
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


def extract(extraction: Extraction, show: Callable[[int], None]) -> None:
    """Make all parts that are left, on the cluster that is joined.

    Args:
        extraction: what is to be done.
        show: is told how many videos are done since it was told last.

    Raises:
        ValueError: the cluster has too few CPUs or GPUs.
        StoppedError: the storage fails, processes end that work on no video, or a feature is
            infinite.
    """
    check_cluster(demands(extraction.config.scaling), "the cluster")
    with told_in_a_line():
        for row in _written(extraction).iter_rows():
            show(int(row["videos"]))


def _written(extraction: Extraction) -> Dataset:
    """How many videos a part had, a row for each part when it is written."""
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.target_max_block_size = NEVER_SPLIT_BYTES
    scaling, number = extraction.config.scaling, len(extraction.left)
    encoder = ray.put(extraction.encoder)
    work = replace(extraction, encoder=b"")  # large: once in the object store
    input_blocks = -(-number // BLOCKS_PER_INPUT_BLOCK)
    parts = ray.data.range(number, override_num_blocks=max(input_blocks, 1))
    read = _by_actors(
        parts.repartition(target_num_rows_per_block=1),
        _Reader,
        (work,),
        scaling.num_readers,
        num_cpus=scaling.cpus_per_reader,
    )
    encoded = _by_actors(
        read,
        _Encoder,
        (work, encoder),
        scaling.num_encoders,
        num_cpus=scaling.cpus_per_encoder,
        num_gpus=float(scaling.use_gpu),
    )
    write = partial(_write, folder=extraction.folder.uri)
    return encoded.map_batches(write, batch_size=None, num_cpus=CPUS_PER_WRITER)


def _by_actors(
    blocks: Dataset, work: type, arguments: tuple[Any, ...], number: int, **resources: Any
) -> Dataset:
    """Each block through one of `number` actors of a class."""
    with warnings.catch_warnings():
        # until 2.64 there is no other way to give max_task_retries
        warnings.simplefilter("ignore", RayDeprecationWarning)
        return blocks.map_batches(
            work,
            fn_constructor_args=arguments,
            batch_size=None,
            compute=ActorPoolStrategy(
                size=number, max_tasks_in_flight_per_actor=MAX_TASKS_IN_FLIGHT
            ),
            max_task_retries=MAX_TASK_RETRIES,
            **resources,
        )


class _Reader:
    """An actor that decodes the videos of a part, in a process that may be lost."""

    def __init__(self, work: Extraction):
        config, self._left = work.config, work.left
        decode = guarded_views(config.views, config.data.max_seconds_per_video)
        self._reader = PartReader(config, work.catalog, decode)

    def __call__(self, row: Block) -> Block:
        number = self._left[int(row["id"][0])]
        rows = self._reader.read(number)
        return {**rows, "part": np.full(len(rows["id"]), number)}


class _Encoder:
    """An actor that makes features of a part's views."""

    def __init__(self, work: Extraction, encoder: Any):
        self._embedder = open_embedder(work.config, ray.get(encoder))

    def __call__(self, rows: Block) -> Block:
        return {**embed_part(self._embedder, rows), "part": rows["part"]}


def _write(rows: Block, folder: str) -> Block:
    write_part(Storage.of(folder), int(rows["part"][0]), rows)
    return {"videos": np.array([len(rows["id"])])}
