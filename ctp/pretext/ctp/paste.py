"""Pasting: each patch is resampled for all frames at once, then laid over them.

A pixel belongs to a box if its centre lies inside. It shows the patch bilinearly at the same
relative place, taps clamped to the pixels of the source box (so for whole-pixel boxes this is the
usual half-pixel-centre bilinear resize of the cut patch). Bilinear resampling is separable, and an
output row or column is a weighted sum of just two of the patch's: what torch calls an embedding
bag. So two fused gathers of whole rows, one for each axis, serve all frames together.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from ctp.pretext.ctp.appearance import PatchLooks, patch_alpha
from ctp.pretext.ctp.trajectory import Trajectories

HALF = np.float32(0.5)
"""A pixel's centre from its edge."""


def paste(
    frames: NDArray[np.uint8],
    trajectories: Trajectories,
    looks: PatchLooks,
    sources: NDArray[np.uint8],
    order: NDArray[np.int64],
) -> NDArray[np.uint8]:
    """Paste K patches over the frames of a clip.

    Args:
        frames: uint8 [T, H, W, 3]; not changed.
        trajectories: boxes, visibility and source frames of the patches.
        looks: shapes and opacity.
        sources: uint8 [K, H, W, 3], the picture that each patch is cut from, at its box in its
            source frame.
        order: int64 [K], which patch is pasted first, second, …

    Returns:
        uint8 [T, H, W, 3].
    """
    pasted = frames.copy()
    height, width = frames.shape[1:3]
    for k in order:
        shown = np.flatnonzero(trajectories.visible[k])
        if len(shown) == 0:
            continue
        boxes = trajectories.boxes[k]
        source_box = boxes[trajectories.source_frame[k]]
        x = _side(boxes[shown, 0::2], source_box[0::2], width)
        y = _side(boxes[shown, 1::2], source_box[1::2], height)
        patch = _resample(sources[k, y.cut, x.cut], x, y)
        windows = [
            pasted[t, top:bottom, left:right]
            for t, top, bottom, left, right in zip(
                shown, y.start, y.stop, x.start, x.stop, strict=True
            )
        ]
        if not looks.is_opaque(k):
            patch = _blend(windows, patch, x, y, looks, k, shown)
        pixels = (patch + HALF).astype(np.uint8).reshape(*y.place.shape, x.place.shape[1], 3)
        for window, corner in zip(windows, pixels, strict=True):
            window[:] = corner[: window.shape[0], : window.shape[1]]
    return pasted


@dataclass(frozen=True)
class _Side:
    """Boxes and the patch along one axis, for n pixels a frame: as many as the largest box needs.

    Attributes:
        start, stop: pixels of the frame whose centres lie in the box, lists of T.
        place: float32 [T, n], pixel centres from the box's centre, in box sizes.
        cut: the pixels of the source that are the patch, P of them.
        taps: int64 [T, n, 2], the two pixels of the patch that a pixel shows.
        weights: float32 [T, n, 2], how much of each.
    """

    start: list[int]
    stop: list[int]
    place: NDArray[np.float32]
    cut: slice
    taps: NDArray[np.int64]
    weights: NDArray[np.float32]


def _side(sides: NDArray[np.float32], source: NDArray[np.float32], num_pixels: int) -> _Side:
    """Work out one axis from the box sides [T, 2] and the source box's [2], of `num_pixels`."""
    bounds = np.ceil(sides - HALF).clip(0, num_pixels).astype(np.int64)
    start, stop = bounds[:, 0], bounds[:, 1]
    first, size = sides[:, :1], sides[:, 1:] - sides[:, :1]
    steps = np.arange(max((stop - start).max(), 1), dtype=np.float32)
    place = (steps + (bounds[:, :1].astype(np.float32) - first + HALF)) / size
    cut = _pixel_range(source, num_pixels)
    last = cut.stop - cut.start - 1
    position = place * (source[1] - source[0]) + (source[0] - HALF - np.float32(cut.start))
    position = position.clip(0, last)
    taps = np.empty((*place.shape, 2), np.int64)
    taps[..., 0] = position
    taps[..., 1] = np.minimum(taps[..., 0] + 1, last)
    weights = np.empty(taps.shape, np.float32)
    weights[..., 1] = position - taps[..., 0]
    weights[..., 0] = 1 - weights[..., 1]
    return _Side(start.tolist(), stop.tolist(), place - HALF, cut, taps, weights)


def _pixel_range(side: NDArray[np.float32], num_pixels: int) -> slice:
    """The pixels of the frame whose centres lie in [start, end) of a box; at least one."""
    start = min(max(math.ceil(side[0] - 0.5), 0), num_pixels - 1)
    return slice(start, min(max(math.ceil(side[1] - 0.5), start + 1), num_pixels))


def _resample(source: NDArray[np.uint8], x: _Side, y: _Side) -> NDArray[np.float32]:
    """The patch, uint8 [P, Q, 3], as it looks in every frame, float32 [T, h, w * 3]."""
    num_frames, height = y.place.shape
    patch_height, patch_width, _ = source.shape
    # planes inside columns: so that one plain transpose of each frame turns its columns to rows
    columns = source.transpose(1, 2, 0).astype(np.float32, order="C").reshape(patch_width, -1)
    wide = _weigh_rows(columns, x.taps, x.weights).reshape(num_frames, -1, patch_height)
    rows = np.ascontiguousarray(wide.transpose(0, 2, 1)).reshape(num_frames * patch_height, -1)
    frame_start = np.arange(num_frames)[:, None, None] * patch_height
    return _weigh_rows(rows, y.taps + frame_start, y.weights).reshape(num_frames, height, -1)


def _weigh_rows(
    rows: NDArray[np.float32], taps: NDArray[np.int64], weights: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Sums of two weighted rows [N, C] for each of the `taps` [T, n, 2], float32 [T * n, C]."""
    weighed: NDArray[np.float32] = F.embedding_bag(
        torch.from_numpy(taps.reshape(-1, 2)),
        torch.from_numpy(rows),
        mode="sum",
        per_sample_weights=torch.from_numpy(weights.reshape(-1, 2)),
    ).numpy()
    return weighed


def _blend(
    windows: list[NDArray[np.uint8]],
    patch: NDArray[np.float32],
    x: _Side,
    y: _Side,
    looks: PatchLooks,
    k: int,
    shown: NDArray[np.int64],
) -> NDArray[np.float32]:
    """Mix the patch [T, h, w * 3] with what lies under it in the windows."""
    under = np.zeros((*y.place.shape, x.place.shape[1], 3), np.uint8)
    for corner, window in zip(under, windows, strict=True):
        corner[: window.shape[0], : window.shape[1]] = window
    alpha = patch_alpha(
        np.repeat(x.place, 3, axis=1)[:, None, :],  # the same for red, green and blue
        y.place[:, :, None],
        int(looks.shape[k]),
        float(looks.soft_edge_start[k]),
    )
    alpha *= looks.opacity[k, shown][:, None, None]
    below = under.reshape(patch.shape).astype(np.float32)
    torch.from_numpy(below).lerp_(torch.from_numpy(patch), torch.from_numpy(alpha))
    return below
