"""Pixels: colours against BT.601, crops against slices, resizing against torchvision."""

from __future__ import annotations

from collections.abc import Callable

import av
import numpy as np
import pytest
import torch
from av.video.reformatter import ColorRange, Colorspace
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.transforms.v2 import functional as transforms

from ctp.video.config import AugmentConfig
from ctp.video.decode import VideoReader
from ctp.video.encoded import EncodedVideo
from ctp.video.planes import Crop, Cutter, resize_square, scaled_crop, to_rgb

Encode = Callable[..., bytes]
WHOLE = Crop(share=1, x=0.5, y=0.5, flip=False)


def bt601(y: np.ndarray, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Limited-range BT.601 to RGB, float, by its definition from Kr and Kb."""
    kr, kb = 0.299, 0.114
    luma, blue, red = (y - 16.0) / 219, (u - 128.0) / 224, (v - 128.0) / 224
    r = luma + 2 * (1 - kr) * red
    b = luma + 2 * (1 - kb) * blue
    g = (luma - kr * r - kb * b) / (1 - kr - kb)
    return 255 * np.stack([r, g, b], axis=-1)


def planes_of(y: np.ndarray, u: np.ndarray, v: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.concatenate([y.ravel(), u.ravel(), v.ravel()]))


def frame_of(y: np.ndarray, u: np.ndarray, v: np.ndarray) -> av.VideoFrame:
    """A yuv420p picture of planes [h, w] and, twice, [h / 2, w / 2]."""
    stacked = np.concatenate([plane.ravel() for plane in (y, u, v)])
    return av.VideoFrame.from_ndarray(stacked.reshape(-1, y.shape[1]), format="yuv420p")


def noise_frame(height: int, width: int, seed: int = 0) -> tuple[av.VideoFrame, list[np.ndarray]]:
    rng = np.random.default_rng(seed)
    shapes = [(height, width), (height // 2, width // 2), (height // 2, width // 2)]
    planes = [rng.integers(256, size=shape, dtype=np.uint8) for shape in shapes]
    return frame_of(*planes), planes


def test_colors_are_those_of_bt601() -> None:
    rng = np.random.default_rng(0)
    size = 64
    y, u, v = (
        rng.integers(256, size=s, dtype=np.uint8) for s in ((size, size), (32, 32), (32, 32))
    )
    wide = [plane.repeat(2, axis=0).repeat(2, axis=1) for plane in (u, v)]
    exact = bt601(y.astype(float), *(plane.astype(float) for plane in wide)).clip(0, 255)
    rgb = to_rgb(planes_of(y, u, v), size).numpy()
    assert rgb.shape == (size, size, 3)
    assert np.abs(rgb - exact).max() < 0.6  # each value is at most 1 off


def test_black_grey_white() -> None:
    y = np.array([[16, 235], [126, 255]], np.uint8)
    neutral = np.array([[128]], np.uint8)
    rgb = to_rgb(planes_of(y, neutral, neutral), 2)
    assert rgb.tolist() == [[[0] * 3, [255] * 3], [[128] * 3, [255] * 3]]


def test_leading_dimensions_are_kept() -> None:
    planes = torch.randint(256, (2, 3, 6 * 4 * 4), dtype=torch.uint8)
    rgb = to_rgb(planes, 8)
    assert rgb.shape == (2, 3, 8, 8, 3)
    assert torch.equal(rgb[1, 2], to_rgb(planes[1, 2], 8))


@pytest.mark.parametrize(
    ("crop", "window"),
    [
        (Crop(1, 0, 0, False), (0, 0, 60, 60)),
        (Crop(1, 1, 1, False), (40, 0, 60, 60)),
        (Crop(1, 0.5, 0.5, False), (20, 0, 60, 60)),
        (Crop(0.5, 0, 1, False), (0, 30, 30, 30)),
        (Crop(112 / 144, 1, 1, False), (54, 14, 46, 46)),  # 46.67 px, in even numbers
        (Crop(0.5, 0.5, 1, False, long_share=0.8), (10, 30, 80, 30)),
    ],
)
def test_windows_worked_by_hand(crop: Crop, window: tuple[int, int, int, int]) -> None:
    assert crop.window(100, 60) == window


@settings(deadline=None, derandomize=True, max_examples=50)
@given(
    width=st.integers(2, 1000),
    height=st.integers(2, 1000),
    crop=st.builds(
        Crop,
        st.floats(0.01, 1),
        st.floats(0, 1),
        st.floats(0, 1),
        flip=st.just(False),
        long_share=st.none() | st.floats(0.01, 1),
    ),
)
def test_windows_are_inside_at_even_offsets(width: int, height: int, crop: Crop) -> None:
    left, top, cut_width, cut_height = crop.window(width, height)
    assert left % 2 == top % 2 == cut_width % 2 == cut_height % 2 == 0
    assert min(left, top) >= 0
    assert min(cut_width, cut_height) >= 2
    assert left + cut_width <= width
    assert top + cut_height <= height
    assert crop.long_share is not None or cut_width == cut_height


@pytest.mark.parametrize("flip", [False, True])
def test_a_crop_of_its_own_size_is_a_slice(flip: bool) -> None:
    frame, planes = noise_frame(64, 96)
    cutter = Cutter(Crop(0.5, 0.25, 1, flip), 2, 32)
    cutter.add(0, frame)
    cutter.add(1, noise_frame(64, 96, seed=1)[0])
    cut = cutter.frames()
    left, top = 16, 32
    expected = [planes[0][top : top + 32, left : left + 32]]
    expected += [
        plane[top // 2 : top // 2 + 16, left // 2 : left // 2 + 16] for plane in planes[1:]
    ]
    expected = [plane[:, ::-1] if flip else plane for plane in expected]
    np.testing.assert_array_equal(cut[0], np.concatenate([plane.ravel() for plane in expected]))
    assert cut.shape == (2, 32 * 32 * 3 // 2)
    assert not np.array_equal(cut[0], cut[1])


@pytest.mark.parametrize("size", [20, 48])  # smaller and larger than the picture's 32
def test_resizing_is_that_of_torchvision(size: int) -> None:
    frame, planes = noise_frame(32, 32)
    cutter = Cutter(WHOLE, 1, size)
    cutter.add(0, frame)
    [cut] = cutter.frames()
    for plane, start, side in zip(planes, (0, size**2, size**2 * 5 // 4), (1, 2, 2), strict=True):
        part = size // side
        resized = transforms.resize(torch.from_numpy(plane)[None], [part, part], antialias=True)
        got = cut[start : start + part**2].reshape(part, part)
        np.testing.assert_array_equal(got, resized[0].numpy())


@pytest.mark.parametrize("short_side", [112, 128, 144])
@pytest.mark.parametrize("size", [(320, 240), (400, 240), (240, 320), (240, 440), (256, 256)])
def test_a_stretched_crop_is_that_of_the_authors_exact_sizes(
    size: tuple[int, int], short_side: int
) -> None:
    """A picture becomes 149x112, 171x128 or 192x144, whatever its shape, and is then cropped."""
    width, height = size
    stretched = {112: 149, 128: 171, 144: 192}[short_side], short_side
    if height > width:
        stretched = stretched[::-1]
    rows, columns = np.mgrid[:height, :width] / np.array([height, width])[:, None, None]
    smooth = (16 + 200 * rows * columns**2, 40 + 180 * rows[::2, ::2], 230 - 99 * columns[::2, ::2])
    planes = [plane.round().astype(np.uint8) for plane in smooth]
    crop = scaled_crop(
        AugmentConfig(keeps_aspect_ratio=False), short_side, x=0.5, y=0.5, flip=False
    )
    cutter = Cutter(crop, 1, 112)
    cutter.add(0, frame_of(*planes))
    [cut] = cutter.frames()
    whole = transforms.resize(torch.from_numpy(planes[0])[None], list(stretched[::-1]))
    expected = transforms.center_crop(whole, [112, 112])[0].numpy().astype(int)
    # a crop in the video's pixels begins at an even one, up to one pixel from the exact place
    slack = max(np.abs(np.diff(expected, axis=axis)).max() for axis in (0, 1)) * 2 + 1
    assert np.abs(cut[: 112**2].reshape(112, 112) - expected).max() <= slack


def test_frames_of_two_sizes_are_refused() -> None:
    cutter = Cutter(WHOLE, 2, 32)
    cutter.add(0, noise_frame(32, 32)[0])
    with pytest.raises(ValueError, match="has frames of different sizes"):
        cutter.add(1, noise_frame(34, 32)[0])


@pytest.mark.parametrize(
    ("pix_fmt", "matrix", "full"),
    [("yuv420p", "601", False), ("yuvj420p", "601", True), ("yuv420p", "709", False),
     ("yuv444p", "601", False), ("rgb24", "601", True), ("gray", "601", True)],
)  # fmt: skip
def test_other_formats_ranges_and_matrices_keep_their_colours(
    pix_fmt: str, matrix: str, full: bool
) -> None:
    color = (120, 120, 120) if pix_fmt == "gray" else (200, 90, 30)
    picture = np.full((32, 32, 3), color, np.uint8)
    frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(
        format=pix_fmt,
        dst_colorspace=Colorspace.ITU709 if matrix == "709" else Colorspace.ITU601,
        dst_color_range=ColorRange.JPEG if full else ColorRange.MPEG,
    )
    frame.colorspace = 1 if matrix == "709" else 5
    frame.color_range = 2 if full else 1
    cutter = Cutter(WHOLE, 1, 16)
    cutter.add(0, frame)
    rgb = to_rgb(torch.from_numpy(cutter.frames()), 16).numpy()
    # FFmpeg converts twice in 8 bits; the wrong matrix would be 9 off, the wrong range 14
    assert np.abs(rgb.astype(int) - color).max() <= 5


@pytest.mark.parametrize("rotation", [0, 90, 180, 270])
@pytest.mark.parametrize("mirrored", [False, True])
def test_a_square_of_a_rotated_video_is_upright(
    rotation: int, mirrored: bool, encode_video: Encode, paint_number: Callable[..., np.ndarray]
) -> None:
    data = encode_video(5, codec="mpeg4", width=64, height=64, rotation=rotation, mirrored=mirrored)
    with VideoReader(EncodedVideo("id", "uri", data)) as reader:
        planes = reader.read_square([4], WHOLE, 64)
    shown = np.rot90(paint_number(4, width=64, height=64), rotation // 90)
    shown = shown[:, ::-1] if mirrored else shown
    rgb = to_rgb(torch.from_numpy(planes), 64)[0].numpy()
    assert np.abs(rgb.astype(int) - shown).mean() < 8


def test_squares_show_the_requested_frames(
    encode_video: Encode, read_numbers: Callable[[np.ndarray], list[int]]
) -> None:
    for kind in ({}, {"format": "avi", "codec": "mpeg4"}):
        with VideoReader(EncodedVideo("i", "u", encode_video(30, width=64, **kind))) as reader:
            wanted = [3, 3, 11, 29, 29]
            planes = reader.read_square(wanted, WHOLE, 48)
        assert read_numbers(to_rgb(torch.from_numpy(planes), 48).numpy()) == wanted


@pytest.mark.parametrize("new", [20, 64, 90])
def test_squares_are_resized_as_torchvision_resizes_each_plane(new: int) -> None:
    rng = np.random.default_rng(0)
    sides = (64, 32, 32)
    planes = [rng.integers(0, 256, (3, side, side), dtype=np.uint8) for side in sides]
    resized = resize_square(np.concatenate([each.reshape(3, -1) for each in planes], 1), 64, new)
    assert resized.shape == (3, 3 * new**2 // 2)
    expected = [
        transforms.resize(torch.from_numpy(each), [new * side // 64] * 2, antialias=True)
        for each, side in zip(planes, sides, strict=True)
    ]
    flat = torch.cat([each.reshape(3, -1) for each in expected], dim=1).numpy()
    np.testing.assert_allclose(resized.astype(int), flat.astype(int), atol=1)
