"""Reports about jobs that make no progress; Ray itself waits forever and prints nothing."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import ray

from ctp.cluster.connect import Demand, check_cluster
from ctp.progress import duration

SILENT_SECONDS = 120.0
"""A job without progress for this long is examined."""
POLL_SECONDS = 0.5


class Silence:
    """How long there was no progress; to be reported after `SILENT_SECONDS`, then twice that, …"""

    def __init__(self) -> None:
        self._began, self._next = time.monotonic(), SILENT_SECONDS

    def seconds(self) -> float:
        return time.monotonic() - self._began

    def should_report(self, *, has_progress: bool) -> bool:
        if has_progress:
            self._began, self._next = time.monotonic(), SILENT_SECONDS
        if self.seconds() < self._next:
            return False
        self._next *= 2
        return True


@contextmanager
def silence_reported(what: str, demands: Sequence[Demand]) -> Iterator[Callable[[], None]]:
    """Yield a function to be called at each progress; print `why_waiting` when there is none."""
    done, progress = threading.Event(), threading.Event()

    def watch() -> None:
        silence = Silence()
        while not done.wait(POLL_SECONDS):
            has_progress = progress.is_set()
            progress.clear()
            if silence.should_report(has_progress=has_progress):
                print(why_waiting(what, silence.seconds(), demands), flush=True)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield progress.set
    finally:
        done.set()
        thread.join()


def why_waiting(what: str, seconds: float, demands: Sequence[Demand]) -> str:
    """Return a likely reason why a job makes no progress.

    Args:
        what: the sign of progress, for example "log line".
        seconds: time without it.
        demands: the processes of the job.
    """
    prefix = f"no {what} for {duration(seconds)}: "
    try:
        check_cluster(demands, "the cluster", may_grow=False)
    except ValueError as error:
        return f"{prefix}{error}, or add nodes; the job continues when there are enough"
    restarting = waiting_actors()
    if restarting:
        free = ray.available_resources().get("CPU", 0.0)  # type: ignore[no-untyped-call]
        return (
            f"{prefix}{restarting} process(es) that ended wait to be started again, each with its "
            f"CPU cores; {free:g} cores of the cluster are free. The job continues when other work "
            "on the cluster ends, or nodes are added"
        )
    return f"{prefix}processes are starting, or steps, videos or checkpoints take long"


def waiting_actors() -> int:
    """Return how many actors of this job wait to be started again."""
    job = ray.JobID.from_hex(ray.get_runtime_context().get_job_id())
    actors = ray._private.state.actors(job_id=job, actor_state_name="RESTARTING")
    return len(actors)
