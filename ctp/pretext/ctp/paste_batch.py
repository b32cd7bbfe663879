"""Pasting for a whole batch at once, on the device that the frames are on.

The same game as `compose.paste`, pixel for pixel to 1/255: that one follows each box, which suits
a CPU; this one asks of every pixel of every frame what it shows, which suits a GPU.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ctp.pretext.ctp.appearance import ELLIPSE, HARD_EDGE, RECTANGLE
from ctp.pretext.ctp.game import Round

FIELDS: dict[str, Callable[[Round], NDArray[Any]]] = {
    "boxes": lambda drawn: drawn.trajectories.boxes,
    "visible": lambda drawn: drawn.trajectories.visible,
    "source_frame": lambda drawn: drawn.trajectories.source_frame,
    "shape": lambda drawn: drawn.looks.shape,
    "soft_edge_start": lambda drawn: drawn.looks.soft_edge_start.astype(np.float32),
    "opacity": lambda drawn: drawn.looks.opacity,
    "order": lambda drawn: drawn.order,
}
"""Where in a `Round` the fields of `Rounds` are."""


def stack_rounds(rounds: Sequence[Round]) -> dict[str, NDArray[Any]]:
    """The fields of `Rounds`, as arrays."""
    return {name: np.stack([field(each) for each in rounds]) for name, field in FIELDS.items()}


@dataclass(frozen=True)
class Rounds:
    """Rounds of the game on B clips, on a device; see `game.Round`.

    Attributes:
        boxes: float32 [B, K, T, 4], xyxy pixels.
        visible: bool [B, K, T].
        source_frame: int64 [B, K].
        shape: int64 [B, K].
        soft_edge_start: float32 [B, K].
        opacity: float32 [B, K, T].
        order: int64 [B, K].
    """

    boxes: Tensor
    visible: Tensor
    source_frame: Tensor
    shape: Tensor
    soft_edge_start: Tensor
    opacity: Tensor
    order: Tensor

    @classmethod
    def on(cls, device: torch.device, stacked: Mapping[str, Any]) -> Self:
        """What `stack_rounds` gives, whatever else is with it, on a device."""
        return cls(**{name: torch.as_tensor(stacked[name]).to(device) for name in FIELDS})


def paste_batch(
    frames: Tensor, rounds: Rounds, donors: Tensor | None = None, has_donors: Tensor | None = None
) -> Tensor:
    """Cut the patches of all clips and paste them.

    Args:
        frames: uint8 [B, T, H, W, 3]; not changed.
        rounds: on the same device.
        donors: uint8 [B, K, H, W, 3], pictures to cut patches from instead of the clip's own.
        has_donors: bool [B], for which clips; none: for all, if there are donors.

    Returns:
        uint8 [B, T, H, W, 3].
    """
    clip = torch.arange(len(frames), device=frames.device)[:, None]
    sources = frames[clip, rounds.source_frame]
    if donors is not None:
        sources = donors if has_donors is None else _choose(has_donors, donors, sources)
    pasted = frames.to(torch.float32)
    for patch in rounds.order.unbind(dim=1):
        pasted = _paste_one(pasted, rounds, sources, patch)
    return pasted.to(torch.uint8)


def _choose(condition: Tensor, first: Tensor, second: Tensor) -> Tensor:
    return torch.where(condition.view(-1, 1, 1, 1, 1), first, second)


def _paste_one(frames: Tensor, rounds: Rounds, sources: Tensor, patch: Tensor) -> Tensor:
    """Paste the patch of number `patch` [B] over float32 `frames` of whole numbers."""
    clip = torch.arange(len(patch), device=patch.device)
    boxes = rounds.boxes[clip, patch]
    source_box = boxes[clip, rounds.source_frame[clip, patch]]
    x = _side(boxes[..., 0::2], source_box[:, 0::2], frames.shape[3])
    y = _side(boxes[..., 1::2], source_box[:, 1::2], frames.shape[2])
    shown = _resample(sources[clip, patch], x, y)
    alpha = _alpha(x.place, y.place, rounds.shape[clip, patch], rounds.soft_edge_start[clip, patch])
    alpha = alpha * rounds.opacity[clip, patch][..., None, None]
    inside = y.inside[..., :, None] & x.inside[..., None, :]
    inside = inside & rounds.visible[clip, patch][..., None, None]
    mixed = (frames.lerp(shown, alpha[..., None]) + 0.5).floor_()
    return torch.where(inside[..., None], mixed, frames)


@dataclass(frozen=True)
class _Side:
    """Boxes and patches along one axis of N pixels.

    Attributes:
        inside: bool [B, T, N], whether a pixel's centre lies in the box.
        place: float32 [B, T, N], pixel centres from the box's centre, in box sizes.
        taps: int64 [B, T, N, 2], the two pixels of the source that a pixel shows.
        weights: float32 [B, T, N, 2], how much of each.
    """

    inside: Tensor
    place: Tensor
    taps: Tensor
    weights: Tensor


def _side(sides: Tensor, source: Tensor, num_pixels: int) -> _Side:
    """Work out one axis from the box sides [B, T, 2] and the source boxes' [B, 2].

    Step by step as `compose._side`, so that both round alike and agree on every edge.
    """
    bounds = (sides - 0.5).ceil().clamp(0, num_pixels)
    start, stop = bounds[..., :1], bounds[..., 1:]
    first, size = sides[..., :1], sides[..., 1:] - sides[..., :1]
    pixel = torch.arange(num_pixels, device=sides.device, dtype=torch.float32)
    place = ((pixel - start) + (start - first + 0.5)) / size
    cut_start = (source[:, :1] - 0.5).ceil().clamp(0, num_pixels - 1)
    cut_stop = torch.maximum((source[:, 1:] - 0.5).ceil(), cut_start + 1).clamp(max=num_pixels)
    cut_start, last = cut_start[..., None], (cut_stop - cut_start - 1)[..., None]
    position = place * (source[:, 1:] - source[:, :1])[..., None]
    position = position + (source[:, :1, None] - 0.5 - cut_start)
    position = torch.minimum(position.clamp(min=0), last)
    tap = position.floor()
    taps = torch.stack([tap, torch.minimum(tap + 1, last)], dim=-1) + cut_start[..., None]
    weight = position - tap
    return _Side(
        inside=(pixel >= start) & (pixel < stop),
        place=place - 0.5,
        taps=taps.to(torch.int64),
        weights=torch.stack([1 - weight, weight], dim=-1),
    )


def _resample(sources: Tensor, x: _Side, y: _Side) -> Tensor:
    """The sources, uint8 [B, H, W, 3], as they look in every frame, float32 [B, T, H, W, 3]."""
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


def _alpha(x: Tensor, y: Tensor, shape: Tensor, soft_edge_start: Tensor) -> Tensor:
    """As `patch.patch_alpha`, for x [B, T, W] and y [B, T, H]: float32 [B, T, H, W]."""
    x, y = x[..., None, :], y[..., :, None]
    shape, start = shape.view(-1, 1, 1, 1), soft_edge_start.view(-1, 1, 1, 1)
    across, down = x.abs(), y.abs()
    distance = torch.where(
        shape == RECTANGLE,
        torch.maximum(across, down),
        torch.where(shape == ELLIPSE, (x * x + y * y).sqrt(), across + down),
    )
    hard = ((distance < 0.5) | (shape == RECTANGLE)).to(torch.float32)
    soft = ((0.5 - distance) / (0.5 - start)).clamp(0, 1)
    return torch.where(start == HARD_EDGE, hard, soft)
