"""Boxes in xyxy pixels: IoU, and offsets between a query box and the boxes of a trajectory."""

from __future__ import annotations

import torch
from torch import Tensor


def box_iou(first: Tensor, second: Tensor) -> Tensor:
    """Return the intersection over union of pairs of boxes.

    Args:
        first, second: float [..., 4] xyxy, with shapes that broadcast.

    Returns:
        float [...] in [0, 1]; 0 if both boxes are empty.
    """
    top_left = torch.maximum(first[..., :2], second[..., :2])
    bottom_right = torch.minimum(first[..., 2:], second[..., 2:])
    intersection = (bottom_right - top_left).clamp(min=0).prod(dim=-1)
    union = _area(first) + _area(second) - intersection
    # clamped although `where` leaves it out: the gradient of 0 / 0 would be NaN in both branches
    return torch.where(union > 0, intersection / union.clamp(min=1e-9), torch.zeros_like(union))


def box_offsets(query: Tensor, boxes: Tensor, sigma: Tensor) -> Tensor:
    """Return the normalised offsets t from a query box to other boxes (§3.2).

    t = ((x - x1)/σx, (y - y1)/σy, log(w/w1)/σw, log(h/h1)/σh), with sizes of at least 1 px.

    Args:
        query: float [..., 4] xyxy.
        boxes: float [..., 4] xyxy, with a shape that broadcasts with `query`.
        sigma: float [4], scales of x, y, w, h.

    Returns:
        float [..., 4].
    """
    query_center, query_size = _center_size(query)
    center, size = _center_size(boxes)
    return torch.cat([center - query_center, torch.log(size / query_size)], dim=-1) / sigma


def apply_offsets(query: Tensor, offsets: Tensor, sigma: Tensor) -> Tensor:
    """Return the boxes with the given offsets: the inverse of `box_offsets` (§3.2).

    The paper prints t̂ with indices 1, 2, 2, 3, but means four separate channels.

    Args:
        query: float [..., 4] xyxy.
        offsets: float [..., 4].
        sigma: float [4].

    Returns:
        float [..., 4] xyxy.
    """
    query_center, query_size = _center_size(query)
    scaled = offsets * sigma
    center = query_center + scaled[..., :2]
    size = query_size * torch.exp(scaled[..., 2:])
    return torch.cat([center - size / 2, center + size / 2], dim=-1)


def _area(boxes: Tensor) -> Tensor:
    # a box whose corners are swapped is empty: two negative sides would make a positive area
    return (boxes[..., 2:] - boxes[..., :2]).clamp(min=0).prod(dim=-1)


def _center_size(boxes: Tensor) -> tuple[Tensor, Tensor]:
    # the logarithm of an empty box would be infinite
    size = (boxes[..., 2:] - boxes[..., :2]).clamp(min=1)
    return (boxes[..., :2] + boxes[..., 2:]) / 2, size
