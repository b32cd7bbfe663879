"""The newest checkpoints are kept, and an incomplete one is never used."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ctp.storage import Storage, StorageError
from ctp.training.checkpoint import CheckpointStore, TrainState


def state(step: int) -> TrainState:
    return TrainState(
        step=step, model={"w": torch.full((3,), float(step))},
        optimizer={"param_groups": [{"lr": 0.1}], "state": {}}, config="{}", catalog="abc",
    )  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Storage:
    return Storage.from_uri(tmp_path / "checkpoints")


def test_the_newest_checkpoints_are_kept_and_read_back(folder: Storage) -> None:
    store = CheckpointStore(folder, keep=2)
    assert store.newest() is None
    for step in (5, 10, 100, 1000):
        store.save(state(step))
    store.close()
    assert folder.list_folders() == ["step-000000100", "step-000001000"]
    newest = store.newest()
    assert newest == "step-000001000"
    back = store.load(newest)
    assert back.step == 1000
    assert torch.equal(back.model["w"], torch.full((3,), 1000.0))


def test_a_checkpoint_contains_the_state_at_the_call(folder: Storage) -> None:
    store = CheckpointStore(folder, keep=2)
    kept = state(1)
    store.save(kept)
    kept.model["w"].zero_()
    store.close()
    assert torch.equal(store.load("step-000000001").model["w"], torch.ones(3))


def test_an_incomplete_checkpoint_is_not_the_newest(folder: Storage) -> None:
    store = CheckpointStore(folder, keep=3)
    store.save(state(1))
    store.close()
    folder.join("step-000000002", "state.pt").write_bytes(b"half of it")
    assert store.newest() == "step-000000001"


def test_a_damaged_checkpoint_is_an_error(folder: Storage) -> None:
    store = CheckpointStore(folder, keep=3)
    store.save(state(1))
    store.close()
    folder.join("step-000000001", "state.pt").write_bytes(b"something else")
    with pytest.raises(StorageError, match=r"step-000000001 is damaged: its checksum differs"):
        store.load("step-000000001")


def test_incomplete_checkpoints_do_not_replace_a_complete_one(folder: Storage) -> None:
    store = CheckpointStore(folder, keep=1)
    store.save(state(100))
    store.wait()
    folder.join("step-000000200", "state.pt").write_bytes(b"killed while writing")
    store.save(state(150))
    store.close()
    assert store.newest() == "step-000000150"
    assert folder.list_folders() == ["step-000000150"]


def test_before_is_called_before_the_checkpoint_is_complete(folder: Storage) -> None:
    store, seen = CheckpointStore(folder, keep=1), []
    store.save(state(1), before=lambda: seen.append(store.newest()))
    store.close()
    assert seen == [None]


def test_a_write_that_fails_once_is_repeated(folder: Storage) -> None:
    store = CheckpointStore(folder, keep=1, retry_seconds=(0.01,))
    failures = [OSError("a passing fault")]

    def fail_once() -> None:
        if failures:
            raise failures.pop()

    store.save(state(1), before=fail_once)
    store.close()
    assert store.newest() == "step-000000001"


def test_a_failed_save_is_raised_at_the_next(folder: Storage) -> None:
    folder.join("step-000000001").write_bytes(b"a file in the way")
    store = CheckpointStore(folder, keep=3, retry_seconds=())
    store.save(state(1))
    with pytest.raises(StorageError, match="cannot write"):
        store.save(state(2))
    store.close()


def test_the_seconds_of_a_checkpoint_are_logged_once(folder: Storage) -> None:
    store = CheckpointStore(folder, keep=1)
    assert store.extra_metrics() == {}
    store.save(state(1))
    store.wait()
    assert store.extra_metrics()["checkpoint_seconds"] > 0
    assert store.extra_metrics() == {}


def test_the_seconds_of_failed_attempts_count(folder: Storage) -> None:
    tries = []

    def fail_once() -> None:
        tries.append(len(tries))
        if len(tries) == 1:
            raise OSError("a bad moment")

    store = CheckpointStore(folder, keep=1, retry_seconds=(0.05,))
    store.save(state(1), before=fail_once)
    store.wait()
    assert tries == [0, 1]
    assert store.extra_metrics()["checkpoint_seconds"] >= 0.05


def test_a_checkpoint_that_was_not_written_has_no_seconds(folder: Storage) -> None:
    def fail() -> None:
        raise OSError("a bad day")

    store = CheckpointStore(folder, keep=1, retry_seconds=())
    store.save(state(1), before=fail)
    with pytest.raises(OSError, match="a bad day"):
        store.wait()
    assert store.extra_metrics() == {}
