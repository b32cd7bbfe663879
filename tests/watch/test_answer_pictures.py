"""Pictures of predictions are drawn once, are few, and their failure is said."""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ctp.pretext.config import PretrainConfig
from ctp.pretext.pretraining import open_pretraining
from ctp.training.run_folder import create_or_resume, folder_of
from ctp.watch.answer_pictures import NUM_CLIPS, AllAnswerPictures, surplus
from ctp.watch.run import WatchedRun


def draw(config: PretrainConfig, folder: Path) -> AllAnswerPictures:
    run = WatchedRun(folder_of(config), config.name)
    run.refresh()
    pictures = AllAnswerPictures([run], folder)
    pictures.refresh()
    deadline = time.monotonic() + 120
    while pictures.of_runs[0].is_drawing:
        assert time.monotonic() < deadline
        time.sleep(0.1)
        pictures.refresh()
    pictures.close()
    return pictures


@pytest.mark.parametrize("number", [2, 3, 8])
def test_the_steps_that_are_kept_are_spread_over_the_run(number: int) -> None:
    steps = [0, *range(100, 5000, 7)]
    left = sorted({*steps} - {*surplus(steps, number)})
    assert len(left) == number
    assert (left[0], left[-1]) == (steps[0], steps[-1])
    gaps = np.diff(left)
    assert gaps.max() <= 3 * gaps.min()
    assert surplus(steps[:number], number) == []


def test_a_picture_has_a_row_for_each_clip_and_nothing_is_written_to_the_run(
    small_run: PretrainConfig, train_alone: Callable[..., Any], tmp_path: Path
) -> None:
    create_or_resume(small_run)
    train_alone(open_pretraining(small_run))
    run = Path(folder_of(small_run).path)
    before = {path: path.stat().st_mtime_ns for path in (run, *run.rglob("*"))}
    (own,) = draw(small_run, tmp_path / "pictures").of_runs
    assert {path: path.stat().st_mtime_ns for path in (run, *run.rglob("*"))} == before
    assert list(own.steps()) == [0, 2, 4, 6]
    for step, sprite in own.steps().items():
        data = own.read(step)
        assert data is not None
        with Image.open(io.BytesIO(data)) as picture:
            size = sprite.num_frames * sprite.width_px, NUM_CLIPS * sprite.height_px
            assert picture.size == size
        assert sprite.num_frames == 4
        assert all("IoU" in caption for caption in sprite.captions)
    assert own.note == ""
    assert own.read(3) is None


def test_a_run_without_heldout_videos_says_so(small_run: PretrainConfig, tmp_path: Path) -> None:
    config = small_run.replace(data=small_run.data.replace(heldout_share=0.0))
    create_or_resume(config)
    (own,) = draw(config, tmp_path / "pictures").of_runs
    assert own.steps() == {}
    assert "has no held-out videos" in own.note
