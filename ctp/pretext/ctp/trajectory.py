"""Trajectories: first boxes that are moved and scaled from key frame to key frame."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ctp.first_box import box_sides
from ctp.keyframes import interpolate, sample_key_frames
from ctp.pretext.ctp.config import GameConfig

Array = NDArray[np.float64]


def sample_trajectories(
    config: GameConfig,
    num_frames: int,
    frame_size_px: tuple[int, int],
    rng: np.random.Generator,
) -> tuple[NDArray[np.float32], NDArray[np.bool_], NDArray[np.int64]]:
    """Draw the K trajectories of a clip (§3.3, supplement G).

    Args:
        config: the rules.
        num_frames: T, at least 2.
        frame_size_px: (width, height) of the clip.
        rng: source of randomness.

    Returns:
        boxes float32 [K, T, 4], visible bool [K, T] and source_frame int64 [K], see `Game`.
        Centres keep the first box inside the frame; a patch that grows may reach over its edge
        unless `config.whole_pixel_boxes`.
    """
    frame_size = np.array(frame_size_px, np.float64)
    size = _first_sizes(config, frame_size, rng)
    position_keys = _key_frames(config, num_frames, rng)
    size_keys = (
        _key_frames(config, num_frames, rng) if config.separate_size_key_frames else position_keys
    )
    centers = _walk_centers(config, size, frame_size, position_keys, rng)
    sizes = _walk_sizes(config, size, size_keys, rng)
    shared = config.key_frames_per == "clip"
    center = interpolate(centers, position_keys, config.easing_probs, rng, shared_easing=shared)
    size = interpolate(sizes, size_keys, config.easing_probs, rng, shared_easing=shared)
    half_size = size / 2
    boxes = np.concatenate([center - half_size, center + half_size], axis=2)
    if config.whole_pixel_boxes:
        boxes = _to_whole_pixels(boxes, frame_size)
    source_frame = rng.integers(num_frames, size=config.num_patches)
    visible = _sample_visible(config, source_frame, num_frames, rng)
    return boxes.astype(np.float32), visible, source_frame


def _first_sizes(config: GameConfig, frame_size: Array, rng: np.random.Generator) -> Array:
    """Draw width and height of the first boxes, float64 [K, 2], inside the frame."""
    k = config.num_patches
    if config.box_sizes_px:
        size = rng.choice(config.box_sizes_px, size=k)
    else:
        size = rng.uniform(*config.box_size_px, size=k)
    if config.aspect_ratios:
        log_ratio = np.log(rng.choice(config.aspect_ratios, size=k))
    else:
        most = np.log(config.max_aspect_ratio)
        log_ratio = rng.uniform(-most, most, size=k)
    jitter = rng.uniform(-1, 1, size=(k, 2)) * config.max_log_box_jitter
    return box_sides(size, log_ratio, frame_size, jitter)


def _key_frames(config: GameConfig, num_frames: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Draw key frames, int64 [K, M]: for each patch, or once for the clip."""
    k = config.num_patches
    rows = k if config.key_frames_per == "patch" else 1
    keys = sample_key_frames(
        rows,
        num_frames,
        config.inner_key_frame_probs,
        rng,
        half_open_shift=config.half_open_key_frame_shift,
    )
    return keys if rows == k else keys.repeat(k, axis=0)


def _walk_centers(
    config: GameConfig,
    size: Array,
    frame_size: Array,
    key_frames: NDArray[np.int64],
    rng: np.random.Generator,
) -> Array:
    """Draw centres at the key frames, float64 [K, M, 2], each within reach of the previous one."""
    k, num_keys = key_frames.shape
    low, high = size / 2, frame_size - size / 2  # a box of the first size stays inside
    reach = config.max_speed_px_per_frame * (key_frames[:, 1:] - key_frames[:, :-1])[..., None]
    steps = rng.uniform(-1, 1, size=(k, num_keys - 1, 2)) * reach
    centers = np.empty((k, num_keys, 2))
    centers[:, 0] = low + rng.random((k, 2)) * (high - low)
    for i in range(num_keys - 1):  # in turn: each is clipped before the next starts from it
        # a third of the time of np.clip, which matters for arrays this small
        centers[:, i + 1] = np.minimum(np.maximum(centers[:, i] + steps[:, i], low), high)
    return centers


def _walk_sizes(
    config: GameConfig, size: Array, key_frames: NDArray[np.int64], rng: np.random.Generator
) -> Array:
    """Draw sizes at the key frames, float64 [K, M, 2]."""
    k, num_keys = key_frames.shape
    ratios = 2 if config.independent_width_and_height else 1
    reach = config.max_log_scale_per_frame * (key_frames[:, 1:] - key_frames[:, :-1])[..., None]
    log_steps = rng.uniform(-1, 1, size=(k, num_keys - 1, ratios)) * reach
    # 0 at the first key frame: the first box has its own size
    log_scale = np.zeros((k, num_keys, ratios))
    np.cumsum(log_steps, axis=1, out=log_scale[:, 1:])
    return size[:, None] * np.exp(log_scale)


def _to_whole_pixels(boxes: Array, frame_size: Array) -> Array:
    """Round boxes and clip them to the frame; each stays at least one pixel wide and high."""
    # the last column and row at most, so that one pixel is left
    top_left = np.clip(np.round(boxes[..., :2]), 0, frame_size - 1)
    bottom_right = np.clip(np.round(boxes[..., 2:]), top_left + 1, frame_size)
    return np.concatenate([top_left, bottom_right], axis=-1)


def _sample_visible(
    config: GameConfig,
    source_frame: NDArray[np.int64],
    num_frames: int,
    rng: np.random.Generator,
) -> NDArray[np.bool_]:
    """Draw the frames that the masked region model leaves visible (§3.3), bool [K, T]."""
    visible = rng.random((len(source_frame), num_frames)) >= config.hidden_prob
    if "first_frame" in config.never_hidden_in:
        visible[:, 0] = True
    if "source_frame" in config.never_hidden_in:
        visible[np.arange(len(source_frame)), source_frame] = True
    return visible
