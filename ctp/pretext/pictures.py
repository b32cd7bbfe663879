"""Helpers for the pictures of samples: enlarge frames, and change their colours as in training."""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.transforms.v2.functional import InterpolationMode, resize

from ctp.constant import constant
from ctp.video.augment import PRETRAINING_COLORS, ColorJitter, to_input
from ctp.video.config import IMAGENET_MEAN, IMAGENET_STD


def enlarge(frames: Tensor, min_side_px: int) -> Tensor:
    """Enlarge frames whose shorter side is less than `min_side_px`.

    Args:
        frames: uint8 [T, h, w, 3].
        min_side_px: least shorter side of the result.

    Returns:
        uint8 [T, H, W, 3].
    """
    side = max(min_side_px, min(frames.shape[1:3]))
    large = resize(frames.movedim(-1, 1), [side], InterpolationMode.BICUBIC, antialias=True)
    enlarged: Tensor = large.movedim(1, -1)
    return enlarged


def change_colors(
    frames: Tensor, color: Tensor, jitter: ColorJitter = PRETRAINING_COLORS
) -> Tensor:
    """Return frames in the colours that the encoder sees in training.

    Args:
        frames: uint8 [B, T, H, W, 3].
        color: float32 [B, T, 4], see `augment.sample_color`.
        jitter: the distribution that `color` was drawn from.

    Returns:
        uint8 [B, T, H, W, 3].
    """
    mean, std = (constant(each, frames.device) for each in (IMAGENET_MEAN, IMAGENET_STD))
    clips = to_input(frames, color.to(frames.device), jitter)
    pixels = clips.permute(0, 2, 3, 4, 1) * std + mean
    return (255 * pixels).round().clamp(0, 255).to(torch.uint8)
