"""Fixtures for runs on labelled and annotated videos, each in this process."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from ctp.data.stream import Batch, SampleStream
from ctp.training.config import RunConfig
from ctp.training.distributed import Worker
from ctp.training.run_folder import create_or_resume, folder_of, read_metrics
from ctp.training.trainer import TrainingSpec, train

Train = Callable[..., None]
ReadLosses = Callable[[RunConfig], list[float]]
ReadScores = Callable[[RunConfig], dict[str, Any]]


@pytest.fixture(scope="session")
def train_run() -> Train:
    """`train_run(spec, interrupt_at=None)`: create or resume the run, train to its end, or raise
    InterruptedError instead of the batch with that number."""

    def run(spec: TrainingSpec[Any], interrupt_at: int | None = None) -> None:
        def open_stream(samples: SampleStream[Any], first_sample: int) -> Iterator[Batch[Any]]:
            for number, batch in enumerate(samples.batches(first_sample, 0, 1)):
                if number == interrupt_at:
                    raise InterruptedError
                yield batch

        create_or_resume(spec.config)
        train(spec, Worker(), open_stream)

    return run


@pytest.fixture(scope="session")
def read_losses() -> ReadLosses:
    """`read_losses(config)`: the loss of each step of a run."""
    return lambda config: [row["loss"] for row in read_metrics(folder_of(config))]


@pytest.fixture(scope="session")
def read_scores() -> ReadScores:
    """`read_scores(config)`: the contents of a finished run's scores.json."""
    return lambda config: json.loads(folder_of(config).join(config.RESULT).read_bytes())
