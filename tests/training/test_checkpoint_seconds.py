"""How long a checkpoint took to write is told once, tries that failed included."""

from __future__ import annotations

from pathlib import Path

import pytest

from ctp.storage import Storage
from ctp.training.checkpoint import CheckpointStore, TrainState

STATE = TrainState(step=1, clips=4, model={}, optimizer={}, config="{}", catalog="")


def test_what_a_checkpoint_took_is_told_once(tmp_path: Path) -> None:
    store = CheckpointStore(Storage.of(tmp_path), keep=1)
    assert store.more_in_log() == {}
    store.save(STATE)
    store.wait()
    assert store.more_in_log()["checkpoint_seconds"] > 0
    assert store.more_in_log() == {}


def test_tries_that_failed_count(tmp_path: Path) -> None:
    tries = []

    def fail_once() -> None:
        tries.append(len(tries))
        if len(tries) == 1:
            raise OSError("a bad moment")

    store = CheckpointStore(Storage.of(tmp_path), keep=1, retry_seconds=(0.05,))
    store.save(STATE, before=fail_once)
    store.wait()
    assert tries == [0, 1]
    assert store.more_in_log()["checkpoint_seconds"] >= 0.05


def test_one_that_was_not_written_is_not_told(tmp_path: Path) -> None:
    def fail() -> None:
        raise OSError("a bad day")

    store = CheckpointStore(Storage.of(tmp_path), keep=1, retry_seconds=())
    store.save(STATE, before=fail)
    with pytest.raises(OSError, match="a bad day"):
        store.wait()
    assert store.more_in_log() == {}
