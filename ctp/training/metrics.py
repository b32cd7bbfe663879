"""Tracking IoU on held-out clips, split by what makes a frame hard (§4)."""

from __future__ import annotations

import torch
from torch import Tensor

from ctp.geometry import box_iou

GROUPS = ("all", "visible", "hidden", "near", "far")
"""All frames; those where the patch is shown or hidden; those after the first in the first half
of the clip, or in the second."""


class TrackingTally:
    """Sums IoU over clips, for predicted boxes and for a first box that stays still.

    Attributes:
        sums: float64 [3, len(GROUPS)], on the CPU: IoU of the prediction, IoU of the still box,
            number of boxes. Tallies of several workers add up.
    """

    def __init__(self) -> None:
        self.sums = torch.zeros(3, len(GROUPS), dtype=torch.float64)

    def add(self, predicted: Tensor, boxes: Tensor, visible: Tensor) -> None:
        """Count the boxes of some clips.

        Args:
            predicted, boxes: float [B, K, T, 4] xyxy.
            visible: bool [B, K, T].
        """
        still = boxes[:, :, :1].expand_as(boxes)
        frame = torch.arange(boxes.shape[2], device=boxes.device).expand_as(visible)
        half = boxes.shape[2] / 2
        groups = torch.stack(
            [
                torch.ones_like(visible),
                visible,
                ~visible,
                (frame >= 1) & (frame < half),
                frame >= half,
            ]
        ).flatten(1)
        values = torch.stack(
            [box_iou(predicted, boxes), box_iou(still, boxes), torch.ones_like(boxes[..., 0])]
        ).flatten(1)
        self.sums += (values.double() @ groups.double().T).cpu()

    def result(self) -> dict[str, float]:
        """Mean IoU: "iou", "iou_visible", …, and "still_iou", … for the box that stays still;
        a group without boxes has no entry."""
        found: dict[str, float] = {}
        for (predicted, still, count), group in zip(self.sums.T.tolist(), GROUPS, strict=True):
            if count:
                suffix = "" if group == "all" else f"_{group}"
                found[f"iou{suffix}"] = predicted / count
                found[f"still_iou{suffix}"] = still / count
        return found
