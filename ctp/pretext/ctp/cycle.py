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
        boxes float32 [B, K, T, 4] xyxy, without gradients; and weights float32 [B, K, T]. The
        weights of a path are 0 if its first box has its centre outside of the picture, where there
        is nothing to track.
    """
    was_training = model.training
    model.eval()
    offsets = model(clips.flip(2), queries)
    model.train(was_training)
    boxes = apply_offsets(queries[:, :, None], offsets, sigma).flip(2)
    first = boxes[:, :, 0]
    center = (first[..., :2] + first[..., 2:]) / 2
    size = constant((float(clips.shape[-1]), float(clips.shape[-2])), clips.device)
    is_inside = ((center >= 0) & (center <= size)).all(dim=-1)
    return boxes, is_inside[..., None].expand(boxes.shape[:-1]).to(boxes.dtype)
