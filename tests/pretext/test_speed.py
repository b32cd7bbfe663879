"""SpeedNet: the label is the speed that the frames show."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ctp.data.sources import open_catalog
from ctp.data.stream import Drawn, SampleStream
from ctp.pretext.speed.config import SpeedConfig
from ctp.pretext.speed.task import SpeedTask
from ctp.video.config import AugmentConfig, SamplingConfig
from ctp.video.planes import to_rgb

SIZE, NUM_FRAMES = 64, 8
ReadNumbers = Callable[[Any], list[int]]


@pytest.fixture
def draw(tmp_path: Path, encode_video: Callable[..., bytes]) -> Callable[..., list[Drawn[Any]]]:
    """`draw(video_frames=, count=, …)`: samples of square videos."""

    def draw_samples(
        video_frames: tuple[int, ...] = (60,), count: int = 40, **options: Any
    ) -> list[Drawn[Any]]:
        for number in video_frames:
            data = encode_video(number, width=SIZE, height=SIZE)
            (tmp_path / f"{number}.mp4").write_bytes(data)
        interval = options.pop("interval_frames", (1, 1))
        config = SpeedConfig(
            sampling=SamplingConfig(num_frames=NUM_FRAMES, interval_frames=interval),
            augment=AugmentConfig(frame_size_px=SIZE, short_sides_px=(SIZE,), flip_prob=0),
            **options,
        )
        catalog = open_catalog(str(tmp_path))
        stream: SampleStream[Any] = SampleStream(SpeedTask(config), catalog, 0, 4, 100)
        return [stream.draw(position) for position in range(count)]

    return draw_samples


def rgb(planes: Any) -> Any:
    return to_rgb(torch.from_numpy(planes.copy()), SIZE).numpy()


@pytest.mark.parametrize("interval", [1, 2])
def test_the_label_is_the_distance_of_frames(
    draw: Callable[..., list[Drawn[Any]]], read_numbers: ReadNumbers, interval: int
) -> None:
    samples = [each.sample for each in draw(interval_frames=(interval, interval))]
    assert {int(sample.label) for sample in samples} == set(range(7))
    for sample in samples:
        steps = np.diff(read_numbers(rgb(sample.planes)))
        assert set(steps) == {interval * [-4, -2, -1, 0, 1, 2, 4][sample.label]}


def test_the_originals_sample_has_a_clip_of_each_speed(
    draw: Callable[..., list[Drawn[Any]]], read_numbers: ReadNumbers
) -> None:
    spans = []
    for sample in (each.sample for each in draw(classes="original")):
        assert sample.label.tolist() == [0, 1]
        spans.append([np.ptp(read_numbers(rgb(planes))) for planes in sample.planes])
    normal, fast = np.array(spans).T
    # 7 intervals of 1 to 1.2 and of 1.7 to 2.2 frames, rounded down
    assert set(normal) == {7, 8}
    assert set(fast) == {11, 12, 13, 14, 15}


def test_the_original_blurs_clips_by_random_sizes(draw: Callable[..., list[Drawn[Any]]]) -> None:
    def sharpness(sample: Any) -> list[float]:
        clips = rgb(sample.planes).reshape(-1, SIZE, SIZE, 3).astype(float)
        return [float(np.abs(np.diff(clip, axis=1)).max()) for clip in clips[::NUM_FRAMES]]

    seven, original = (
        np.concatenate([sharpness(each.sample) for each in draw(classes=classes, count=12)])
        for classes in ("seven", "original")
    )
    assert np.ptp(seven) < 10
    assert np.ptp(original) > 50


@pytest.mark.parametrize(("classes", "needed"), [("seven", 29), ("original", 16)])
def test_a_video_too_short_for_the_highest_speed_is_quarantined(
    draw: Callable[..., list[Drawn[Any]]], classes: str, needed: int
) -> None:
    samples = draw((needed - 1, needed), classes=classes)
    assert {each.video_id for each in samples} == {f"{needed}.mp4"}
    reasons = {(q.video_id, q.reason) for each in samples for q in each.quarantined}
    [(video, reason)] = reasons
    assert video == f"{needed - 1}.mp4"
    assert reason.startswith(f"has {needed - 1} frame(s), {needed} are needed")
    assert "task.sampling.interval_frames" in reason
