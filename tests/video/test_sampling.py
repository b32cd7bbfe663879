"""The frames of a clip: their order, their range and their distribution."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from ctp.video.config import SamplingConfig
from ctp.video.sampling import sample_frames


def clips(
    config: SamplingConfig, num_video_frames: int, num_clips: int = 500, *, jitter: bool = False
) -> np.ndarray:
    """int64 [num_clips, T]."""
    rng = np.random.default_rng(0)
    return np.stack(
        [
            sample_frames(config, num_video_frames, rng, temporal_jitter=jitter)
            for _ in range(num_clips)
        ]
    )


def test_intervals_are_uniform_from_1_to_5() -> None:
    intervals = np.diff(clips(SamplingConfig(), 1000, 5000), axis=1)
    assert (intervals == intervals[:, :1]).all()
    counts = Counter(intervals[:, 0].tolist())
    assert set(counts) == {1, 2, 3, 4, 5}
    assert all(abs(count - 1000) < 4 * np.sqrt(800) for count in counts.values())


def test_starts_are_uniform() -> None:
    config = SamplingConfig(num_frames=4, interval_frames=(2, 2))
    starts = Counter(clips(config, 10, 4000)[:, 0].tolist())
    assert set(starts) == {0, 1, 2, 3}  # 3 + 3 · 2 is the last frame, 9
    assert all(abs(count - 1000) < 4 * np.sqrt(750) for count in starts.values())


def test_a_short_video_starts_at_0_and_repeats_its_last_frame() -> None:
    config = SamplingConfig(num_frames=5, interval_frames=(3, 3))
    assert (clips(config, 8, 20) == [0, 3, 6, 7, 7]).all()
    assert (clips(config, 1, 20) == 0).all()


@settings(deadline=None, derandomize=True, max_examples=50)
@given(
    num_video_frames=st.integers(1, 1000),
    num_frames=st.integers(2, 32),
    intervals=st.tuples(st.integers(1, 9), st.integers(1, 9)).map(sorted),
    jitter=st.booleans(),
    seed=st.integers(0, 2**32),
)
def test_frames_never_fall_nor_leave_the_video(
    num_video_frames: int, num_frames: int, intervals: list[int], jitter: bool, seed: int
) -> None:
    config = SamplingConfig(num_frames=num_frames, interval_frames=intervals)

    def sample() -> np.ndarray:
        rng = np.random.default_rng(seed)
        return sample_frames(config, num_video_frames, rng, temporal_jitter=jitter)

    frames = sample()
    assert frames.dtype == np.int64
    assert frames.shape == (num_frames,)
    assert (np.diff(frames) >= 0).all()
    assert 0 <= frames[0] <= frames[-1] < num_video_frames
    assert frames.tolist() == sample().tolist()


def test_jitter_shifts_a_frame_by_less_than_an_interval() -> None:
    config = SamplingConfig(num_frames=8, interval_frames=(4, 4))
    frames = clips(config, 29, jitter=True)  # a span of 29 fits only at 0
    shift = frames - 4 * np.arange(8)
    assert set(shift[:, :-1].ravel()) == {0, 1, 2, 3}
    assert set(shift[:, -1]) == {0}  # the last frame is the video's last


def test_reversed_intervals_are_refused() -> None:
    with pytest.raises(ValidationError, match="the minimum 4 exceeds the maximum 3"):
        SamplingConfig(interval_frames=(4, 3))
