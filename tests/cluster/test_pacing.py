"""The scheduling loop of Ray Data has a least time for each round."""

from __future__ import annotations

import time
from typing import Any

import pytest
import ray.data

from ctp.cluster.connect import cluster
from ctp.cluster.pacing import ROUND_SECONDS, PacedRounds, pace


def test_rounds_follow_each_other_at_the_pace() -> None:
    rounds, executor = PacedRounds(), None
    began = time.monotonic()
    for _ in range(5):
        rounds.on_execution_step(executor)  # type: ignore[arg-type]  # it is not used
    assert time.monotonic() - began >= 5 * ROUND_SECONDS - 0.001


@pytest.mark.filterwarnings("ignore::DeprecationWarning:ray")
def test_a_context_is_paced_once() -> None:
    context = ray.data.DataContext()
    pace(context)
    pace(context)
    assert context.custom_execution_callback_classes == [PacedRounds]


@pytest.mark.ray
@pytest.mark.filterwarnings("ignore::DeprecationWarning:ray")
def test_ray_data_keeps_the_pace(monkeypatch: pytest.MonkeyPatch) -> None:
    rounds: list[float] = []
    original = PacedRounds.on_execution_step

    def count(self: PacedRounds, executor: Any) -> None:
        original(self, executor)
        rounds.append(time.monotonic())

    monkeypatch.setattr(PacedRounds, "on_execution_step", count)
    with cluster():
        data = ray.data.range(20, override_num_blocks=20).map_batches(lambda batch: batch)
        pace(data.context)
        for _ in data.iter_batches(batch_size=None):
            time.sleep(0.05)
    assert len(rounds) > 2
    assert (rounds[-1] - rounds[0]) / (len(rounds) - 1) >= ROUND_SECONDS - 0.001
