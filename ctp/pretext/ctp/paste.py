"""Paste patches on a CPU: resample each patch for all frames of a clip together, then overlay it.

A pixel belongs to a box if its centre lies inside. It shows the patch bilinearly at the same
relative place, with taps clamped to the pixels of the source box. For whole-pixel boxes this is the
usual bilinear resize of the cut patch with half-pixel centres. Bilinear resampling is separable: an
output row or column is a weighted sum of two rows or columns of the patch, which torch calls an
embedding bag. Two fused gathers of whole rows, one for each axis, compute all frames together.

`paste_batch` does the same for a whole batch on a GPU. On a CPU it takes 12 to 100 times as long
as `paste`, so there are two kernels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from ctp.pretext.ctp.appearance import ELLIPSE, HARD_EDGE, RECTANGLE
from ctp.pretext.ctp.game import Game

HALF = np.float32(0.5)
"""Distance of a pixel's centre from its edge."""


def paste(
    frames: NDArray[np.uint8],
    game: Game,
    sources: NDArray[np.uint8] | None = None,
    *,
    blending: Literal["exact", "official"] = "exact",
) -> NDArray[np.uint8]:
    """Cut the K patches of a clip and paste them over its frames.

    All patches are cut before the first is pasted. With "exact" blending, the alpha of a pixel is
    that of its place in the box, and mixed pixels are rounded. "official" blending is that of the
    authors' code: alpha is computed for the pixels of the patch, from pixel (n - 1) // 2 of n as
    the centre, and resampled with the patch; mixed pixels are truncated.

    Args:
        frames: uint8 [T, H, W, 3]; not changed.
        game: boxes and appearance of the patches.
        sources: uint8 [K, H, W, 3], a picture of another video to cut each patch from, at the box
            of its source frame; None: the source frame of the clip itself.
        blending: how patches are masked and mixed with the frame, see above.

    Returns:
        uint8 [T, H, W, 3].

    Raises:
        ValueError: `sources` has another shape.
    """
    if sources is None:
        sources = frames[game.source_frame]
    if sources.shape != (len(game.order), *frames.shape[1:]):
        expected = (len(game.order), *frames.shape[1:])
        raise ValueError(f"expected patch sources of shape {expected}, got {sources.shape}")
    pasted = frames.copy()
    height, width = frames.shape[1:3]
    for k in game.order:
        shown = np.flatnonzero(game.visible[k])
        # hidden in all frames
        if len(shown) == 0:
            continue
        boxes = game.boxes[k]
        source_box = boxes[game.source_frame[k]]
        x = _side(boxes[shown, 0::2], source_box[0::2], width)
        y = _side(boxes[shown, 1::2], source_box[1::2], height)
        patch = _resample(sources[k, y.cut, x.cut], x, y)
        windows = [
            pasted[t, top:bottom, left:right]
            for t, top, bottom, left, right in zip(
                shown, y.start, y.stop, x.start, x.stop, strict=True
            )
        ]
        is_official = blending == "official"
        if is_official:
            patch = np.floor(patch + HALF)  # the authors resize bytes to bytes
        if not _is_opaque(game, k):
            alpha = _source_alpha(x, y, game, k) if is_official else _place_alpha(x, y, game, k)
            alpha *= game.opacity[k, shown][:, None, None]
            patch = _blend(windows, patch, alpha)
        # rounds to the nearest, for values from 0 on, or truncates
        pixels = (patch + (0 if is_official else HALF)).astype(np.uint8)
        pixels = pixels.reshape(*y.place.shape, x.place.shape[1], 3)
        for window, corner in zip(windows, pixels, strict=True):
            # a smaller box uses the first of the pixels that were computed
            window[:] = corner[: window.shape[0], : window.shape[1]]
    return pasted


@dataclass(frozen=True)
class _Side:
    """Boxes and the patch along one axis; n is the number of pixels of the largest box.

    Attributes:
        start, stop: pixels of the frame whose centres lie in the box, lists of T.
        place: float32 [T, n], pixel centres from the box's centre, in box sizes.
        cut: the P pixels of the source that are the patch.
        taps: int64 [T, n, 2], the two pixels of the patch that a pixel mixes.
        weights: float32 [T, n, 2], the weights of the taps.
    """

    start: list[int]
    stop: list[int]
    place: NDArray[np.float32]
    cut: slice
    taps: NDArray[np.int64]
    weights: NDArray[np.float32]


def _side(sides: NDArray[np.float32], source: NDArray[np.float32], num_pixels: int) -> _Side:
    """Compute one axis from the box sides [T, 2] and the source box's [2], of `num_pixels`."""
    # the first pixel whose centre is not before the side of the box
    bounds = np.ceil(sides - HALF).clip(0, num_pixels).astype(np.int64)
    start, stop = bounds[:, 0], bounds[:, 1]
    first, size = sides[:, :1], sides[:, 1:] - sides[:, :1]
    # the number of the largest box for each frame, so that all frames are one array
    steps = np.arange(max((stop - start).max(), 1), dtype=np.float32)
    place = (steps + (bounds[:, :1].astype(np.float32) - first + HALF)) / size
    cut = _pixel_range(source, num_pixels)
    last = cut.stop - cut.start - 1
    position = place * (source[1] - source[0]) + (source[0] - HALF - np.float32(cut.start))
    # beyond the centres of the outermost pixels, these pixels are repeated
    position = position.clip(0, last)
    taps = np.empty((*place.shape, 2), np.int64)
    taps[..., 0] = position
    taps[..., 1] = np.minimum(taps[..., 0] + 1, last)
    weights = np.empty(taps.shape, np.float32)
    weights[..., 1] = position - taps[..., 0]
    weights[..., 0] = 1 - weights[..., 1]
    return _Side(start.tolist(), stop.tolist(), place - HALF, cut, taps, weights)


def _pixel_range(side: NDArray[np.float32], num_pixels: int) -> slice:
    """Return the pixels whose centres lie in [start, end) of a box; at least one."""
    start = min(max(math.ceil(side[0] - 0.5), 0), num_pixels - 1)
    return slice(start, min(max(math.ceil(side[1] - 0.5), start + 1), num_pixels))


def _resample(
    source: NDArray[np.uint8] | NDArray[np.float32], x: _Side, y: _Side
) -> NDArray[np.float32]:
    """Resample the patch [P, Q, C] for every frame: float32 [T, h, w * C]."""
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
    """Sum two weighted rows of [N, C] for each of the `taps` [T, n, 2]: float32 [T * n, C]."""
    weighed: NDArray[np.float32] = F.embedding_bag(
        torch.from_numpy(taps.reshape(-1, 2)),
        torch.from_numpy(rows),
        mode="sum",
        per_sample_weights=torch.from_numpy(weights.reshape(-1, 2)),
    ).numpy()
    return weighed


def _is_opaque(game: Game, k: int) -> bool:
    """Return whether patch `k` covers every pixel of its box, so that no blending is needed."""
    return bool(
        game.shape[k] == RECTANGLE
        and game.soft_edge_start[k] == HARD_EDGE
        and (game.opacity[k] == 1).all()
    )


def _place_alpha(x: _Side, y: _Side, game: Game, k: int) -> NDArray[np.float32]:
    """Return the alpha of patch `k` before opacity, by the place in each box: [T, h, w * 3]."""
    return patch_alpha(
        np.repeat(x.place, 3, axis=1)[:, None, :],  # the same for red, green and blue
        y.place[:, :, None],
        int(game.shape[k]),
        float(game.soft_edge_start[k]),
    )


def _source_alpha(x: _Side, y: _Side, game: Game, k: int) -> NDArray[np.float32]:
    """Return the alpha of patch `k` before opacity, resampled from its pixels: [T, h, w * 3]."""
    alpha = patch_alpha(
        _pixel_places(x.cut)[None, :],
        _pixel_places(y.cut)[:, None],
        int(game.shape[k]),
        float(game.soft_edge_start[k]),
    )
    return np.repeat(_resample(alpha[..., None], x, y), 3, axis=2)


def _pixel_places(cut: slice) -> NDArray[np.float32]:
    """Return the places of a patch's n pixels from pixel (n - 1) // 2, in patch sizes."""
    number = cut.stop - cut.start
    places: NDArray[np.float32] = np.arange(number, dtype=np.float32) - (number - 1) // 2
    return places / np.float32(number)


def _blend(
    windows: list[NDArray[np.uint8]], patch: NDArray[np.float32], alpha: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Blend the patch [T, h, w * 3] with the pixels under it in the windows."""
    under = np.zeros((*patch.shape[:2], patch.shape[2] // 3, 3), np.uint8)
    for corner, window in zip(under, windows, strict=True):
        corner[: window.shape[0], : window.shape[1]] = window
    below = under.reshape(patch.shape).astype(np.float32)
    # in place: the same in NumPy makes three arrays on the way
    torch.from_numpy(below).lerp_(torch.from_numpy(patch), torch.from_numpy(alpha))
    return below


def patch_alpha(
    x: NDArray[np.float32], y: NDArray[np.float32], shape: int, soft_edge_start: float
) -> NDArray[np.float32]:
    """Return the alpha of a patch at places in its box, before opacity.

    The distance from the centre is max(|x|, |y|) for a rectangle, √(x² + y²) for an ellipse and
    |x| + |y| for a rhombus. A soft edge falls linearly from 1 at a distance of `soft_edge_start` to
    0 at .5; a hard one is 1 below .5 and 0 beyond, and a hard rectangle is 1 in all its box.

    Args:
        x, y: float32 [...], offset from the box's centre in box sizes, -.5 … .5 inside.
        shape: RECTANGLE, ELLIPSE or RHOMBUS.
        soft_edge_start: in box sizes, HARD_EDGE for a hard edge.

    Returns:
        float32 [...] in [0, 1], of the shape that `x` and `y` broadcast to.
    """
    if shape == RECTANGLE and soft_edge_start == HARD_EDGE:
        return np.ones(np.broadcast_shapes(x.shape, y.shape), np.float32)
    if shape == RECTANGLE:
        distance = np.maximum(np.abs(x), np.abs(y))
    elif shape == ELLIPSE:
        distance = np.sqrt(x * x + y * y)
    else:
        distance = np.abs(x) + np.abs(y)
    if soft_edge_start == HARD_EDGE:
        return (distance < 0.5).astype(np.float32)
    return np.clip((0.5 - distance) / np.float32(0.5 - soft_edge_start), 0, 1)
