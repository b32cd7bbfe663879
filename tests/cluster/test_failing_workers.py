"""A run whose workers raise an error, or whose actors die, again and again, on a real cluster."""

from __future__ import annotations

import copy
import os
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import ray

from ctp.cluster.train import train
from ctp.cluster.waiting import waiting_actors, why_waiting
from ctp.pretext.config import PretrainConfig
from ctp.pretext.pretraining import TaskLearner, open_pretraining
from ctp.training.run_folder import create_or_resume
from ctp.training.trainer import Learner, RunStoppedError, TrainingSpec

pytestmark = [
    pytest.mark.ray,
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning:ray"),
]


@pytest.fixture(scope="module", autouse=True)
def _cluster() -> Iterator[None]:
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    ray.init("local", num_cpus=4, object_store_memory=256 * 2**20, include_dashboard=False)
    yield
    ray.shutdown()


@pytest.fixture
def spec(small_run: PretrainConfig) -> TrainingSpec[Any]:
    """A run that may restart its workers often, and writes its log after each step."""
    config = small_run.replace(
        log_every_steps=1, evaluation={"num_clips": 0}, scaling={"max_failures": 100}
    )
    create_or_resume(config)
    return open_pretraining(config)


def count(log: Path) -> int:
    return len(log.read_text().splitlines())


def failing_learner(log: Path, *arguments: Any) -> Learner[Any]:
    """Return a learner that fails in step 3, and notes each start."""
    learner = TaskLearner(*arguments)
    with log.open("a") as file:
        file.write("start\n")

    def after_step(step: int) -> None:
        if step == 3:
            raise RuntimeError("an unexpected error")

    learner.after_step = after_step  # type: ignore[method-assign]
    return learner


def test_the_same_error_twice_ends_the_run(spec: TrainingSpec[Any], tmp_path: Path) -> None:
    log = tmp_path / "starts"
    failing = replace(spec, learner=partial(failing_learner, log))
    with pytest.raises(RunStoppedError, match=r"after step 2.*an unexpected error") as caught:
        train(failing, lambda row: None)
    assert caught.value.is_final
    assert count(log) == 2


def test_actors_that_die_outside_any_video_end_the_run(
    spec: TrainingSpec[Any], tmp_path: Path
) -> None:
    """They are not restarted without end."""
    log, drawer = tmp_path / "deaths", copy.copy(spec.stream.drawer)

    def die(*_: object) -> None:
        with log.open("a") as file:
            file.write("dead\n")
        os.kill(os.getpid(), signal.SIGKILL)

    drawer.draw = die  # type: ignore[method-assign]
    dying = replace(spec, stream=replace(spec.stream, drawer=drawer))
    with pytest.raises(RunStoppedError, match=r"3 processes .*died") as caught:
        train(dying, lambda row: None)
    assert caught.value.is_final
    assert count(log) == 3


def test_an_actor_that_waits_for_cores_to_restart_is_reported() -> None:
    @ray.remote(num_cpus=4, max_restarts=-1, max_task_retries=-1)
    class Decoder:
        def pid(self) -> int:
            return os.getpid()

    @ray.remote(num_cpus=1)
    def other_work() -> None:
        time.sleep(300)

    decoder: Any = Decoder.remote()
    pid = ray.get(decoder.pid.remote())
    taking = other_work.remote()  # it waits for a core
    time.sleep(1)
    assert "wait to be started again" not in why_waiting("log line", 120, [])
    os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + 60
    while not waiting_actors():
        assert time.monotonic() < deadline
        time.sleep(0.2)
    reason = why_waiting("log line", 120, [])
    assert "no log line for 2 min: 1 process(es)" in reason
    assert "3 cores of the cluster are free" in reason
    ray.cancel(taking, force=True)
    assert ray.get(decoder.pid.remote()) != pid
    ray.kill(decoder)
