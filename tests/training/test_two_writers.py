"""Two processes train one run, the first paused beyond its lease: one writes, and the run is that
of one undisturbed process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ctp.lease import ATTEMPTS
from ctp.pretext.config import PretrainConfig
from ctp.pretext.pretraining import open_pretraining
from ctp.storage import Storage
from ctp.training.run_folder import (
    CHECKPOINTS,
    checkpoint_store,
    folder_of,
    is_finished,
    read_metrics,
)

WRITER = Path(__file__).with_name("writer.py")
LEASE_SECONDS, SECONDS_PER_STEP = 2.0, 0.3
STEPS = 12

pytestmark = pytest.mark.slow


class Writer:
    """A process that trains a run."""

    def __init__(self, config: PretrainConfig):
        argv = [sys.executable, WRITER, str(LEASE_SECONDS), str(SECONDS_PER_STEP)]
        pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        self.process = subprocess.Popen(argv, text=True, **pipes)  # type: ignore[call-overload]
        with self.process.stdin as stdin:
            stdin.write(config.model_dump_json())

    def wait_for_step(self, step: int) -> None:
        for line in self.process.stdout:
            if line.startswith("step ") and int(line.split()[1]) >= step:
                return
        raise AssertionError(self.process.stderr.read())

    def end(self) -> tuple[int, str]:
        """Return the status and the error that it ends with."""
        error = self.process.stderr.read()
        return self.process.wait(timeout=60), error


@pytest.fixture
def start() -> Iterator[Callable[[PretrainConfig], Writer]]:
    started: list[Writer] = []

    def begin(config: PretrainConfig) -> Writer:
        started.append(Writer(config))
        return started[-1]

    yield begin
    for each in started:
        each.process.kill()
        each.process.wait()
        each.process.stdout.close()
        each.process.stderr.close()


def losses(config: PretrainConfig) -> list[tuple[float, float]]:
    return [(row["step"], row["loss"]) for row in read_metrics(folder_of(config))]


def contents(folder: Storage) -> dict[str, bytes]:
    """What all attempts share; an attempt's own heartbeat may be under way when it is paused."""
    files = (info.path for info in folder.list_files() if "heartbeat" not in info.path)
    return {f: folder.join(f).read_bytes() for f in files if f.endswith((".json", ".jsonl"))}


@pytest.mark.parametrize("place", ["local", "s3"])
def test_the_paused_one_loses_and_the_run_is_that_of_one_process(
    place: str,
    small_run: PretrainConfig,
    tmp_path: Path,
    request: pytest.FixtureRequest,
    start: Callable[[PretrainConfig], Writer],
    train_alone: Callable[..., Any],
) -> None:
    config = small_run.replace(
        schedule=small_run.schedule.replace(length=STEPS, decay_at=()),
        checkpoint={"every_steps": 1},
        log_every_steps=1,
    )
    whole = config.replace(storage=str(tmp_path / "whole"))
    train_alone(open_pretraining(whole))
    if place == "s3":
        config = config.replace(storage=f"{request.getfixturevalue('s3_bucket')}/runs")
    folder = folder_of(config)

    first = start(config)
    first.wait_for_step(3)
    os.kill(first.process.pid, signal.SIGSTOP)
    time.sleep(LEASE_SECONDS)
    second = start(config)
    second.wait_for_step(5)
    os.kill(second.process.pid, signal.SIGSTOP)  # so that nothing but the first could write
    before = contents(folder)
    os.kill(first.process.pid, signal.SIGCONT)
    status, error = first.end()
    assert status == 1
    assert f"attempt 2 (pretrain, process {second.process.pid} " in error
    assert contents(folder) == before
    os.kill(second.process.pid, signal.SIGCONT)
    second.wait_for_step(7)
    second.process.kill()
    second.process.wait()

    assert start(config).end() == (0, "")
    assert is_finished(config)
    assert losses(config) == losses(whole)
    store = checkpoint_store(config)
    newest = store.newest()
    assert newest is not None
    assert store.load(newest).step == STEPS
    assert store.read_manifest(newest).attempt == 3
    assert len(folder.join(CHECKPOINTS).list_folders()) == 3
    claims = {info.path for info in folder.join(ATTEMPTS).list_files() if "heart" not in info.path}
    assert claims == {"00001.json", "00002.json", "00003.json"}


def test_another_seed_under_the_same_name_is_refused_while_the_first_lives(
    small_run: PretrainConfig, start: Callable[[PretrainConfig], Writer]
) -> None:
    config = small_run.replace(schedule=small_run.schedule.replace(length=500, decay_at=()))
    first = start(config)
    first.wait_for_step(2)
    status, error = start(config.replace(seed=1)).end()
    assert status == 1
    assert f"process {first.process.pid} " in error
    first.wait_for_step(4)
