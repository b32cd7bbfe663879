"""Pictures of clips with their boxes: a PNG with a row a clip, a video with the clips in motion."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from ctp.pretext.batches import Clip
from ctp.report.html import (
    FAINT,
    GAP_PX,
    INK,
    MARGIN_PX,
    PAPER,
    TEXT_LINE_PX,
    Color,
    Layout,
    Picture,
    enlarged,
    even_frames,
    looped_mp4,
    png_bytes,
    text_font,
    write,
)
from ctp.video.augment import IMAGENET_MEAN, IMAGENET_STD, to_input

TRAJECTORY_COLORS: tuple[Color, ...] = (
    (255, 61, 165),
    (34, 211, 238),
    (255, 176, 0),
    (132, 224, 30),
    (167, 139, 250),
)
"""Colours of the trajectories, told apart by the colour-blind, too; used in turn if K is larger."""
PREDICTED_COLOR: Color = (255, 255, 255)

_SWATCH = (90, 100, 112)
_EDGE_DIMMING = 0.45
"""Factor on the pixels beside a line, so that it stands out from a picture of its colour."""


@dataclass(frozen=True)
class Scene:
    """A clip, with what is to be drawn on it.

    Attributes:
        frames: uint8 [T, H, W, 3].
        boxes: float [K, T, 4], the true boxes, xyxy pixels of `frames`.
        visible: bool [K, T]; False where the patch is hidden though its box is a target.
        caption: said above the clip.
        predicted: float [K, T, 4], boxes of a model, or None.
    """

    frames: Picture
    boxes: NDArray[np.floating[Any]]
    visible: NDArray[np.bool_]
    caption: str
    predicted: NDArray[np.floating[Any]] | None = None


def seen_frames(clip: Clip) -> Picture:
    """The frames of a clip in the colours that the encoder sees, uint8 [T, H, W, 3]."""
    frames, color = torch.as_tensor(clip.frames)[None], torch.as_tensor(clip.color)[None]
    pixels = to_input(frames, color)[0].permute(1, 2, 3, 0)
    pixels = 255 * (pixels * torch.tensor(IMAGENET_STD) + torch.tensor(IMAGENET_MEAN))
    seen: Picture = pixels.round().clamp(0, 255).to(torch.uint8).numpy()
    return seen


def draw_scene(scene: Scene, frames: Sequence[int], size_px: int) -> list[Picture]:
    """Draw the boxes of some frames.

    The patch is left bare: a true box is drawn around it, a predicted one just inside its own
    border. True boxes are solid where the patch is shown, thin and dashed where it is hidden.

    Args:
        scene: what to draw.
        frames: which of its frames.
        size_px: the shorter side of what comes out; smaller clips are scaled up, larger ones kept.

    Returns:
        For each frame uint8 [h, w, 3].
    """
    return [_draw_frame(scene, frame, size_px) for frame in frames]


def grid_png(
    scenes: Sequence[Scene],
    *,
    num_columns: int = 8,
    size_px: int = 224,
    num_colors: int | None = None,
) -> bytes:
    """A PNG with a row a clip and a column a frame, the frames evenly chosen.

    Args:
        scenes: at least one, all of the same shape.
        num_columns: frames of each clip, or all it has if they are fewer.
        size_px: the shorter side of a frame in the picture, if its own is less.
        num_colors: up to 256 makes a palette of so many, and a file of half the size; None: all.
    """
    chosen = even_frames(len(scenes[0].frames), num_columns)
    rows = [draw_scene(scene, chosen, size_px) for scene in scenes]
    height, width, _ = rows[0][0].shape
    layout = Layout(len(rows), len(chosen), width, height, head_px=TEXT_LINE_PX)
    page = layout.page(_legend(layout.legend_width_px, _with_prediction(scenes)))
    draw = ImageDraw.Draw(page)
    for column, frame in enumerate(chosen):
        x, _ = layout.corner(0, column)
        write(draw, (x, MARGIN_PX), f"frame {frame}", FAINT, layout.width_px)
    for row, pictures in enumerate(rows):
        x, y = layout.corner(row, 0)
        room = len(chosen) * (layout.width_px + GAP_PX)
        write(draw, (x, y - TEXT_LINE_PX), scenes[row].caption, INK, room)
        for column, picture in enumerate(pictures):
            page.paste(Image.fromarray(picture), layout.corner(row, column))
    return png_bytes(page, num_colors)


def grid_mp4(scenes: Sequence[Scene], *, size_px: int = 224, frames_per_second: int = 8) -> bytes:
    """An H.264 video of the clips side by side, over and over for at least `LOOP_SECONDS`.

    Args:
        scenes: at least one, all of the same shape.
        size_px: the shorter side of a clip in the picture, if its own is less.
        frames_per_second: frames of the clips a second.
    """
    num_frames = len(scenes[0].frames)
    drawn = [draw_scene(scene, range(num_frames), size_px) for scene in scenes]
    columns = math.ceil(math.sqrt(len(scenes)))
    height, width, _ = drawn[0][0].shape
    layout = Layout(math.ceil(len(scenes) / columns), columns, width, height)
    page = layout.page(_legend(layout.legend_width_px, _with_prediction(scenes)))
    draw = ImageDraw.Draw(page)
    corners = [layout.corner(*divmod(number, columns)) for number in range(len(scenes))]
    for scene, (x, y) in zip(scenes, corners, strict=True):
        write(draw, (x, y - TEXT_LINE_PX), scene.caption, INK, layout.width_px)
    pages = []
    for frame in range(num_frames):
        for pictures, corner in zip(drawn, corners, strict=True):
            page.paste(Image.fromarray(pictures[frame]), corner)
        pages.append(np.asarray(page).copy())
    return looped_mp4(pages, frames_per_second)


def _draw_frame(scene: Scene, frame: int, size_px: int) -> Picture:
    canvas = enlarged(scene.frames[frame], size_px)
    scale = canvas.shape[1] / scene.frames.shape[2]
    line = max(round(min(canvas.shape[:2]) / 75), 2)
    for number, box in enumerate(scene.boxes[:, frame]):
        color = TRAJECTORY_COLORS[number % len(TRAJECTORY_COLORS)]
        if scene.visible[number, frame]:
            _stroke(canvas, box * scale, color, line)
        else:
            _stroke(canvas, box * scale, color, max(line - 1, 2), dash_px=2 * line)
    if scene.predicted is not None:
        for number, box in enumerate(scene.predicted[:, frame]):
            own = TRAJECTORY_COLORS[number % len(TRAJECTORY_COLORS)]
            _stroke(canvas, box * scale, PREDICTED_COLOR, max(line - 1, 1), inside=True, edge=own)
    return canvas


def _stroke(
    canvas: Picture,
    box: NDArray[np.floating[Any]],
    color: Color,
    line_px: int,
    *,
    dash_px: int = 0,
    inside: bool = False,
    edge: Color | None = None,
) -> None:
    """Draw a box on a canvas, uint8 [h, w, 3], in place: a line with an edge of a pixel.

    Args:
        canvas: what to draw on.
        box: float [4] xyxy, pixels of the canvas.
        color: of the line.
        line_px: its width.
        dash_px: length of dashes and of the gaps between them; 0 for a solid line.
        inside: whether the line lies inside the box, not around it.
        edge: colour of the edge; None darkens what is there.
    """
    outer, inner = (0, -line_px) if inside else (line_px, 0)
    height, width, _ = canvas.shape
    x1, x2 = _into_sight(box[[0, 2]], width, outer)
    y1, y2 = _into_sight(box[[1, 3]], height, outer)
    whole = (x1, y1, x2, y2)
    beside = _ring(canvas, whole, outer + 1, inner - 1)
    canvas[beside] = edge or (canvas[beside] * _EDGE_DIMMING).astype(np.uint8)
    ring = _ring(canvas, whole, outer, inner)
    if dash_px:
        rows, columns = np.ogrid[:height, :width]
        ring &= (rows - y1 + columns - x1) // dash_px % 2 == 0  # they move along with the box
    canvas[ring] = color


def _into_sight(ends: NDArray[np.floating[Any]], length: int, line_px: int) -> tuple[int, int]:
    """Round a box's two ends along an axis; one on the picture's border moves in by the line's
    width, or the line would not be seen. One beyond the border stays there."""
    low, high = (round(float(end)) for end in ends)
    low = max(low, line_px) if low >= 0 else low
    high = min(high, length - line_px) if high <= length else high
    return low, high


def _ring(
    canvas: Picture, box: tuple[int, int, int, int], outer: int, inner: int
) -> NDArray[np.bool_]:
    """The pixels in `box` grown by `outer` but not in `box` grown by `inner`, bool [h, w]."""
    x1, y1, x2, y2 = box
    ring = np.zeros(canvas.shape[:2], np.bool_)
    for grow, value in ((outer, True), (inner, False)):
        top, left = max(y1 - grow, 0), max(x1 - grow, 0)
        ring[top : max(y2 + grow, 0), left : max(x2 + grow, 0)] = value
    return ring


def _legend(width_px: int, with_prediction: bool) -> Image.Image:
    """What the lines mean, in as many lines as it takes."""
    color, thin = TRAJECTORY_COLORS[0], {"line_px": 2}
    entries: list[tuple[str, dict[str, Any]]] = [
        ("true box", {"color": color, "line_px": 3}),
        ("true box, patch hidden", {"color": color, **thin, "dash_px": 5}),
    ]
    if with_prediction:
        inner = {"color": PREDICTED_COLOR, **thin, "inside": True, "edge": color}
        entries.append(("predicted box", inner))
    swatch_width, swatch_height, room = 34, 20, 8
    places, x, y = [], 0, 0
    for text, _ in entries:
        entry_width = swatch_width + room + math.ceil(text_font(text).getlength(text))
        if x and x + entry_width > width_px:
            x, y = 0, y + swatch_height + GAP_PX
        places.append((x, y))
        x += entry_width + 3 * room
    strip = Image.new("RGB", (width_px, y + swatch_height), PAPER)
    for (text, look), (x, y) in zip(entries, places, strict=True):
        swatch = np.full((swatch_height, swatch_width, 3), _SWATCH, np.uint8)
        inset = 2 if look.get("inside") else 5
        box = np.array([inset + 2, inset, swatch_width - inset - 2, swatch_height - inset])
        _stroke(swatch, box.astype(np.float64), **look)
        strip.paste(Image.fromarray(swatch), (x, y))
        middle = (x + swatch_width + room, y + (swatch_height - TEXT_LINE_PX) // 2)
        write(ImageDraw.Draw(strip), middle, text, INK, width_px)
    return strip


def _with_prediction(scenes: Sequence[Scene]) -> bool:
    return any(scene.predicted is not None for scene in scenes)
