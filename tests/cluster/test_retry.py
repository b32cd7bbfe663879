"""Which failures of workers end a run, and which are followed by another start."""

from __future__ import annotations

import itertools

import pytest
import torch
from ray.exceptions import (
    ActorDiedError,
    ActorUnavailableError,
    NodeDiedError,
    OutOfMemoryError,
    RayActorError,
    RayTaskError,
)
from ray.train import ControllerError, TrainingFailedError, WorkerGroupError
from ray.train.v2._internal.exceptions import WorkerHealthCheckFailedError

from ctp.cluster.retry import Cause, Failure, decide
from ctp.storage import StorageError


def failed(*errors: Exception) -> TrainingFailedError:
    """What `trainer.fit()` raises when workers, by rank, fail with these errors."""
    return WorkerGroupError("", dict(enumerate(errors)))


def died(**options: bool) -> Exception:
    """The error of a worker whose process or node is lost."""
    return WorkerHealthCheckFailedError("no answer", RayActorError(**options))


def failure(*errors: Exception, step: int = 0, node_lost: bool = False) -> Failure:
    return Failure.from_error(failed(*errors), step, node_lost=node_lost)


def starts(failures: list[Failure], max_failures: int = -1) -> int:
    """How often the workers start when these failures follow each other."""
    for number, each in enumerate(failures):
        if decide(each, failures[:number], max_failures).reason_to_stop is not None:
            return number + 1
    return len(failures) + 1


OUT_OF_MEMORY = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


@pytest.mark.parametrize(
    "error",
    [
        OUT_OF_MEMORY,
        ValueError("top_k is 7; expected at most 5 classes"),
        FloatingPointError("the features are not finite"),
        ModuleNotFoundError("No module named 'av'"),
        RayTaskError("load", "", ValueError("wrong")),  # in an actor that the worker waited for
    ],
)
def test_an_error_that_a_restart_cannot_fix_ends_the_run_at_once(error: Exception) -> None:
    # the other worker fails because the first one is gone
    found = failure(RuntimeError("Connection closed by peer"), error)
    decision = decide(found, [], max_failures=100)
    assert decision.is_final
    assert decision.reason_to_stop is not None
    assert str(getattr(error, "cause", error)) in decision.reason_to_stop


def test_a_lack_of_gpu_memory_says_what_to_do() -> None:
    reason = decide(failure(OUT_OF_MEMORY), [], 100).reason_to_stop or ""
    assert "2.00 GiB" in reason
    assert "compute.total_batch" in reason


def test_the_same_error_twice_without_a_step_ends_the_run() -> None:
    first = failure(RuntimeError("no such symbol at 0x7f01, rank 0"), step=5)
    again = failure(RuntimeError("no such symbol at 0x7fe9, rank 1"), step=5)
    assert starts([first, again], max_failures=100) == 2
    decision = decide(again, [first], 100)
    assert decision.is_final
    assert "no such symbol" in str(decision.reason_to_stop)


def test_the_same_error_with_steps_between_is_retried() -> None:
    failures = [failure(RuntimeError("unlucky"), step=step) for step in range(50)]
    assert starts(failures) == 51
    assert starts(failures, max_failures=10) == 11
    assert not decide(failures[10], failures[:10], 10).is_final


def test_a_step_that_is_only_repeated_is_no_progress() -> None:
    """The run starts at a checkpoint and fails at the same step again."""
    assert starts([failure(RuntimeError("step 7"), step=7)] * 2) == 2


def test_different_errors_are_retried() -> None:
    failures = [failure(RuntimeError(text)) for text in ("one", "two", "one", "two")]
    assert starts(failures) == 5


def test_a_killed_process_is_retried_twice_without_a_step() -> None:
    assert starts([failure(died(), step=3)] * 5, max_failures=100) == 3
    assert starts([failure(died(), step=step) for step in range(50)]) == 51


@pytest.mark.parametrize(
    "lost",
    [
        failure(died(preempted=True)),
        failure(RuntimeError("Connection closed by peer"), died(preempted=True)),
        failure(WorkerHealthCheckFailedError("", ActorUnavailableError("gone", b"\0" * 16))),
        failure(died(), node_lost=True),
        failure(RuntimeError("Connection closed by peer"), node_lost=True),
    ],
)
def test_lost_nodes_are_retried_without_limit_and_do_not_count(lost: Failure) -> None:
    assert lost.cause is Cause.NODE_LOST
    assert starts([lost] * 100, max_failures=0) == 101
    other = failure(RuntimeError("something"))
    assert starts([lost, lost, other], max_failures=1) == 4
    assert starts([other, lost, other], max_failures=100) == 3  # still no step in between


def test_an_error_of_the_storage_may_pass() -> None:
    outage = failure(RuntimeError("Connection closed by peer"), StorageError("cannot read a: 503"))
    assert outage.cause is Cause.STORAGE_ERROR
    assert starts([outage] * 5) == 2
    assert not decide(outage, [outage], -1).is_final


def test_errors_of_the_controller_count_by_their_cause() -> None:
    error = ControllerError(ValueError("total_batch 10 does not fit 3 workers"))
    assert Failure.from_error(error, 0, node_lost=False).cause is Cause.FINAL_ERROR
    unknown = TrainingFailedError("unknown")
    assert Failure.from_error(unknown, 0, node_lost=False).cause is Cause.ERROR


def test_the_order_of_the_workers_does_not_matter() -> None:
    errors = [RuntimeError("Connection closed by peer"), died(), OUT_OF_MEMORY]
    for some in itertools.permutations(errors):
        assert failure(*some).cause is Cause.FINAL_ERROR
    for some in itertools.permutations(errors[:2]):
        assert failure(*some).cause is Cause.PROCESS_DIED
    for error in (ActorDiedError(), OutOfMemoryError("killed by the memory monitor")):
        assert failure(error).cause is Cause.PROCESS_DIED
    assert failure(NodeDiedError("a node")).cause is Cause.NODE_LOST
