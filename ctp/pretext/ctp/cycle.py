"""Labels by cycle consistency: the model's own backward tracking, reversed (§5.2, Table 1)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ctp.constant import constant
from ctp.geometry import apply_offsets


@torch.no_grad()
def label_by_cycle(
    model: nn.Module, clips: Tensor, queries: Tensor, sigma: Tensor
) -> tuple[Tensor, Tensor]:
    """Track boxes backwards in time and return their paths in forward order.

    The clips are played backwards, and the queries are boxes of their last frame. The paper does
    not give the model's mode. Here it is evaluation mode, so that the labels of a clip do not
    depend on the rest of the batch, and clips that are played backwards do not change the running
    statistics of norms.

    Args:
        model: predicts offsets from (clips, queries), as `Tracker.forward`.
        clips: float [B, 3, T, H, W], normalised.
        queries: float32 [B, K, 4] xyxy pixels, boxes in the last frame.
        sigma: float32 [4], scales of the offsets.

    Returns:
        boxes float32 [B, K, T, 4] xyxy, without gradients; and weights float32 [B, K, T]. A path
        counts if each of its boxes can be tracked: its centre is in the picture, and its sides are
        between a pixel and the picture's. Without this bound, a model that learns from its own
        answers makes them ever larger. All boxes of another path are its query, with weights 0.
    """
    was_training = model.training
    model.eval()
    offsets = model(clips.flip(2), queries)
    model.train(was_training)
    boxes = apply_offsets(queries[:, :, None], offsets, sigma).flip(2)
    center, size = (boxes[..., :2] + boxes[..., 2:]) / 2, boxes[..., 2:] - boxes[..., :2]
    picture = constant((float(clips.shape[-1]), float(clips.shape[-2])), clips.device)
    is_trackable = (center >= 0) & (center <= picture) & (size >= 1) & (size <= picture)
    is_path = is_trackable.all(dim=-1).all(dim=-1, keepdim=True)
    # also for RoIAlign, which huge boxes make read outside of its memory
    boxes = torch.where(is_path[..., None], boxes, queries[:, :, None])
    return boxes, is_path.expand(boxes.shape[:-1]).to(boxes.dtype)
