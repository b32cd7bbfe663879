"""Keep Ray Data's scheduling loop from taking a core."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from ray.data import DataContext
from ray.data._internal.execution.execution_callback import ExecutionCallback

if TYPE_CHECKING:
    from ray.data._internal.execution.streaming_executor import StreamingExecutor

ROUND_SECONDS = 0.1
"""Least time of a round: short beside the time that an actor takes for its next two blocks."""


class PacedRounds(ExecutionCallback):
    """Gives every round of the scheduling loop a least duration.

    A round waits for a task to finish. If a finished block must wait until the workers have
    consumed others, it returns at once, round after round: while a run is limited by its training
    step, the loop takes most of a core (Ray 2.60).
    """

    def __init__(self) -> None:
        self._ended = time.monotonic()

    def on_execution_step(self, executor: StreamingExecutor) -> None:
        """Wait for the rest of the round."""
        time.sleep(max(self._ended + ROUND_SECONDS - time.monotonic(), 0))
        self._ended = time.monotonic()


def pace(context: DataContext) -> None:
    """Pace the datasets of a context."""
    classes = context.custom_execution_callback_classes
    if PacedRounds not in classes:
        context.custom_execution_callback_classes = [*classes, PacedRounds]
