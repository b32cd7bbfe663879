"""The loss of predicted trajectories (§3.2)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ctp.geometry import box_offsets
from ctp.pretext.ctp.config import LOSS_PARTS
from ctp.training.distributed import share_of_mean
from ctp.training.step import LossTerms


def tracking_loss(
    offsets: Tensor,
    boxes: Tensor,
    sigma: Tensor,
    counted: Tensor | None = None,
    weights: Tensor | None = None,
) -> LossTerms:
    """Return the Smooth-L1 loss (β = 1) of predicted offsets from the first box (§3.2).

    It is summed over the four offsets and averaged over frames, boxes and clips. All clips weigh
    the same, whatever the number of their frames that count, so that the loss does not depend on
    how clips are divided among workers. With `weights`, it is instead
    Σ weight · error / max(1, Σ weight) over the batch of all workers, as in the authors' code; if
    all weights are 1, both are the same mean.

    Args:
        offsets: float32 [B, K, T, 4], predicted.
        boxes: float32 [B, K, T, 4] xyxy, true; those of frame 0 are the queries.
        sigma: float32 [4].
        counted: bool [B, K, T], the frames to average over; None: all.
        weights: float32 [B, K, T], how much each frame counts, instead of `counted`.
    """
    targets = box_offsets(boxes[:, :, :1], boxes, sigma)
    errors = F.smooth_l1_loss(offsets, targets, reduction="none")
    if weights is not None:
        means = share_of_mean((errors * weights[..., None]).sum(dim=(0, 1, 2)), weights.sum())
    else:
        if counted is None:
            counted = torch.ones_like(errors[..., 0], dtype=torch.bool)
        # clamp: a clip in which no frame counts has weight 0 instead of 0 / 0
        share = counted / counted.sum(dim=-1, keepdim=True).clamp(min=1)
        means = (errors * share[..., None]).sum(dim=2).mean(dim=(0, 1))
    x, y, w, h = means.unbind()
    center, size = x + y, w + h
    return LossTerms(center + size, dict(zip(LOSS_PARTS, (center, size), strict=True)))
