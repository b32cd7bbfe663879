"""The newest checkpoints are kept, and an incomplete one is never used."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from ctp.lease import Attempt, SupersededError, hold
from ctp.storage import Storage, StorageError
from ctp.training.checkpoint import CheckpointStore, TrainState
from ctp.versions import FORMAT_VERSION, written_by


def state(step: int) -> TrainState:
    return TrainState(
        step=step, model={"w": torch.full((3,), float(step))},
        optimizer={"param_groups": [{"lr": 0.1}], "state": {}}, config="{}", catalog="abc",
    )  # fmt: skip


def save(store: CheckpointStore, step: int, before: Callable[[], None] = lambda: None) -> None:
    store.save(state(step), before)
    store.wait()


def claimed(folder: Storage) -> Attempt:
    """Take over a run folder whose last process has ended."""
    with hold(folder, "test") as lease:
        return lease.attempt


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
    save(store, 100)
    folder.join("step-000000200", "state.pt").write_bytes(b"killed while writing")
    save(store, 150)
    assert store.newest() == "step-000000150"
    # a newer folder may be another process's; it goes when the run has passed it
    assert folder.list_folders() == ["step-000000150", "step-000000200"]
    save(store, 250)
    assert folder.list_folders() == ["step-000000250"]


def test_a_manifest_without_its_state_is_skipped(folder: Storage) -> None:
    store = CheckpointStore(folder, keep=3)
    for step in (1, 2, 3):
        save(store, step)
    folder.join("step-000000003", "state.pt").delete_file()
    folder.join("step-000000002", "state.pt").delete_file()
    assert store.newest() == "step-000000001"
    assert [uri.split("/")[-2] for uri in store.without_state()] == [
        "step-000000003",
        "step-000000002",
    ]
    save(store, 2)
    assert store.newest() == "step-000000002"


def test_a_checkpoint_names_the_versions_that_wrote_it(folder: Storage) -> None:
    store = CheckpointStore(folder)
    save(store, 1)
    manifest = store.read_manifest("step-000000001")
    assert manifest.format_version == FORMAT_VERSION
    assert manifest.written_by == written_by()


def test_a_checkpoint_of_before_there_were_versions_is_read(folder: Storage) -> None:
    store = CheckpointStore(folder)
    save(store, 1)
    place = folder.join("step-000000001", "manifest.json")
    old = {name: json.loads(place.read_bytes())[name] for name in ("step", "bytes", "sha256")}
    place.write_bytes(json.dumps(old).encode())
    assert store.newest() == "step-000000001"
    assert store.load("step-000000001").step == 1


def test_a_checkpoint_of_a_later_format_is_refused_with_its_version(folder: Storage) -> None:
    store = CheckpointStore(folder)
    save(store, 1)
    place = folder.join("step-000000001", "manifest.json")
    writer = {"ctp": "7.0.0", "commit": "abc", "torch": "9", "ray": "9"}
    later = {**json.loads(place.read_bytes()), "format_version": 50, "written_by": writer}
    place.write_bytes(json.dumps(later).encode())
    with pytest.raises(StorageError, match=r"step-000000001.*50.*ctp 7\.0\.0"):
        store.newest()


def test_a_state_with_other_fields_names_them(folder: Storage) -> None:
    buffer = io.BytesIO()
    torch.save({**vars(state(1)), "scaler": 1.0}, buffer)
    with pytest.raises(StorageError, match=r"(?s)lacks nothing.*'scaler'.*ctp"):
        TrainState.from_bytes(buffer.getvalue(), "state.pt", written_by())


class TestAttempts:
    """Two processes write the checkpoints of one run, the second after it took over."""

    @pytest.fixture
    def attempts(self, folder: Storage) -> tuple[Attempt, Attempt]:
        return claimed(folder.parent), claimed(folder.parent)

    def test_a_superseded_one_writes_no_manifest_and_deletes_nothing(
        self, folder: Storage, attempts: tuple[Attempt, Attempt]
    ) -> None:
        first, second = (CheckpointStore(folder, keep=1, attempt=each) for each in attempts)
        save(second, 1)
        before = folder.list_files()
        with pytest.raises(SupersededError, match=r"attempt 2 .*attempt 1 "):
            save(first, 2)
        assert folder.list_files() == before

    def test_one_that_is_superseded_while_it_writes_leaves_the_other_whole(
        self, folder: Storage
    ) -> None:
        slow = CheckpointStore(folder, keep=1, attempt=claimed(folder.parent))

        def take_over() -> None:
            save(CheckpointStore(folder, keep=1, attempt=claimed(folder.parent)), 5)

        with pytest.raises(SupersededError):
            save(slow, 5, before=take_over)
        store = CheckpointStore(folder)
        assert store.read_manifest("step-000000005").attempt == 2
        assert store.load("step-000000005").step == 5, "the late state has another name"

    def test_pruning_leaves_what_a_later_attempt_has_half_written(self, folder: Storage) -> None:
        store = CheckpointStore(folder, keep=1, attempt=claimed(folder.parent))
        folder.join("step-000000003", "state-2.pt").write_bytes(b"of the next, half of it")
        folder.join("step-000000002", "state-1.pt").write_bytes(b"our own, half of it")
        save(store, 4)
        assert folder.list_folders() == ["step-000000003", "step-000000004"]


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
