"""Clips from a process that may be lost: a video that kills it costs itself, and nothing else."""

from __future__ import annotations

import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from ctp.data.catalog import open_catalog
from ctp.isolation import LostError
from ctp.pretext.clips import ClipMaker
from ctp.pretext.config import PretrainConfig
from ctp.pretext.pretrain import Pretraining
from ctp.training.isolated import IsolatedMaker
from ctp.training.sealed import SealedMaker


@pytest.fixture
def crashing(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The module tests/pretext/crashing_maker.py, which children find by sys.path."""
    monkeypatch.syspath_prepend(Path(__file__).parent)
    import crashing_maker

    return crashing_maker


def check_equal(first: dict[str, Any], second: dict[str, Any]) -> None:
    assert first.keys() == second.keys()
    for name, values in first.items():
        assert np.array_equal(values, second[name]), name


@pytest.mark.parametrize("play_on", ["cpu", "device"])
def test_the_same_clips_as_in_this_process(small_run: PretrainConfig, play_on: str) -> None:
    job = Pretraining.of(small_run.replace(scaling={"play_on": play_on}))
    with IsolatedMaker.of(job.train) as isolated:
        for positions in (range(4), range(20, 24)):
            check_equal(isolated.batch(positions), job.train.batch(positions))
    with IsolatedMaker.of(job.heldout) as isolated:
        clips, quarantined = isolated.call("heldout", range(3))
    assert not quarantined
    for clip, wanted in zip(clips, job.heldout.heldout(range(3))[0], strict=True):
        np.testing.assert_array_equal(clip.frames, wanted.frames)


def test_under_seal_a_maker_is_passed_on_without_torch(
    small_run: PretrainConfig, run_python: Callable[..., str]
) -> None:
    maker = Pretraining.of(small_run).train
    sealed = pickle.dumps(SealedMaker.of(maker))
    unpickle = "import pickle, sys; sealed = pickle.loads(bytes.fromhex(input()))"
    facts = "print(sealed.total_clips, len(sealed.catalog), 'torch' in sys.modules)"
    said = run_python("-c", f"{unpickle}; {facts}", stdin=sealed.hex())
    assert said.split() == [str(maker.total_clips), str(len(maker.catalog)), "False"]
    check_equal(pickle.loads(sealed).open().batch(range(4)), maker.batch(range(4)))


def test_a_large_catalogue_is_mapped_by_the_child_not_copied(
    small_run: PretrainConfig, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("ctp.training.isolated.SHARED_BYTES", 1)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    maker = Pretraining.of(small_run).train
    with IsolatedMaker.of(maker) as isolated:
        check_equal(isolated.batch(range(4)), maker.batch(range(4)))
        (file,) = tmp_path.iterdir()
        assert file.stat().st_size > maker.catalog.columns.nbytes
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_video_that_kills_the_process_is_passed_over(
    small_run: PretrainConfig, video_folder: Callable[..., Path], crashing: ModuleType
) -> None:
    folder = video_folder(good=6)
    good = (folder / "good0.mp4").read_bytes()
    for name in ("crash", "hang", "flaky"):
        (folder / f"{name}.mp4").write_bytes(good)
    config = small_run.replace(
        curriculum=None, data={"uri": str(folder), "max_seconds_per_video": 0.5}
    )
    catalog = open_catalog(str(folder))
    with IsolatedMaker.of(crashing.CrashingMaker(config, catalog)) as isolated:
        batch = isolated.batch(range(9))
    found = {entry.video_id: entry.reason for each in batch["quarantined"] for entry in each}
    assert found == {
        "crash.mp4": "the process that decoded it crashed (SIGSEGV), twice",
        "hang.mp4": "the process that decoded it took longer than 0.5 s, twice",
    }
    # exactly what comes of videos that are bad for any other reason
    for name in ("crash", "hang"):
        (folder / f"{name}.mp4").write_text("this is text")
    wanted = ClipMaker(config, open_catalog(str(folder))).batch(range(9))
    for name in ("position", "frames", "boxes", "visible", "color", "video"):
        assert np.array_equal(batch[name], wanted[name])
    shutil.rmtree(folder)


def test_losses_between_videos_are_forgotten_when_a_call_succeeds(
    small_run: PretrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    maker = Pretraining.of(small_run).train
    with IsolatedMaker.of(maker) as isolated:
        answers: list[Any] = [LostError("", "was killed"), "made"] * 3

        def call(*args: Any) -> Any:
            answer = answers.pop(0)
            if isinstance(answer, Exception):
                raise answer
            return answer

        monkeypatch.setattr(isolated._isolated, "call", call)
        assert [isolated.batch(range(1)) for _ in range(3)] == ["made"] * 3
        answers += [LostError("", "was killed")] * 2
        with pytest.raises(LostError):
            isolated.batch(range(1))
