"""Pictures of samples: the boxes of patches, and those that a model predicts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke
from numpy.typing import NDArray
from torch import Tensor

from ctp.pretext.ctp.metrics import TrackingTally
from ctp.pretext.pictures import change_colors, enlarge
from ctp.pretext.task import SamplePicture

PATCH_COLORS = ("#ff3da5", "#22d3ee", "#ffb000", "#84e01e", "#a78bfa")
"""Colours of the patches, distinct for the colour-blind too; used in turn if K is larger."""
PREDICTED_LINE = "#ffffff"
PREDICTED_FILL = 0.2
"""Opacity of the colour that fills a predicted box, twice: with the edge and with the line."""
LEGEND = "a colour for each patch, dashed: hidden"
PREDICTED_LEGEND = "filled: predicted"

_DPI = 100
_LINE_SHARE = 1 / 75
"""Width of a box's line over the side of the frame."""


def draw_samples(
    frames: Tensor,
    samples: Any,
    color: Tensor | None,
    predicted: Tensor | None,
    min_side_px: int,
) -> list[SamplePicture]:
    """Draw the boxes of each sample on its frames.

    A true box is a line in the colour of its patch around it, dashed where the patch is hidden. A
    predicted box is filled with this colour, and has a thin white line just inside its border.

    Args:
        frames: uint8 [B, T, H, W, 3], with the patches pasted.
        samples: with boxes, float [B, K, T, 4] xyxy pixels, and visible, bool [B, K, T].
        color: float32 [B, T, 4], see `augment.sample_color`: draw the frames as the encoder sees
            them; None: as they are.
        predicted: float [B, K, T, 4], boxes of a model, or None.
        min_side_px: smaller frames are enlarged to this shorter side.
    """
    if color is not None:
        frames = change_colors(frames, color)
    return [
        _draw_sample(
            frames[index],
            samples.boxes[index],
            samples.visible[index],
            None if predicted is None else predicted[index],
            min_side_px,
        )
        for index in range(len(frames))
    ]


def _draw_sample(
    frames: Tensor, boxes: Tensor, visible: Tensor, predicted: Tensor | None, min_side_px: int
) -> SamplePicture:
    caption = LEGEND
    if predicted is not None:
        tally = TrackingTally()
        tally.add(predicted[None], boxes[None], visible[None])
        means = tally.means()
        iou, still = (means[key].total / means[key].number for key in ("iou", "still_iou"))
        caption = f"IoU {iou:.2f} (still {still:.2f})   {LEGEND}; {PREDICTED_LEGEND}"
    large = enlarge(frames, min_side_px)
    scale = large.shape[2] / frames.shape[2]
    drawn = _draw_frames(
        large.cpu().numpy(),
        scale * boxes.cpu().numpy(),
        visible.cpu().numpy(),
        None if predicted is None else scale * predicted.float().cpu().numpy(),
    )
    return SamplePicture(np.stack(list(drawn)), caption)


def _draw_frames(
    frames: NDArray[np.uint8],
    boxes: NDArray[np.floating[Any]],
    visible: NDArray[np.bool_],
    predicted: NDArray[np.floating[Any]] | None,
) -> Iterator[NDArray[np.uint8]]:
    """Yield the frames with their boxes drawn, uint8 [H, W, 3]."""
    height, width = frames.shape[1:3]
    figure = Figure(figsize=(width / _DPI, height / _DPI), dpi=_DPI)
    canvas = FigureCanvasAgg(figure)
    # fills the figure, so that a pixel of the frame is one of the picture
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(height, 0))
    axes.set_axis_off()
    line_px = max(round(_LINE_SHARE * min(height, width)), 2)
    image = axes.imshow(frames[0], extent=(0, width, height, 0), interpolation="nearest")
    found = [] if predicted is None else [
        _add_box(axes, PREDICTED_LINE, max(line_px // 2, 1), to_rgba(own, PREDICTED_FILL))
        for own in _colors(boxes)
    ]  # fmt: skip
    # over the predicted ones, which would tint their lines
    true = [_add_box(axes, own, line_px, "none") for own in _colors(boxes)]
    for number, frame in enumerate(frames):
        # one figure for all frames: setting up a new one takes longer than drawing
        image.set_data(frame)
        for patch, box, is_shown in zip(true, boxes[:, number], visible[:, number], strict=True):
            _set_bounds(patch, box, line_px / 2, (width, height))
            patch.set_linestyle("solid" if is_shown else (0, (2.2, 1.4)))
        if predicted is not None:
            for patch, box in zip(found, predicted[:, number], strict=True):
                _set_bounds(patch, box, -line_px / 2, (width, height))
        canvas.draw()  # type: ignore[no-untyped-call]
        yield np.array(canvas.buffer_rgba())[..., :3]  # type: ignore[no-untyped-call]


def _colors(boxes: NDArray[np.floating[Any]]) -> list[str]:
    return [PATCH_COLORS[number % len(PATCH_COLORS)] for number in range(len(boxes))]


def _add_box(axes: Axes, color: str, line_px: float, fill: Any) -> Rectangle:
    """Add a box to a picture: a line with a black edge on both sides, so that it stands out, and a
    colour inside."""
    # matplotlib measures lines in points, of which an inch has 72
    points = 72 / _DPI
    stroke = withStroke(linewidth=(line_px + 2) * points, foreground="black")
    box = Rectangle(
        (0, 0), 0, 0, facecolor=fill, edgecolor=color, linewidth=line_px * points,
        path_effects=[stroke], capstyle="butt", joinstyle="miter",
    )  # fmt: skip
    axes.add_patch(box)
    return box


def _set_bounds(
    patch: Rectangle, box: NDArray[np.floating[Any]], grow_px: float, size: tuple[int, int]
) -> None:
    """Move a drawn box to `box`, xyxy, grown on all sides.

    A side on the frame's border moves in, or its line would not be seen; one beyond stays there.
    """
    limits = np.array([*size, *size])
    grown = box + grow_px * np.array([-1, -1, 1, 1])
    # a patch may reach over the edge, where no line is wanted
    is_inside = (box >= 0) & (box <= limits)
    x1, y1, x2, y2 = np.where(is_inside, grown.clip(abs(grow_px), limits - abs(grow_px)), grown)
    patch.set_bounds(x1, y1, max(x2 - x1, 0), max(y2 - y1, 0))
