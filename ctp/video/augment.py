"""Augmentation: crop and flip before the paste, colours after it and on the device.

The order keeps the boxes true: geometry is settled before a box is drawn.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ctp.keyframes import interpolate, sample_key_frames
from ctp.video.config import AugmentConfig
from ctp.video.planes import Crop

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def sample_crop(config: AugmentConfig, rng: np.random.Generator) -> Crop:
    """Draw a square to cut out: what a random crop shows of a picture whose shorter side was
    scaled to one of `config.short_sides_px`; all of that side where it is shorter than the crop."""
    short_side = max(int(rng.choice(config.short_sides_px)), config.frame_size_px)
    x, y = rng.random(2)
    return Crop(
        config.frame_size_px / short_side, float(x), float(y), bool(rng.random() < config.flip_prob)
    )


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
    """Values in [-1, 1] that vary over key frames, or are all the same, float64 [T]."""
    if not config.colors_drift:
        return np.full(num_frames, rng.uniform(-1, 1))
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
    width = frames.shape[3]
    # for a whole row at a time: a last dimension of three is slow on CPUs
    mean = 255 * torch.tensor(IMAGENET_MEAN, device=frames.device).repeat(width)
    std = 255 * torch.tensor(IMAGENET_STD, device=frames.device).repeat(width)
    pixels.flatten(start_dim=3).sub_(mean).div_(std)
    return pixels.permute(0, 4, 1, 2, 3)


def _change_color(pixels: Tensor, color: Tensor) -> Tensor:
    """Hue and saturation, brightness, contrast, in this order, float32 [B, T, H, W, 3] of 255.

    In place, as far as may be: on a CPU it is the memory that takes the time.
    """
    # what is in between of a frame fits in a CPU's cache, that of a clip does not
    at_once = 1 if pixels.device.type == "cpu" else pixels.shape[1]
    for clip, (hue, saturation, _, _) in zip(pixels, color[:, 0].tolist(), strict=True):
        if hue != 0 or saturation != 1:
            for frames in clip.split(at_once):
                frames.copy_(_hue_saturation(frames, hue, saturation))
    brightness, contrast = color[..., 2:, None, None, None].to(pixels.device).unbind(dim=2)
    return pixels.add_(brightness).clamp_(0, 255).mul_(contrast).clamp_(0, 255)


def _hue_saturation(pixels: Tensor, hue_degrees: float, saturation: float) -> Tensor:
    """Turn the hue and multiply HSV saturation of float32 [T, H, W, 3], of 255.

    HSV's value is the greatest channel, its chroma the distance to the least, and its hue, in
    sextants of the colour wheel, follows from the other two. Back again, a channel lies below the
    value by the chroma times 2 - d in [0, 1], where d is how far round the wheel the hue is from
    the channel's opposite: 3 for red, 5 for green, 1 for blue.
    """
    red, green, blue = pixels.permute(3, 0, 1, 2).contiguous()
    value = torch.maximum(torch.maximum(red, green), blue)
    chroma = value - torch.minimum(torch.minimum(red, green), blue)
    # masks that are multiplied: choosing pixel by pixel is many times slower on CPUs
    is_red = (value == red).to(pixels.dtype)
    is_green = (value == green).to(pixels.dtype).mul_(1 - is_red)
    is_blue = 1 - is_red - is_green
    sextant = is_red * (green - blue) + is_green * (blue - red) + is_blue * (red - green)
    sextant.div_(chroma.clamp(min=1e-6)).add_(2 * is_green + 4 * is_blue).add_(hue_degrees / 60)
    chroma = torch.minimum(chroma.mul_(saturation), value)  # saturation is 1 at most
    changed = torch.empty_like(pixels)
    for channel, opposite in enumerate((3, 5, 1)):
        away = (sextant - opposite).abs_()
        away = torch.minimum(away, (away - 6).abs_())
        torch.sub(value, away.neg_().add_(2).clamp_(0, 1).mul_(chroma), out=changed[..., channel])
    return changed
