"""Pictures of tracked objects: a strip of frames a clip, a video of whole sequences."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from ctp.report.html import (
    FAINT,
    GAP_PX,
    INK,
    TEXT_LINE_PX,
    Color,
    Layout,
    Picture,
    color_key,
    encode_mp4,
    even_frames,
    png_bytes,
    write,
)

TRUE_COLOR: Color = (34, 211, 238)
PREDICTED_COLOR: Color = (255, 61, 165)
UNCOUNTED_COLOR: Color = (150, 150, 150)
MEANINGS = {
    "true box": TRUE_COLOR,
    "predicted box": PREDICTED_COLOR,
    "true box of a frame that does not count": UNCOUNTED_COLOR,
}
LINE_PX, EDGE_PX = 2, 1
_DARK: Color = (17, 24, 39)


@dataclass(frozen=True)
class TrackScene:
    """A video, or a clip of it, with what is to be drawn on it.

    Attributes:
        frames: uint8 [N, h, w, 3].
        boxes: float [N, 4], the true boxes, xyxy pixels of `frames`.
        predicted: float [N, 4], those of a model; NaN where it predicted none.
        counted: bool [N], the frames that are scored.
        given: bool [N], the frames whose true box the model was given.
        caption: said above it.
    """

    frames: Picture
    boxes: NDArray[np.floating[Any]]
    predicted: NDArray[np.floating[Any]]
    counted: NDArray[np.bool_]
    given: NDArray[np.bool_]
    caption: str

    def part(self, frames: slice, caption: str) -> TrackScene:
        """Some of its frames."""
        return TrackScene(
            self.frames[frames],
            self.boxes[frames],
            self.predicted[frames],
            self.counted[frames],
            self.given[frames],
            caption,
        )


def draw_tracked(scene: TrackScene, frame: int, size: tuple[int, int]) -> Picture:
    """A frame with its boxes, in the middle of a cell of (width, height), uint8
    [height, width, 3]."""
    picture = scene.frames[frame]
    scale = min(size[0] / picture.shape[1], size[1] / picture.shape[0])
    shown = (round(picture.shape[1] * scale), round(picture.shape[0] * scale))
    image = Image.fromarray(picture).resize(shown, Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(image)
    truth = TRUE_COLOR if scene.counted[frame] else UNCOUNTED_COLOR
    _outline(draw, scene.boxes[frame] * scale, truth)
    if np.isfinite(scene.predicted[frame]).all():
        _outline(draw, scene.predicted[frame] * scale, PREDICTED_COLOR)
    cell = Image.new("RGB", size, _DARK)
    cell.paste(image, ((size[0] - shown[0]) // 2, (size[1] - shown[1]) // 2))
    return np.array(cell)


def tracks_png(
    scenes: Sequence[TrackScene], *, num_columns: int = 8, cell_px: tuple[int, int] = (240, 180)
) -> bytes:
    """A PNG with a row a scene and a column a frame, the frames evenly chosen.

    Args:
        scenes: at least one.
        num_columns: frames of each, or all it has if they are fewer.
        cell_px: width and height of a frame in the picture.
    """
    layout = Layout(len(scenes), num_columns, *cell_px)
    page = layout.page(_legend(layout))
    draw = ImageDraw.Draw(page)
    for row, scene in enumerate(scenes):
        x, y = layout.corner(row, 0)
        room = num_columns * (layout.width_px + GAP_PX)
        write(draw, (x, y - TEXT_LINE_PX), scene.caption, INK, room)
        for column, frame in enumerate(even_frames(len(scene.frames), num_columns)):
            cell = Image.fromarray(draw_tracked(scene, frame, cell_px))
            page.paste(cell, layout.corner(row, column))
    return png_bytes(page)


def tracks_mp4(
    scenes: Sequence[TrackScene],
    *,
    frames_per_second: int = 10,
    cell_px: tuple[int, int] = (384, 288),
) -> bytes:
    """An H.264 video of scenes side by side; one that is over stands still until all are.

    Args:
        scenes: at least one.
        frames_per_second: frames of the scenes a second; GOT-10k has 10.
        cell_px: width and height of a scene in the picture.
    """
    columns = math.ceil(math.sqrt(len(scenes)))
    layout = Layout(math.ceil(len(scenes) / columns), columns, *cell_px, text_lines=2)
    page = layout.page(_legend(layout))
    pages = []
    for frame in range(max(len(scene.frames) for scene in scenes)):
        for number, scene in enumerate(scenes):
            shown = min(frame, len(scene.frames) - 1)
            corner = layout.corner(*divmod(number, columns))
            page.paste(Image.fromarray(draw_tracked(scene, shown, cell_px)), corner)
            _head(page, scene, shown, corner, layout.width_px)
        pages.append(np.array(page))
    return encode_mp4(pages, frames_per_second)


def _head(
    page: Image.Image, scene: TrackScene, frame: int, corner: tuple[int, int], room_px: int
) -> None:
    """Write anew what stands above a scene: its caption, and which frame it is at."""
    x, y = corner[0], corner[1] - 2 * TEXT_LINE_PX
    blank = Image.new("RGB", (room_px, 2 * TEXT_LINE_PX), (255, 255, 255))
    page.paste(blank, (x, y))
    draw = ImageDraw.Draw(page)
    write(draw, (x, y), scene.caption, INK, room_px)
    given = ", true box given" if scene.given[frame] else ""
    write(draw, (x, y + TEXT_LINE_PX), f"frame {frame}{given}", FAINT, room_px)


def _legend(layout: Layout) -> Image.Image:
    bars = {text: np.array([color], np.uint8) for text, color in MEANINGS.items()}
    return color_key(bars, layout.legend_width_px)


def _outline(draw: ImageDraw.ImageDraw, box: NDArray[np.floating[Any]], color: Color) -> None:
    """A box around what is in it, with a dark edge on both sides of its line."""
    x1, y1, x2, y2 = (float(value) for value in box)
    for grow, width, ink in (
        (LINE_PX + EDGE_PX, LINE_PX + 2 * EDGE_PX, _DARK),
        (LINE_PX, LINE_PX, color),
    ):
        corners = (x1 - grow, y1 - grow, max(x2, x1) + grow, max(y2, y1) + grow)
        draw.rectangle(corners, outline=ink, width=width)
