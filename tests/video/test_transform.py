"""The clips that an encoder takes, made from files and from frames."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ctp.video.augment import to_input
from ctp.video.config import IMAGENET_MEAN, IMAGENET_STD, AugmentConfig, ClipFormat, SamplingConfig
from ctp.video.decode import VideoReader
from ctp.video.encoded import EncodedVideo
from ctp.video.planes import Crop, to_rgb
from ctp.video.transform import ClipTransform

SMALL = ClipFormat.from_training(
    SamplingConfig(num_frames=4, interval_frames=(1, 3)),
    AugmentConfig(frame_size_px=48, short_sides_px=(48, 64, 80)),
)
STARTED_AT = 7
"""First frame of the middle clip: half of the 14 starts that 21 frames leave."""


def test_a_file_gives_the_middle_clip_as_in_training(
    tmp_path: Path, encode_video: Callable[..., bytes]
) -> None:
    data = encode_video(21, width=96, height=64)
    (tmp_path / "video.mp4").write_bytes(data)
    with VideoReader(EncodedVideo("one", "one", data)) as reader:
        frames = [STARTED_AT + 2 * i for i in range(4)]
        planes = reader.read_square(frames, Crop(48 / 64, 0.5, 0.5, flip=False), 48)
    expected = to_input(to_rgb(torch.from_numpy(planes), 48)[None])[0]
    clip = ClipTransform(SMALL)(tmp_path / "video.mp4")
    assert clip.shape == (3, 4, 48, 48)
    assert torch.equal(clip, expected)
    assert torch.equal(clip, ClipTransform(SMALL)(str(tmp_path / "video.mp4")))


def shown(clip: torch.Tensor) -> np.ndarray:
    """Return the frames of a normalised clip, uint8 [T, S, S, 3]."""
    mean, std = torch.tensor(IMAGENET_MEAN), torch.tensor(IMAGENET_STD)
    return (255 * (clip.permute(1, 2, 3, 0) * std + mean)).round().to(torch.uint8).numpy()


def test_frames_of_a_video_give_the_same_frames_as_its_file(
    paint_number: Callable[..., Any], read_numbers: Callable[..., Any]
) -> None:
    whole = SMALL.replace(frame_size_px=64, short_sides_px=(64,))
    video = np.stack([paint_number(number, width=64, height=64) for number in range(21)])
    clip = ClipTransform(whole)(video)
    assert read_numbers(shown(clip)) == [7, 9, 11, 13]
    assert (shown(clip) == video[[7, 9, 11, 13]]).all()


def test_as_many_frames_as_a_clip_has_are_the_clip() -> None:
    rng = np.random.default_rng(0)
    frames = torch.from_numpy(rng.integers(0, 256, (4, 64, 64, 3), np.uint8))
    # an area of 48 in the middle of 64, which is the size of the clip
    expected = frames[:, 8:56, 8:56].numpy()
    assert (shown(ClipTransform(SMALL)(frames)) == expected).all()


def test_the_recorded_normalisation_is_used() -> None:
    plain = SMALL.replace(mean=(0.0, 0.5, 1.0), std=(1.0, 0.5, 2.0))
    frames = np.full((4, 64, 64, 3), 255, np.uint8)
    colors = ClipTransform(plain)(frames)[:, 0, 0, 0].tolist()
    assert colors == pytest.approx([1.0, 1.0, 0.0])


@pytest.mark.parametrize(
    "frames", [np.zeros((4, 3, 64, 64), np.uint8), np.zeros((4, 64, 64, 3), np.float32)]
)
def test_other_arrays_are_an_error(frames: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"expected frames uint8 \[N, H, W, 3\]; got torch"):
        ClipTransform(SMALL)(frames)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, ""),
        ({"interval_frames": (2, 2), "short_sides_px": (64,)}, ""),  # within the training's
        ({"num_frames": 16}, "16 frames instead of 4"),
        ({"frame_size_px": 32}, "32×32 pixels instead of 48×48"),
        ({"interval_frames": (1, 4)}, "1 to 4 frames apart instead of 1 to 3"),
        ({"short_sides_px": (90,)}, "90 px before the crop instead of 48 to 80"),
        ({"keeps_aspect_ratio": False}, "stretched to 4:3 instead of"),
        ({"mean": (0.5, 0.5, 0.5)}, "colours normalised by mean"),
    ],
)
def test_differences_from_the_training_are_named(changes: dict[str, Any], expected: str) -> None:
    found = SMALL.replace(**changes).describe_differences(SMALL)
    assert expected in found
    assert bool(expected) == bool(found)
