"""Augmentation: crop and flip before the patch is pasted, colours afterwards on the device.

Crop and flip come first, so that they do not change the boxes of the patch.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ctp.constant import constant
from ctp.keyframes import interpolate, sample_key_frames
from ctp.video.config import IMAGENET_MEAN, IMAGENET_STD, AugmentConfig
from ctp.video.planes import Crop, scaled_crop


def sample_crop(config: AugmentConfig, rng: np.random.Generator) -> Crop:
    """Draw a random crop of a picture whose shorter side is scaled to one of `short_sides_px`.

    A side that is shorter than the crop is scaled to the length of the crop.
    """
    # as a share of the picture: it is never scaled as a whole, only what is cut out
    short_side = max(int(rng.choice(config.short_sides_px)), config.frame_size_px)
    x, y = rng.random(2)
    flip = bool(rng.random() < config.flip_prob)
    return scaled_crop(config, short_side, float(x), float(y), flip)


@dataclass(frozen=True)
class ColorJitter:
    """How colours vary. The defaults are those of the authors' pretraining (supplement G).

    Attributes:
        hue_saturation_prob: probability that hue and saturation change, equally in all frames.
        max_hue_shift_degrees: greatest hue shift.
        max_log_saturation: greatest |log| of the saturation factor.
        brightness_prob: probability that brightness changes.
        max_brightness_shift: greatest value added to a pixel (of 255).
        contrast_prob: probability that contrast changes.
        max_log_contrast: greatest |log| of the factor on a pixel.
        varies_over_frames: whether brightness and contrast vary between key frames.
        half_open_key_frame_shift: see `sample_key_frames`.
        hue_saturation_first: whether hue and saturation change before brightness and contrast, or
            after them.
    """

    hue_saturation_prob: float = 0.25
    max_hue_shift_degrees: float = 24.0
    max_log_saturation: float = 0.1
    brightness_prob: float = 0.5
    max_brightness_shift: float = 30.0
    contrast_prob: float = 0.5
    max_log_contrast: float = 0.12
    varies_over_frames: bool = True
    half_open_key_frame_shift: bool = False
    hue_saturation_first: bool = True


PRETRAINING_COLORS = ColorJitter()
RECOGNITION_COLORS = ColorJitter(
    hue_saturation_prob=0.2,
    brightness_prob=0.2,
    max_brightness_shift=32.0,
    contrast_prob=0.2,
    max_log_contrast=0.2,
    varies_over_frames=False,
    hue_saturation_first=False,
)
"""The colours of the authors' fine-tuning and of their other pretraining tasks (supplement A)."""
INNER_KEY_FRAME_PROBS = (0.7, 0.3)
"""Probability of 0 and 1 key frames between the first and the last, for colours."""
EASING_PROBS = (0.7, 0.15, 0.15)
"""Probability of linear, accelerated and decelerated change between key frames, for colours."""


def sample_color(
    jitter: ColorJitter, num_frames: int, rng: np.random.Generator
) -> NDArray[np.float32]:
    """Draw the colour changes of a clip.

    Returns:
        float32 [T, 4]: hue shift in degrees, saturation factor, brightness added (of 255) and
        contrast factor; (0, 1, 0, 1) changes nothing.
    """
    color = np.zeros((num_frames, 4), np.float32)
    color[:, 1::2] = 1
    if rng.random() < jitter.hue_saturation_prob:
        color[:, 0] = rng.uniform(-1, 1) * jitter.max_hue_shift_degrees
        # a logarithm is uniform, so that a factor and its inverse are equally probable
        color[:, 1] = np.exp(rng.uniform(-1, 1) * jitter.max_log_saturation)
    if rng.random() < jitter.brightness_prob:
        color[:, 2] = jitter.max_brightness_shift * _sample_drift(jitter, num_frames, rng)
    if rng.random() < jitter.contrast_prob:
        color[:, 3] = np.exp(jitter.max_log_contrast * _sample_drift(jitter, num_frames, rng))
    return color


def _sample_drift(
    jitter: ColorJitter, num_frames: int, rng: np.random.Generator
) -> NDArray[np.float64]:
    """Draw values in [-1, 1], interpolated between key frames or constant, float64 [T]."""
    if not jitter.varies_over_frames:
        return np.full(num_frames, rng.uniform(-1, 1))
    keys = sample_key_frames(
        1,
        num_frames,
        INNER_KEY_FRAME_PROBS,
        rng,
        half_open_shift=jitter.half_open_key_frame_shift,
    )
    values = rng.uniform(-1, 1, size=(*keys.shape, 1))
    return interpolate(values, keys, EASING_PROBS, rng)[0, :, 0]


def to_input(
    frames: Tensor, color: Tensor | None = None, jitter: ColorJitter = PRETRAINING_COLORS
) -> Tensor:
    """Change the colours and normalise, on the device of the frames.

    Args:
        frames: uint8 [B, T, H, W, 3].
        color: float32 [B, T, 4], see `sample_color`, on the same device; None changes nothing.
        jitter: the distribution that `color` was drawn from; it says which colours change first.

    Returns:
        float32 [B, 3, T, H, W], normalised by ImageNet's mean and deviation, in the memory format
        `channels_last_3d`.
    """
    pixels = frames.to(torch.float32)
    if color is not None:
        pixels = _change_color(pixels, color, jitter.hue_saturation_first)
    width = frames.shape[3]
    # a whole row at a time, because a last dimension of 3 is slow on CPUs
    mean, std = (
        255 * constant(each, frames.device).repeat(width) for each in (IMAGENET_MEAN, IMAGENET_STD)
    )
    pixels.flatten(start_dim=3).sub_(mean).div_(std)
    clips = pixels.permute(0, 4, 1, 2, 3)
    # on CPUs the gradient of bfloat16 convolutions in that layout is infinite at times (torch 2.15)
    is_bf16_on_cpu = clips.device.type == "cpu" and torch.is_autocast_enabled("cpu")
    return clips.contiguous() if is_bf16_on_cpu else clips


def _change_color(pixels: Tensor, color: Tensor, hue_saturation_first: bool) -> Tensor:
    """Change hue and saturation before or after brightness and contrast, of float32
    [B, T, H, W, 3]; in place where possible, because a CPU spends most of the time on memory.
    """
    if hue_saturation_first:
        pixels = _change_hue_saturation(pixels, color)
    brightness, contrast = color[..., 2:, None, None, None].unbind(dim=2)
    pixels = pixels.add_(brightness).clamp_(0, 255).mul_(contrast).clamp_(0, 255)
    return pixels if hue_saturation_first else _change_hue_saturation(pixels, color)


def _change_hue_saturation(pixels: Tensor, color: Tensor) -> Tensor:
    """Change hue and saturation by the first frame's `color`."""
    if pixels.device.type == "cpu":
        for clip, (hue, saturation, _, _) in zip(pixels, color[:, 0].tolist(), strict=True):
            if hue != 0 or saturation != 1:
                for frames in clip.split(1):  # the intermediate values of a frame fit in the cache
                    frames.copy_(_hue_saturation(frames, hue, saturation))
        return pixels
    # for all clips: to ask which change would wait for the device
    hue, saturation = (value.repeat_interleave(pixels.shape[1]) for value in color[:, 0, :2].T)
    frames = pixels.flatten(0, 1)
    changed = _hue_saturation(frames, hue[:, None, None], saturation[:, None, None])
    is_changed = ((hue != 0) | (saturation != 1))[:, None, None, None]
    return torch.where(is_changed, changed, frames).view_as(pixels)


def _hue_saturation(
    pixels: Tensor, hue_degrees: float | Tensor, saturation: float | Tensor
) -> Tensor:
    """Turn the hue and multiply the HSV saturation of float32 [T, H, W, 3], of 255.

    HSV's value is the greatest channel, chroma is its difference to the least one, and hue, in
    sixths of the colour wheel, follows from the differences of two channels. Conversely, a channel
    is value - chroma · clamp(2 - d, 0, 1), where d is the distance on the wheel from the hue to the
    channel's opposite: 3 for red, 5 for green, 1 for blue.
    """
    red, green, blue = pixels.permute(3, 0, 1, 2).contiguous()
    value = torch.maximum(torch.maximum(red, green), blue)
    chroma = value - torch.minimum(torch.minimum(red, green), blue)
    # multiply by masks, because selecting per pixel is many times slower on CPUs
    is_red = (value == red).to(pixels.dtype)
    is_green = (value == green).to(pixels.dtype).mul_(1 - is_red)
    is_blue = 1 - is_red - is_green
    sextant = is_red * (green - blue) + is_green * (blue - red) + is_blue * (red - green)
    sextant.div_(chroma.clamp(min=1e-6)).add_(2 * is_green + 4 * is_blue).add_(hue_degrees / 60)
    chroma = torch.minimum(chroma.mul_(saturation), value)  # saturation is at most 1
    changed = []
    for opposite in (3, 5, 1):
        distance = (sextant - opposite).abs_()
        distance = torch.minimum(distance, (distance - 6).abs_())
        changed.append(value - distance.neg_().add_(2).clamp_(0, 1).mul_(chroma))
    return torch.stack(changed, dim=-1)
