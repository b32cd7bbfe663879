"""A log line says by how much the workers are apart."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from ctp.pretext.config import PretrainConfig
from ctp.pretext.pretraining import open_pretraining
from ctp.training.run_folder import folder_of, read_metrics
from ctp.training.trainer import TrainingSpec

LATE_SECONDS = 0.3


def skews(config: PretrainConfig) -> list[float]:
    rows = read_metrics(folder_of(config))
    return [row["step_skew_seconds"] for row in rows if "step_skew_seconds" in row]


@pytest.mark.slow
def test_a_worker_whose_batches_come_late_is_seen(
    small_run: PretrainConfig, train_as_two: Callable[..., None]
) -> None:
    train_as_two(open_pretraining, small_run, late_seconds=LATE_SECONDS)
    found = skews(small_run)
    assert len(found) == 4  # after steps 2, 3, 4 and 6, where something is due
    assert min(found) == pytest.approx(LATE_SECONDS, rel=0.5)  # on a busy machine, too


def test_a_worker_alone_is_apart_from_nobody(
    small_run: PretrainConfig, train_alone: Callable[[TrainingSpec[Any]], None]
) -> None:
    train_alone(open_pretraining(small_run))
    assert set(skews(small_run)) == {0.0}
