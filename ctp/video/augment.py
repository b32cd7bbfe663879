"""Augmentation: crop and flip before the paste, colours after it and on the device.

The order keeps the boxes true: geometry is settled before a box is drawn.
"""

from __future__ import annotations

from typing import Annotated

import numpy as np
import torch
from annotated_types import Ge, Le, MinLen
from numpy.typing import NDArray
from torch import Tensor
from torchvision.transforms.v2 import functional as transforms

from ctp.config import Config
from ctp.keyframes import interpolate, sample_key_frames

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

Probability = Annotated[float, Ge(0), Le(1)]


class AugmentConfig(Config):
    """Augmentation of a clip. The defaults are those of the authors' implementation."""

    frame_size_px: Annotated[int, Ge(8)] = 112
    """Height and width of a clip."""
    short_sides_px: Annotated[tuple[int, ...], MinLen(1)] = (112, 128, 144)
    """Lengths to scale a video's shorter side to, before the crop; each as likely."""
    flip_prob: Probability = 0.5
    """Probability of a mirrored clip."""
    hue_saturation_prob: Probability = 0.25
    """Probability that hue and saturation change, alike in all frames."""
    max_hue_shift_degrees: Annotated[float, Ge(0), Le(180)] = 12.0
    """Greatest turn of the hue."""
    max_log_saturation: Annotated[float, Ge(0)] = 0.1
    """Greatest |log| of the saturation factor."""
    brightness_prob: Probability = 0.5
    """Probability that brightness changes."""
    max_brightness_shift: Annotated[float, Ge(0)] = 30.0
    """Greatest value added to a pixel (of 255), drawn at key frames."""
    contrast_prob: Probability = 0.5
    """Probability that contrast changes."""
    max_log_contrast: Annotated[float, Ge(0)] = 0.12
    """Greatest |log| of the factor on a pixel, drawn at key frames."""
    color_inner_key_frame_probs: tuple[Probability, ...] = (0.7, 0.3)
    """Probability of 0, 1, … key frames between the first and the last, for colours."""
    color_easing_probs: tuple[Probability, Probability, Probability] = (0.7, 0.15, 0.15)
    """Probability of linear, accelerated and decelerated change between key frames."""


def sample_short_side(config: AugmentConfig, rng: np.random.Generator) -> int:
    """Draw the length to scale the shorter side to; at least the clip's size."""
    return max(int(rng.choice(config.short_sides_px)), config.frame_size_px)


def crop_and_flip(
    frames: NDArray[np.uint8], config: AugmentConfig, rng: np.random.Generator
) -> NDArray[np.uint8]:
    """Cut a random square, mirrored or not, out of all frames alike.

    Args:
        frames: uint8 [..., h, w, 3], both sides at least `config.frame_size_px`.

    Returns:
        uint8 [..., H, W, 3], contiguous.
    """
    size = config.frame_size_px
    top = rng.integers(frames.shape[-3] - size + 1)
    left = rng.integers(frames.shape[-2] - size + 1)
    cropped = frames[..., top : top + size, left : left + size, :]
    if rng.random() < config.flip_prob:
        cropped = cropped[..., ::-1, :]
    return np.ascontiguousarray(cropped)


def sample_color(
    config: AugmentConfig, num_frames: int, rng: np.random.Generator
) -> NDArray[np.float32]:
    """Draw the colour changes of a clip.

    Returns:
        float32 [T, 4] as `Clip.color`; (0, 1, 0, 1) changes nothing.
    """
    color = np.tile(np.array([0, 1, 0, 1], np.float32), (num_frames, 1))
    if rng.random() < config.hue_saturation_prob:
        color[:, 0] = rng.uniform(-1, 1) * config.max_hue_shift_degrees
        color[:, 1] = np.exp(rng.uniform(-1, 1) * config.max_log_saturation)
    if rng.random() < config.brightness_prob:
        color[:, 2] = config.max_brightness_shift * _drift(config, num_frames, rng)
    if rng.random() < config.contrast_prob:
        color[:, 3] = np.exp(config.max_log_contrast * _drift(config, num_frames, rng))
    return color


def _drift(config: AugmentConfig, num_frames: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Values in [-1, 1] that vary over key frames, float64 [T]."""
    keys = sample_key_frames(1, num_frames, config.color_inner_key_frame_probs, rng)
    values = rng.uniform(-1, 1, size=(*keys.shape, 1))
    return interpolate(values, keys, config.color_easing_probs, rng)[0, :, 0]


def to_input(frames: Tensor, color: Tensor | None = None) -> Tensor:
    """Change the colours and normalise, on the device that the frames are on.

    Args:
        frames: uint8 [B, T, H, W, 3].
        color: float32 [B, T, 4] as `Clip.color`, on the CPU, where what to do can be read without
            waiting for the device; None changes nothing.

    Returns:
        float32 [B, 3, T, H, W], normalised by ImageNet's mean and deviation, laid out as
        `channels_last_3d`.
    """
    pixels = frames.to(torch.float32)
    if color is not None:
        pixels = _change_color(pixels, color)
    mean = 255 * torch.tensor(IMAGENET_MEAN, device=frames.device)
    std = 255 * torch.tensor(IMAGENET_STD, device=frames.device)
    return ((pixels - mean) / std).permute(0, 4, 1, 2, 3)


def _change_color(pixels: Tensor, color: Tensor) -> Tensor:
    """Hue and saturation, brightness, contrast, in this order, float32 [B, T, H, W, 3] of 255."""
    for clip, (hue, saturation, _, _) in enumerate(color[:, 0].tolist()):
        if hue != 0 or saturation != 1:
            pixels[clip] = _hue_saturation(pixels[clip], hue, saturation)
    brightness, contrast = color[..., 2:, None, None, None].to(pixels.device).unbind(dim=2)
    return ((pixels + brightness).clamp_(0, 255) * contrast).clamp_(0, 255)


def _hue_saturation(pixels: Tensor, hue_degrees: float, saturation: float) -> Tensor:
    """Turn the hue and multiply HSV saturation of float32 [T, H, W, 3], of 255."""
    planes: Tensor = transforms.adjust_hue((pixels / 255).permute(0, 3, 1, 2), hue_degrees / 360)
    # HSV saturation s -> f·s at the same value v moves each channel c to v - (v - c)·f, where
    # f·s may not exceed 1
    value, _ = planes.max(dim=1, keepdim=True)
    least, _ = planes.min(dim=1, keepdim=True)
    factor = (value / (value - least).clamp(min=1e-6)).clamp(max=saturation)
    return (value - (value - planes) * factor).permute(0, 2, 3, 1) * 255
