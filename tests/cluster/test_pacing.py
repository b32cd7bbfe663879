"""The scheduling loop of Ray Data has a least time for each round."""

from __future__ import annotations

import time

import pytest
import ray.data

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
