"""Pasting for a whole batch at once on a GPU.

The pixels equal those of `paste`, which runs on a CPU, to 1/255. `paste` computes only the pixels
of each box; this kernel computes every pixel of every frame.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Literal

import torch
from torch import Tensor

from ctp.pretext.ctp.appearance import ELLIPSE, HARD_EDGE, RECTANGLE
from ctp.pretext.ctp.game import Game

SMALLEST_SIDE_PX = 1e-3
"""Least side of a box in divisions: the boxes of a placeholder are empty."""


def paste_batch(
    frames: Tensor,
    game: Game,
    sources: Tensor | None = None,
    has_sources: Tensor | None = None,
    *,
    blending: Literal["exact", "official"] = "exact",
) -> Tensor:
    """Cut the patches of all clips and paste them.

    Args:
        frames: uint8 [B, T, H, W, 3]; not changed.
        game: the clips' patches, on the same device.
        sources: uint8 [B, K, H, W, 3], pictures to cut the patches from instead of the clip's own.
        has_sources: bool [B], the clips that use `sources`; None: all, if there are sources.
        blending: as in `paste`.

    Returns:
        uint8 [B, T, H, W, 3].
    """
    clip = torch.arange(len(frames), device=frames.device)[:, None]
    # before anything is pasted: patches are never cut from patches
    own = frames[clip, game.source_frame]
    if sources is None:
        sources = own
    elif has_sources is not None:
        sources = torch.where(has_sources.view(-1, 1, 1, 1, 1), sources, own)
    pasted = frames.to(torch.float32)
    # one after the other: later patches cover earlier ones
    for patch in game.order.unbind(dim=1):
        pasted = _paste_one(pasted, game, sources, patch, blending == "official")
    return pasted.to(torch.uint8)


def _paste_one(
    frames: Tensor, game: Game, sources: Tensor, patch: Tensor, is_official: bool
) -> Tensor:
    """Paste the patch of number `patch` [B] over float32 `frames` of whole numbers."""
    clip = torch.arange(len(patch), device=patch.device)
    boxes = game.boxes[clip, patch]
    source_box = boxes[clip, game.source_frame[clip, patch]]
    x = _side(boxes[..., 0::2], source_box[:, 0::2], frames.shape[3])
    y = _side(boxes[..., 1::2], source_box[:, 1::2], frames.shape[2])
    shown = _resample(sources[clip, patch], x, y)
    start = game.soft_edge_start[clip, patch].to(torch.float32)
    shape = game.shape[clip, patch]
    if is_official:
        shown = (shown + 0.5).floor_()
        alpha = _source_alpha(x, y, shape, start)
    else:
        alpha = _alpha(x.place, y.place, shape, start)
    alpha = alpha * game.opacity[clip, patch][..., None, None]
    inside = y.inside[..., :, None] & x.inside[..., None, :]
    inside = inside & game.visible[clip, patch][..., None, None]
    # whole numbers after each patch, as the CPU's kernel stores bytes after each
    mixed = (frames.lerp(shown, alpha[..., None]) + (0 if is_official else 0.5)).floor_()
    return torch.where(inside[..., None], mixed, frames)


@dataclass(frozen=True)
class _Side:
    """Boxes and patches along one axis of N pixels.

    Attributes:
        inside: bool [B, T, N], whether a pixel's centre lies in the box.
        place: float32 [B, T, N], pixel centres from the box's centre, in box sizes.
        taps: int64 [B, T, N, 2], the two pixels of the source that a pixel mixes.
        tap_place: float32 [B, T, N, 2], the taps from pixel (n - 1) // 2 of the patch's n pixels,
            in patch sizes.
        weights: float32 [B, T, N, 2], the weights of the taps.
    """

    inside: Tensor
    place: Tensor
    taps: Tensor
    tap_place: Tensor
    weights: Tensor


def _side(sides: Tensor, source: Tensor, num_pixels: int) -> _Side:
    """Compute one axis from the box sides [B, T, 2] and the source boxes' [B, 2].

    The steps are those of the kernel for CPUs, so that both round alike and agree on every edge.
    """
    bounds = (sides - 0.5).ceil().clamp(0, num_pixels)
    start, stop = bounds[..., :1], bounds[..., 1:]
    first, size = sides[..., :1], (sides[..., 1:] - sides[..., :1]).clamp(min=SMALLEST_SIDE_PX)
    pixel = torch.arange(num_pixels, device=sides.device, dtype=torch.float32)
    place = ((pixel - start) + (start - first + 0.5)) / size
    cut_start = (source[:, :1] - 0.5).ceil().clamp(0, num_pixels - 1)
    cut_stop = torch.maximum((source[:, 1:] - 0.5).ceil(), cut_start + 1).clamp(max=num_pixels)
    cut_start, last = cut_start[..., None], (cut_stop - cut_start - 1)[..., None]
    position = place * (source[:, 1:] - source[:, :1])[..., None]
    position = position + (source[:, :1, None] - 0.5 - cut_start)
    position = torch.minimum(position.clamp(min=0), last)
    tap = position.floor()
    taps, last = torch.stack([tap, torch.minimum(tap + 1, last)], dim=-1), last[..., None]
    weight = position - tap
    return _Side(
        inside=(pixel >= start) & (pixel < stop),
        place=place - 0.5,
        taps=(taps + cut_start[..., None]).to(torch.int64),
        tap_place=(taps - (last / 2).floor()) / (last + 1),
        weights=torch.stack([1 - weight, weight], dim=-1),
    )


def _resample(sources: Tensor, x: _Side, y: _Side) -> Tensor:
    """Resample the sources, uint8 [B, H, W, 3], for every frame: float32 [B, T, H, W, 3]."""
    clip = torch.arange(len(sources), device=sources.device)[:, None, None]
    frame = torch.arange(x.place.shape[1], device=sources.device)[None, :, None]
    columns = sources.to(torch.float32).transpose(1, 2)  # [B, W, H, 3]
    wide = sum(
        columns[clip, x.taps[..., tap]] * x.weights[..., tap, None, None] for tap in (0, 1)
    ).transpose(2, 3)  # type: ignore[union-attr]  # [B, T, H, W, 3]
    shown: Tensor = sum(
        wide[clip, frame, y.taps[..., tap]] * y.weights[..., tap, None, None] for tap in (0, 1)
    )  # type: ignore[assignment]
    return shown


def _source_alpha(x: _Side, y: _Side, shape: Tensor, soft_edge_start: Tensor) -> Tensor:
    """Return the alpha of the patch's pixels, resampled: float32 [B, T, H, W]."""
    alpha: Tensor = sum(
        _alpha(x.tap_place[..., i], y.tap_place[..., j], shape, soft_edge_start)
        * x.weights[..., None, :, i]
        * y.weights[..., :, None, j]
        for i, j in product((0, 1), repeat=2)
    )  # type: ignore[assignment]
    return alpha


def _alpha(x: Tensor, y: Tensor, shape: Tensor, soft_edge_start: Tensor) -> Tensor:
    """Return `paste.patch_alpha` for x [B, T, W] and y [B, T, H]: float32 [B, T, H, W]."""
    x, y = x[..., None, :], y[..., :, None]
    shape, start = shape.view(-1, 1, 1, 1), soft_edge_start.view(-1, 1, 1, 1)
    across, down = x.abs(), y.abs()
    distance = torch.where(
        shape == RECTANGLE,
        torch.maximum(across, down),
        torch.where(shape == ELLIPSE, (x * x + y * y).sqrt(), across + down),
    )
    hard = ((distance < 0.5) | (shape == RECTANGLE)).to(torch.float32)
    # a division by 0 for hard edges, whose result `where` does not take
    soft = ((0.5 - distance) / (0.5 - start)).clamp(0, 1)
    return torch.where(start == HARD_EDGE, hard, soft)
