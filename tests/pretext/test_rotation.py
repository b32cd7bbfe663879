"""3DRotNet: the label is the turn that the pixels show, and the edges do not tell it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ctp.data.sources import open_catalog
from ctp.data.stream import SampleStream, stack
from ctp.pretext.classify import ClassifiedSample
from ctp.pretext.rotation.config import RotationConfig
from ctp.pretext.rotation.task import RotationTask
from ctp.video.config import AugmentConfig, SamplingConfig
from ctp.video.planes import planes_size

SIZE = 64
WHOLE = AugmentConfig(frame_size_px=SIZE, short_sides_px=(SIZE,), flip_prob=0)


def test_the_label_is_the_rotation_that_the_frames_show(
    tmp_path: Path, encode_video: Callable[..., bytes], read_numbers: Callable[..., list[int]]
) -> None:
    (tmp_path / "a.mp4").write_bytes(encode_video(60, width=SIZE, height=SIZE))
    sampling = SamplingConfig(num_frames=8, interval_frames=(2, 5))
    task = RotationTask(RotationConfig(sampling=sampling, augment=WHOLE))
    stream: SampleStream[Any] = SampleStream(task, open_catalog(str(tmp_path)), 0, 4, 10)
    samples = stack([stream.draw(position).sample for position in range(40)])
    frames = task.frames(ClassifiedSample(*map(torch.from_numpy, samples)))
    assert set(samples.label) == {0, 1, 2, 3}
    assert max(np.bincount(samples.label)) < 20
    for clip, label in zip(frames, samples.label, strict=True):
        for turns in range(4):
            # numpy turns counter-clockwise, and clockwise by a negative number
            shown = read_numbers(np.rot90(clip.numpy(), -turns, (1, 2)))
            is_upright = all(0 <= number < 60 for number in shown)
            assert is_upright == (turns == label)
            assert not is_upright or shown == sorted(shown)


def test_neither_edges_nor_pixels_show_the_rotation_of_noise() -> None:
    rng = np.random.default_rng(0)
    size = planes_size(SIZE)
    # so weak that no colour is clipped
    noise = rng.integers(90, 160, (1, 2, size), dtype=np.uint8)
    planes = torch.from_numpy(noise).repeat(4, 1, 1)
    none = torch.zeros(4, dtype=torch.int64)
    task = RotationTask(RotationConfig(augment=WHOLE))
    turned = task.frames(ClassifiedSample(planes, none, torch.arange(4), none))
    for turns, clip in enumerate(turned):
        assert torch.equal(torch.rot90(clip, -turns, (1, 2)), turned[0])
        for axis in (1, 2):
            lines = clip.movedim(axis, 0)
            repeated = (lines[1:] == lines[:-1]).float().mean(dim=(1, 2, 3))
            assert repeated.max() < 0.1
