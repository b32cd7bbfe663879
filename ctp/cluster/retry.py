"""Decide whether the workers of a run are restarted after a failure.

`decide` is a pure function of the failure and of those before it; `ctp.cluster.train` acts.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

import torch
from ray.exceptions import (
    ActorUnavailableError,
    NodeDiedError,
    OutOfMemoryError,
    RayActorError,
    RayError,
    RayTaskError,
    WorkerCrashedError,
)
from ray.train import ControllerError, TrainingFailedError, WorkerGroupError

from ctp.data.journal import DecodersDiedError

MAX_EQUAL_ERRORS = 2
"""A second equal error without a step in between shows that a restart does not help."""
MAX_DEATHS = 3
"""A process may be killed for a reason outside the run, so it has one more chance."""
FINAL_ERRORS = (
    torch.OutOfMemoryError,  # of a device, whose memory no one else uses
    ValueError,
    FloatingPointError,
    ImportError,
    DecodersDiedError,
)
"""Errors that occur again each time that the same command is started."""
MAX_ERROR_CHARS = 2000


class Cause(Enum):
    """The cause of the workers' end. If several causes are found, the first one counts.

    When a worker is lost, the others fail too, because they cannot reach it. So a lost worker
    counts more than any error that may follow from it.
    """

    FINAL_ERROR = "a worker raised an error that a restart cannot fix"
    NODE_LOST = "a node was lost"
    PROCESS_DIED = "the process of a worker died"
    STORAGE_ERROR = "a worker could not use the storage"
    ERROR = "a worker raised an error"


@dataclass(frozen=True)
class Failure:
    """The end of a run's workers.

    Attributes:
        cause: what ended them.
        error: the error's type and message.
        step: the last step that was logged before.
    """

    cause: Cause
    error: str
    step: int

    @classmethod
    def from_error(cls, error: TrainingFailedError, step: int, *, node_lost: bool) -> Failure:
        """Classify what `trainer.fit()` raised.

        Args:
            error: the error.
            step: the last step that was logged.
            node_lost: whether a node of the workers was lost.
        """
        causes = {_cause(each): each for each in reversed(_errors(error))}
        if node_lost:
            causes.setdefault(Cause.NODE_LOST, error)
        cause = next(each for each in Cause if each in causes)
        return cls(cause, _describe(causes[cause]), step)

    def is_repetition_of(self, other: Failure) -> bool:
        """Return whether nothing happened between the other failure and an equal one."""
        numbers = re.compile(r"0x[0-9a-f]+|\d+")  # addresses and process ids differ
        ours, theirs = (numbers.sub("#", each.error) for each in (self, other))
        is_same = self.cause is Cause.PROCESS_DIED or ours == theirs
        return self.cause is other.cause and is_same and self.step <= other.step


class Decision(NamedTuple):
    """Whether to start the workers again.

    Attributes:
        reason_to_stop: None to start them again.
        is_final: the same command would fail again.
    """

    reason_to_stop: str | None
    is_final: bool = False


def decide(failure: Failure, history: Sequence[Failure], max_failures: int) -> Decision:
    """Decide whether the workers start again.

    Args:
        failure: what ended them now.
        history: earlier failures, oldest first.
        max_failures: restarts, besides those for lost nodes; -1: no limit.
    """
    if failure.cause is Cause.NODE_LOST:
        return Decision(None)
    if failure.cause is Cause.FINAL_ERROR:
        return Decision(failure.error, is_final=True)
    others = [each for each in history if each.cause is not Cause.NODE_LOST]
    equal = 1
    while equal <= len(others) and failure.is_repetition_of(others[-equal]):
        equal += 1
    limit = MAX_DEATHS if failure.cause is Cause.PROCESS_DIED else MAX_EQUAL_ERRORS
    if equal >= limit:
        return Decision(
            f"{failure.cause.value} {equal} times after step {failure.step}, without a further "
            f"step: {failure.error}",
            is_final=failure.cause is not Cause.STORAGE_ERROR,
        )
    if 0 <= max_failures <= len(others):
        return Decision(
            f"{failure.cause.value}, after {len(others)} restarts; scaling.max_failures = "
            f"{max_failures} allows no more: {failure.error}"
        )
    return Decision(None)


def _errors(error: TrainingFailedError) -> list[BaseException]:
    if isinstance(error, ControllerError):
        return [error.controller_failure]
    if isinstance(error, WorkerGroupError) and error.worker_failures:
        return list(error.worker_failures.values())
    return [error]


def _cause(error: BaseException) -> Cause:
    error = _original(error)
    if isinstance(error, ActorUnavailableError | NodeDiedError):
        return Cause.NODE_LOST
    if isinstance(error, RayActorError):
        return Cause.NODE_LOST if error.preempted else Cause.PROCESS_DIED
    if isinstance(error, OutOfMemoryError | WorkerCrashedError):  # killed by Ray, or by the system
        return Cause.PROCESS_DIED
    # some of Ray's errors are also of a class like ValueError
    if isinstance(error, FINAL_ERRORS) and not isinstance(error, RayError):
        return Cause.FINAL_ERROR
    return Cause.STORAGE_ERROR if isinstance(error, OSError) else Cause.ERROR


def _original(error: BaseException) -> BaseException:
    """Return the error inside those that Ray wraps it in."""
    if isinstance(error, RayTaskError):
        return _original(error.cause)
    # of a worker that did not answer
    health = getattr(error, "health_check_failure", None)
    return error if health is None else _original(health)


def _describe(error: BaseException) -> str:
    error = _original(error)
    text = f"{type(error).__name__}: {error}"[:MAX_ERROR_CHARS]
    if isinstance(error, torch.OutOfMemoryError):
        text += (
            "\nA worker's share of a batch does not fit into the memory of its device. Lower "
            "compute.total_batch, raise scaling.num_workers, or make the clips smaller"
        )
    return text
