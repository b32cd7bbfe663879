"""The lease of a folder, held by real processes, on a disk and on an S3 server."""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from ctp.lease import (
    ATTEMPTS,
    FolderInUseError,
    SupersededError,
    hold,
    read_lease,
)
from ctp.storage import Storage
from ctp.versions import written_by

HOLDER = Path(__file__).with_name("holder.py")
LONG, SHORT = 600.0, 1.0
Start = Callable[..., "Holder"]


class Holder:
    """A process that holds, or tries to hold, a lease."""

    def __init__(self, folder: Storage, seconds: float):
        command = [sys.executable, HOLDER, folder.uri, "pretrain", str(seconds)]
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def held(self) -> int:
        """Return the number of its attempt, once it holds the lease."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith("held "):
                return int(line.split()[1])
        raise AssertionError(self.process.communicate()[1])

    def end(self, command: str) -> tuple[int, str]:
        """Return the status and the error with which it ends after a command."""
        _, error = self.process.communicate(f"{command}\n", timeout=60)
        return self.process.returncode, error


@pytest.fixture(params=["local", "s3"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    if request.param == "local":
        return Storage.from_uri(tmp_path / "run")
    return Storage.from_uri(f"{request.getfixturevalue('s3_bucket')}/run")


@pytest.fixture
def start(folder: Storage) -> Iterator[Start]:
    """`start(seconds=LONG)`: a process that holds the folder."""
    started: list[Holder] = []

    def begin(seconds: float = LONG) -> Holder:
        started.append(Holder(folder, seconds))
        return started[-1]

    yield begin
    for each in started:
        with each.process:
            each.process.kill()


def as_another_machine(folder: Storage, attempt: int) -> None:
    """Make a claim look as if its process were of a machine that cannot be looked at."""
    place = folder.join(ATTEMPTS, f"{attempt:05d}.json")
    values = json.loads(place.read_bytes())
    values["process"] |= {"host": "elsewhere", "boot": "another", "namespace": "another"}
    place.write_bytes(json.dumps(values).encode())


def test_a_second_process_is_refused_at_once_with_the_name_of_the_first(
    folder: Storage, start: Start
) -> None:
    first = start()
    assert first.held() == 1
    began = time.monotonic()
    with pytest.raises(FolderInUseError) as refused, hold(folder, "pretrain"):
        pass
    assert time.monotonic() - began < 5
    for fact in (folder.uri, str(first.process.pid), os.uname().nodename, "attempt 1", " UTC"):
        assert fact in str(refused.value)
    assert first.end("check") == (0, "")


def test_an_ended_process_is_followed_at_once_by_the_next_attempt(
    folder: Storage, start: Start
) -> None:
    for number in (1, 2, 3):
        holder = start()
        assert holder.held() == number
        assert holder.end("end") == (0, "")


def test_a_killed_process_is_followed_at_once(folder: Storage, start: Start) -> None:
    first = start()
    assert first.held() == 1
    os.kill(first.process.pid, signal.SIGKILL)
    first.process.wait()
    began = time.monotonic()
    with hold(folder, "pretrain") as lease:
        assert lease.attempt.number == 2
    assert time.monotonic() - began < 5


def test_a_process_that_was_paused_for_longer_than_its_lease_loses(
    folder: Storage, start: Start
) -> None:
    first = start(SHORT)
    assert first.held() == 1
    os.kill(first.process.pid, signal.SIGSTOP)
    time.sleep(SHORT)
    with hold(folder, "pretrain", lease_seconds=SHORT) as lease:
        assert lease.attempt.number == 2
        before = read_lease(folder)
        os.kill(first.process.pid, signal.SIGCONT)
        status, error = first.end("check")
        assert status == 1
        assert f"attempt 2 (pretrain, process {os.getpid()} " in error
        lease.attempt.check()  # the winner is not disturbed
        after = read_lease(folder)
    assert before is not None
    assert after is not None
    assert before.claim == after.claim


def test_a_process_of_another_machine_is_followed_after_its_lease(
    folder: Storage, start: Start
) -> None:
    first = start(SHORT)
    assert first.held() == 1
    os.kill(first.process.pid, signal.SIGKILL)
    first.process.wait()
    said: list[str] = []
    as_another_machine(folder, 1)
    with hold(folder, "pretrain", report=said.append) as lease:
        assert lease.attempt.number == 2
    assert "elsewhere" in "".join(said)


def test_a_process_of_another_machine_that_lives_is_recognised(
    folder: Storage, start: Start
) -> None:
    first = start(SHORT)
    assert first.held() == 1
    as_another_machine(folder, 1)
    with (
        pytest.raises(FolderInUseError, match="elsewhere"),
        hold(folder, "pretrain", report=lambda line: None),
    ):
        pass


def test_an_old_heartbeat_of_another_machine_is_not_waited_for(
    folder: Storage, start: Start
) -> None:
    first = start(SHORT)
    assert first.held() == 1
    os.kill(first.process.pid, signal.SIGKILL)
    first.process.wait()
    said: list[str] = []
    as_another_machine(folder, 1)
    time.sleep(3 * SHORT + 1)  # the server's times are in whole seconds
    with hold(folder, "pretrain", report=said.append) as lease:
        assert lease.attempt.number == 2
    assert said == []


def test_an_incomplete_claim_does_not_block_forever(
    folder: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ctp.lease.LEASE_SECONDS", SHORT)
    folder.join(ATTEMPTS, "00001.json").write_bytes(b'{"attempt": 1, "tok')
    with hold(folder, "pretrain", report=lambda line: None) as lease:
        assert lease.attempt.number == 2


def test_of_many_that_start_together_one_holds_it(folder: Storage) -> None:
    together, others = threading.Barrier(5), threading.Event()

    def run(number: int) -> str:
        together.wait()
        try:
            with hold(folder, "pretrain", report=lambda line: None) as lease:
                others.wait(30)
                return f"held {lease.attempt.number}"
        except FolderInUseError:
            return "refused"

    with ThreadPoolExecutor(5) as pool:
        futures = [pool.submit(run, number) for number in range(5)]
        while sum(each.done() for each in futures) < 4:
            time.sleep(0.05)
        others.set()
        outcomes = [each.result() for each in futures]
    assert sorted(outcomes) == ["held 1", *["refused"] * 4]


def test_the_state_of_a_folder_names_process_versions_and_outcome(
    folder: Storage, start: Start
) -> None:
    assert read_lease(folder) is None
    holder = start()
    holder.held()
    state = read_lease(folder)
    assert state is not None
    assert state.is_live is True
    assert state.claim.process.pid == holder.process.pid
    assert state.claim.written_by == written_by()
    assert holder.end("fail")[0] == 1
    state = read_lease(folder)
    assert state is not None
    assert state.is_live is False
    assert (state.heartbeat.outcome.value, state.heartbeat.reason) == ("failed", "the disk is full")


def test_a_stopped_process_says_so(folder: Storage) -> None:
    with pytest.raises(KeyboardInterrupt), hold(folder, "pretrain"):
        raise KeyboardInterrupt
    state = read_lease(folder)
    assert state is not None
    assert state.heartbeat.outcome.value == "stopped"


def test_a_storage_that_does_not_answer_does_not_delay_the_end(
    faulty_s3: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ctp.lease.RELEASE_SECONDS", 1.0)
    with hold(Storage.from_uri(f"{faulty_s3.bucket}/run"), "pretrain"):
        faulty_s3.fail({"kind": "refused", "value": "SlowDown"})
        began = time.monotonic()
    assert time.monotonic() - began < 5
    faulty_s3.fail()


def test_a_deleted_folder_stays_deleted(folder: Storage) -> None:
    folder.join("checkpoints", "step-000000001", "state-1.pt").write_bytes(b"state")
    with hold(folder, "pretrain", lease_seconds=SHORT) as lease:
        lease.delete_folder()
        with pytest.raises(SupersededError, match="was deleted"):
            lease.attempt.check()
        time.sleep(SHORT / 2)  # a heartbeat is due
    assert folder.list_files() == []


def test_a_heartbeat_under_way_does_not_create_a_deleted_folder_again(folder: Storage) -> None:
    every_millisecond = 0.006
    for number in range(20):
        run = folder.join(f"run-{number}")
        with hold(run, "pretrain", lease_seconds=every_millisecond) as lease:
            time.sleep(number / 1000)
            lease.delete_folder()
        assert run.list_files() == []


def test_an_attempt_is_checked_by_other_processes(folder: Storage) -> None:
    with hold(folder, "pretrain") as lease:
        pickle.loads(pickle.dumps(lease.attempt)).check()
    with hold(folder, "pretrain"), pytest.raises(SupersededError):
        pickle.loads(pickle.dumps(lease.attempt)).check()
