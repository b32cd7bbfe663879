"""Scores of tracking, for patches, by groups of frames, and for real objects (§4)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ctp.geometry import box_iou
from ctp.pretext.task import Mean

GROUPS = ("all", "visible", "hidden", "near", "far")
"""All frames; those where the patch is shown or hidden; those after the first in the first half
of the clip, or in the second."""

THRESHOLDS = {"sr50": 0.5, "sr75": 0.75}
"""IoU above which a frame is a success (GOT-10k)."""


class TrackingTally:
    """Sums of the IoU over clips, for predicted boxes and for a first box that stays still.

    Attributes:
        sums: float64 [3, len(GROUPS)], on the CPU: IoU of the prediction, IoU of the still box,
            number of boxes.
        of_clips: float64 [3], on the CPU: number of clips; sum of the mean IoU of the prediction in
            each, and of its square.
    """

    def __init__(self) -> None:
        self.sums = torch.zeros(3, len(GROUPS), dtype=torch.float64)
        self.of_clips = torch.zeros(3, dtype=torch.float64)

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
        iou = box_iou(predicted, boxes)
        values = torch.stack([iou, box_iou(still, boxes), torch.ones_like(iou)]).flatten(1)
        of_clip = iou.double().flatten(1).mean(dim=1)
        powers = torch.stack([torch.ones_like(of_clip), of_clip, of_clip.square()])
        self.of_clips += powers.sum(dim=1).cpu()
        # one product gives all sums of all groups; in double precision, since they grow over the
        # whole evaluation
        self.sums += (values.double() @ groups.double().T).cpu()

    def means(self) -> dict[str, Mean]:
        """Return "iou", "iou_visible", … and "still_iou", … for the box that stays still.

        All clips have equally many boxes, so "iou" is also the mean over clips; boxes of a clip
        depend on each other.
        """
        found: dict[str, Mean] = {}
        for (predicted, still, count), group in zip(self.sums.T.tolist(), GROUPS, strict=True):
            suffix = "" if group == "all" else f"_{group}"
            found[f"iou{suffix}"] = Mean(predicted, count)
            found[f"still_iou{suffix}"] = Mean(still, count)
        number, total, squares = self.of_clips.tolist()
        found["iou"] = Mean(total, number, squares)
        return found


@dataclass(frozen=True)
class ClipOverlap:
    """The overlap of predicted and true boxes of the object of a clip.

    Attributes:
        iou: float64 [T], IoU of the predicted boxes.
        still: float64 [T], IoU of the first box, if it stays still.
        counted: bool [T], the frames to score.
    """

    iou: NDArray[np.float64]
    still: NDArray[np.float64]
    counted: NDArray[np.bool_]


def clip_overlaps(
    predicted: Tensor, boxes: Tensor, counted: Tensor, size_px: int
) -> list[ClipOverlap]:
    """Compare predicted with true boxes, clip by clip.

    Boxes are first clipped to the picture, as by GOT-10k's toolkit (`rect_iou` with `bound`).

    Args:
        predicted, boxes: float [n, T, 4] xyxy.
        counted: bool [n, T].
        size_px: width and height of the picture.
    """
    inside = boxes.clamp(0, size_px).double()
    iou = box_iou(predicted.clamp(0, size_px).double(), inside)
    still = box_iou(inside[:, :1], inside)
    columns = [each.cpu().numpy() for each in (iou, still, counted)]
    return [ClipOverlap(*clip) for clip in zip(*columns, strict=True)]


def overlap_scores(clips: Sequence[ClipOverlap]) -> dict[str, float]:
    """Return the scores of tracking, for predicted boxes and, as "still_…", for still first boxes.

    Returns:
        "iou", the mean over clips of the mean IoU of their frames (the paper's mIoU, §4). The
        other scores are over all frames of all clips but the first of each, whose box is given, as
        in GOT-10k's toolkit (`ExperimentGOT10k`): "ao", the mean IoU; "sr50" and "sr75", the shares
        of frames with an IoU above .5 and .75. Clips in which only the first frame counts are left
        out. Empty if no clip is left.
    """
    scored = _scored(clips)
    if not scored:
        return {}
    scores: dict[str, float] = {}
    for prefix, name in (("", "iou"), ("still_", "still")):
        values = [(getattr(clip, name), clip.counted) for clip in scored]
        # all frames together: long videos weigh more, as in GOT-10k
        after = np.concatenate([iou[1:][counted[1:]] for iou, counted in values])
        scores[f"{prefix}iou"] = float(np.mean([iou[counted].mean() for iou, counted in values]))
        scores[f"{prefix}ao"] = float(after.mean())
        for success, least in THRESHOLDS.items():
            scores[f"{prefix}{success}"] = float((after > least).mean())
    return scores


def mean_overlaps(clips: Sequence[ClipOverlap]) -> list[float]:
    """Return the mean IoU of the frames of each clip that `overlap_scores` does not leave out."""
    return [float(clip.iou[clip.counted].mean()) for clip in _scored(clips)]


def _scored(clips: Sequence[ClipOverlap]) -> list[ClipOverlap]:
    # the first frame is given, so a clip of one frame that counts tests nothing
    return [clip for clip in clips if clip.counted[1:].any()]
