"""Pictures of tracked objects: true and predicted boxes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.transforms.v2.functional import InterpolationMode, pad, resize
from torchvision.utils import draw_bounding_boxes

from ctp.pretext.task import SamplePicture
from ctp.report.preview import Pixels

Color = tuple[int, int, int]
TRUE_COLOR: Color = (34, 211, 238)
PREDICTED_COLOR: Color = (255, 61, 165)
UNCOUNTED_COLOR: Color = (150, 150, 150)
EDGE_COLOR: Color = (17, 24, 39)
KEY = {
    "true box ('given' where the model is given it)": np.array([TRUE_COLOR], np.uint8),
    "predicted box": np.array([PREDICTED_COLOR], np.uint8),
    "true box of a frame that is not scored": np.array([UNCOUNTED_COLOR], np.uint8),
}
"""What the colours mean, for `preview.clips_png`."""
LINE_PX = 2


@dataclass(frozen=True)
class TrackScene:
    """A video, or a clip of it, with true and predicted boxes.

    Attributes:
        frames: uint8 [N, h, w, 3].
        boxes: float [N, 4], the true boxes, xyxy pixels of `frames`.
        predicted: float [N, 4], those of a model; NaN where there is none.
        counted: bool [N], the frames that are scored.
        given: bool [N], the frames whose true box the model was given.
        caption: text above it.
    """

    frames: Pixels
    boxes: NDArray[np.floating[Any]]
    predicted: NDArray[np.floating[Any]]
    counted: NDArray[np.bool_]
    given: NDArray[np.bool_]
    caption: str

    def part(self, frames: slice, caption: str) -> TrackScene:
        """Return some of its frames as a scene."""
        names = ("frames", "boxes", "predicted", "counted", "given")
        return replace(self, caption=caption, **{n: getattr(self, n)[frames] for n in names})


def draw_scene(scene: TrackScene, cell_px: tuple[int, int]) -> SamplePicture:
    """Draw the boxes of a scene, its frames scaled into the middle of cells (width, height)."""
    frames = torch.from_numpy(scene.frames).movedim(-1, 1)
    height, width = frames.shape[2:]
    scale = min(cell_px[0] / width, cell_px[1] / height)
    size = [round(height * scale), round(width * scale)]
    frames = resize(frames, size, InterpolationMode.BICUBIC, antialias=True)
    for index in range(len(frames)):
        color = TRUE_COLOR if scene.counted[index] else UNCOUNTED_COLOR
        label = "given" if scene.given[index] else None
        frames[index] = _draw_box(frames[index], scale * scene.boxes[index], color, label)
        if np.isfinite(scene.predicted[index]).all():
            box = scale * scene.predicted[index]
            frames[index] = _draw_box(frames[index], box, PREDICTED_COLOR)
    left, top = (cell_px[0] - size[1]) // 2, (cell_px[1] - size[0]) // 2
    right, bottom = cell_px[0] - size[1] - left, cell_px[1] - size[0] - top
    padded = pad(frames, [left, top, right, bottom])
    return SamplePicture(np.ascontiguousarray(padded.movedim(1, -1).numpy()), scene.caption)


def _draw_box(
    frame: Tensor, box: NDArray[np.floating[Any]], color: Color, label: str | None = None
) -> Tensor:
    """Draw a line around what is in a box, with a dark edge on both sides."""
    x1, y1, x2, y2 = box
    outer = torch.tensor([[x1, y1, max(x1, x2), max(y1, y2)]])
    outer += (LINE_PX + 1) * torch.tensor([-1, -1, 1, 1])
    frame = draw_bounding_boxes(frame, outer, colors=[EDGE_COLOR], width=LINE_PX + 2)
    inner = outer + torch.tensor([1, 1, -1, -1])
    labels = [label] if label else None
    drawn: Tensor = draw_bounding_boxes(
        frame, inner, labels, [color], width=LINE_PX,
        label_colors=[color], label_background_colors=[EDGE_COLOR], fill_labels=True,
    )  # fmt: skip
    return drawn
