"""Sampling: which frames of a video make a clip."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from pydantic import ValidationError

from ctp.video.config import SamplingConfig
from ctp.video.sampling import sample_frames


def clips(config: SamplingConfig, num_video_frames: int, num_clips: int = 500) -> np.ndarray:
    """int64 [num_clips, T]."""
    rng = np.random.default_rng(0)
    return np.stack([sample_frames(config, num_video_frames, rng) for _ in range(num_clips)])


def test_intervals_are_uniform_from_1_to_5() -> None:
    intervals = np.diff(clips(SamplingConfig(), 1000, 5000), axis=1)
    assert (intervals == intervals[:, :1]).all()
    counts = Counter(intervals[:, 0].tolist())
    assert set(counts) == {1, 2, 3, 4, 5}
    assert all(abs(count - 1000) < 4 * np.sqrt(800) for count in counts.values())


def test_starts_are_uniform_over_all_that_fit() -> None:
    config = SamplingConfig(num_frames=4, min_interval_frames=2, max_interval_frames=2)
    starts = Counter(clips(config, 10, 4000)[:, 0].tolist())
    assert set(starts) == {0, 1, 2, 3}  # 3 + 3 · 2 is the last frame, 9
    assert all(abs(count - 1000) < 4 * np.sqrt(750) for count in starts.values())


def test_a_short_video_starts_at_0_and_repeats_its_last_frame() -> None:
    config = SamplingConfig(num_frames=5, min_interval_frames=3, max_interval_frames=3)
    assert (clips(config, 8, 20) == [0, 3, 6, 7, 7]).all()
    assert (clips(config, 1, 20) == 0).all()


@pytest.mark.parametrize("jitter", [False, True])
@pytest.mark.parametrize("num_video_frames", [1, 2, 7, 16, 40, 77, 1000])
def test_never_falls_nor_leaves_the_video(num_video_frames: int, jitter: bool) -> None:
    frames = clips(SamplingConfig(temporal_jitter=jitter), num_video_frames)
    assert frames.dtype == np.int64
    assert frames.shape[1] == 16
    assert (np.diff(frames, axis=1) >= 0).all()
    assert frames.min() >= 0
    assert frames.max() < num_video_frames


def test_jitter_moves_a_frame_by_less_than_an_interval() -> None:
    config = SamplingConfig(
        num_frames=8, min_interval_frames=4, max_interval_frames=4, temporal_jitter=True
    )
    frames = clips(config, 29)  # a span of 29 fits at 0 only
    moved = frames - 4 * np.arange(8)
    assert set(moved[:, :-1].ravel()) == {0, 1, 2, 3}
    assert set(moved[:, -1]) == {0}  # the last frame is the video's last


def test_same_generator_same_clip() -> None:
    config = SamplingConfig(temporal_jitter=True)
    np.testing.assert_array_equal(clips(config, 100), clips(config, 100))


def test_intervals_the_wrong_way_round_are_refused() -> None:
    with pytest.raises(ValidationError, match="min_interval_frames 4 exceeds"):
        SamplingConfig(min_interval_frames=4, max_interval_frames=3)
