"""Augmentation: against direct slicing, colours worked by hand, and colorsys."""

from __future__ import annotations

import colorsys
import math

import numpy as np
import pytest
import torch

from ctp.video.augment import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    PRETRAINING_COLORS,
    RECOGNITION_COLORS,
    ColorJitter,
    sample_color,
    sample_crop,
    to_input,
)
from ctp.video.config import AugmentConfig

CONFIG = AugmentConfig()


def colors(num_clips: int = 4000, num_frames: int = 16) -> np.ndarray:
    """float32 [num_clips, T, 4]."""
    rng = np.random.default_rng(0)
    return np.stack([sample_color(PRETRAINING_COLORS, num_frames, rng) for _ in range(num_clips)])


def changed(
    frames: np.ndarray, color: np.ndarray, jitter: ColorJitter = PRETRAINING_COLORS
) -> np.ndarray:
    """Pixels (of 255, float) [T, H, W, 3] after `color` [T, 4], with the normalisation undone."""
    colors = torch.from_numpy(color.astype(np.float32))[None]
    out = to_input(torch.from_numpy(frames)[None], colors, jitter)
    return (out[0].permute(1, 2, 3, 0).numpy() * IMAGENET_STD + IMAGENET_MEAN) * 255


# ---- geometry -----------------------------------------------------------------------------------


def test_crops_are_equally_frequent() -> None:
    rng = np.random.default_rng(0)
    crops = [sample_crop(CONFIG, rng) for _ in range(3000)]
    shares = np.array([crop.share for crop in crops])
    for side in (112, 128, 144):
        assert abs((shares == 112 / side).mean() - 1 / 3) < 0.04
    assert abs(np.mean([crop.flip for crop in crops]) - 0.5) < 0.04
    for place in ([crop.x for crop in crops], [crop.y for crop in crops]):
        assert abs(np.mean(place) - 0.5) < 0.03
        assert 0 <= min(place) < 0.01
        assert 0.99 < max(place) <= 1


def test_a_crop_is_never_larger_than_the_picture() -> None:
    rng = np.random.default_rng(0)
    assert sample_crop(CONFIG.replace(frame_size_px=160), rng).share == 1


def test_flips_have_the_given_probability() -> None:
    rng = np.random.default_rng(0)
    for prob in (0.0, 1.0):
        config = CONFIG.replace(flip_prob=prob)
        assert {sample_crop(config, rng).flip for _ in range(100)} == {bool(prob)}


# ---- distribution of the colours ---------------------------------------------------------------


def test_color_changes_have_the_given_probabilities() -> None:
    different = (colors() != [0, 1, 0, 1]).any(axis=1).mean(axis=0)
    np.testing.assert_allclose(different, [0.25, 0.25, 0.5, 0.5], atol=0.03)


def test_colors_fill_their_ranges() -> None:
    flat = colors().reshape(-1, 4)
    np.testing.assert_allclose(flat.min(0), [-24, math.exp(-0.1), -30, math.exp(-0.12)], rtol=0.02)
    np.testing.assert_allclose(flat.max(0), [24, math.exp(0.1), 30, math.exp(0.12)], rtol=0.02)
    assert (np.abs(flat[:, 0]) <= 24).all()
    assert (np.abs(flat[:, 2]) <= 30).all()


def test_hue_and_saturation_are_constant_and_brightness_and_contrast_drift() -> None:
    drawn = colors()
    assert (drawn[:, :, :2] == drawn[:, :1, :2]).all()
    drifting = (drawn[:, :, 2:] != drawn[:, :1, 2:]).any(axis=1).mean(axis=0)
    np.testing.assert_allclose(drifting, [0.5, 0.5], atol=0.03)


def test_same_generator_same_choice() -> None:
    np.testing.assert_array_equal(colors(20), colors(20))
    first, second = (sample_crop(CONFIG, np.random.default_rng(5)) for _ in range(2))
    assert first == second


# ---- effect of the colours ----------------------------------------------------------------------


def random_frames(num_frames: int = 2) -> np.ndarray:
    frames = np.random.default_rng(0).integers(256, size=(num_frames, 12, 12, 3), dtype=np.uint8)
    frames[:, 0] = frames[:, 0, :, :1]  # grey
    frames[:, 1], frames[:, 2] = 0, 255
    frames[:, 3] = [255, 0, 0]
    return frames


def test_normalised_by_imagenet_and_laid_out_channels_last() -> None:
    frames = torch.from_numpy(random_frames())[None].expand(3, -1, -1, -1, -1).contiguous()
    out = to_input(frames)
    assert out.shape == (3, 3, 2, 12, 12)
    assert out.dtype == torch.float32
    assert out.is_contiguous(memory_format=torch.channels_last_3d)
    red = float(frames[0, 1, 5, 6, 0])
    assert out[0, 0, 1, 5, 6].item() == pytest.approx((red / 255 - 0.485) / 0.229, abs=1e-5)
    blue = float(frames[2, 0, 7, 8, 2])
    assert out[2, 2, 0, 7, 8].item() == pytest.approx((blue / 255 - 0.406) / 0.225, abs=1e-5)
    colored = to_input(frames, torch.tensor([5.0, 1.1, 3, 1.1]).expand(3, 2, 4))
    assert colored.is_contiguous(memory_format=torch.channels_last_3d)


def test_the_neutral_color_changes_nothing() -> None:
    frames = torch.from_numpy(random_frames())[None]
    before = frames.clone()
    neutral = torch.tensor([0.0, 1, 0, 1]).expand(1, 2, 4)
    torch.testing.assert_close(to_input(frames, neutral), to_input(frames), rtol=0, atol=1e-5)
    torch.testing.assert_close(frames, before)


def test_brightness_then_contrast_by_hand() -> None:
    frames = np.array([0, 100, 240], np.uint8).reshape(1, 1, 3, 1).repeat(2, axis=0)
    frames = frames.repeat(3, axis=-1)
    out = changed(frames, np.array([[0, 1, 30, 0.5], [0, 1, -20, 1.25]]))
    # (0 + 30) / 2, (100 + 30) / 2, 255 / 2; then max(-20, 0), (100 - 20) · 1.25, min(275, 255)
    np.testing.assert_allclose(out[0, 0, :, 0], [15, 65, 127.5], atol=1e-3)
    np.testing.assert_allclose(out[1, 0, :, 0], [0, 100, 255], atol=1e-3)


def by_colorsys(pixel: np.ndarray, hue_degrees: float, saturation: float) -> list[float]:
    hue, old_saturation, value = colorsys.rgb_to_hsv(*(pixel / 255))
    new_saturation = min(old_saturation * saturation, 1)
    new_hue = (hue + hue_degrees / 360) % 1
    return [255 * c for c in colorsys.hsv_to_rgb(new_hue, new_saturation, value)]


@pytest.mark.parametrize(
    ("hue", "saturation"),
    [(12, 1), (-12, 1), (0, 1.105), (0, 0.905), (7.3, 1.08), (-9, 0.93), (170, 3), (40, 0)],
)
def test_hue_and_saturation_against_colorsys(hue: float, saturation: float) -> None:
    frames = random_frames()
    out = changed(frames, np.tile([hue, saturation, 0, 1], (2, 1)))
    expected = [by_colorsys(pixel, hue, saturation) for pixel in frames.reshape(-1, 3)]
    np.testing.assert_allclose(out.reshape(-1, 3), expected, atol=1)


@pytest.mark.parametrize("saturation", [0.905, 1.105])
def test_recognition_changes_brightness_then_contrast_then_hue(saturation: float) -> None:
    frames = random_frames()
    out = changed(frames, np.tile([24, saturation, 32, 1.2], (2, 1)), RECOGNITION_COLORS)
    pixels = np.minimum(np.minimum(frames.reshape(-1, 3) + 32.0, 255) * 1.2, 255)
    expected = [by_colorsys(pixel, 24, saturation) for pixel in pixels]
    np.testing.assert_allclose(out.reshape(-1, 3), expected, atol=1)
    first = changed(frames, np.tile([24, saturation, 32, 1.2], (2, 1)))
    assert np.abs(first - out).max() > 5


def test_each_clip_of_a_batch_has_its_own_colors() -> None:
    frames = torch.from_numpy(random_frames())[None].repeat(3, 1, 1, 1, 1)
    color = torch.tensor([[0.0, 1, 0, 1], [10, 1.1, 5, 1.1], [0, 1, 0, 1]])
    color = color[:, None].repeat(1, 2, 1)
    together = to_input(frames, color)
    for clip in range(3):
        alone = to_input(frames[clip : clip + 1], color[clip : clip + 1])
        torch.testing.assert_close(together[clip : clip + 1], alone)
    torch.testing.assert_close(together[0], together[2])
