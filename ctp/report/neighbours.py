"""A picture of videos with those that are nearest to them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

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
    png_bytes,
    text_font,
    write,
)
from ctp.video.config import ViewsConfig
from ctp.video.encoded import EncodedVideo
from ctp.video.views import read_views

RIGHT: Color = (22, 163, 74)
WRONG: Color = (220, 38, 38)
FRAME_PX = 5
DASH_PX = 8
"""A wrong video's frame is dashed, too, for those who cannot tell red from green."""
LEGEND = (("the query", INK), ("of its class", RIGHT), ("of another class", WRONG))


@dataclass(frozen=True)
class Shown:
    """A video in the picture.

    Attributes:
        picture: uint8 [S, S, 3], all of the same S.
        label: class name.
        note: said below that, e.g. its similarity.
    """

    picture: Picture
    label: str
    note: str


@dataclass(frozen=True)
class Row:
    """A query and its neighbours, the nearest first."""

    query: Shown
    neighbours: Sequence[Shown]


def middle_frame(video: EncodedVideo, size_px: int) -> Picture:
    """The square in the middle of a video's middle frame, uint8 [size_px, size_px, 3].

    Raises:
        VideoError: it cannot be decoded.
    """
    middle = ViewsConfig(
        num_clips=1, num_frames=1, interval_frames=1, frame_size_px=size_px, short_side_px=size_px
    )
    picture: Picture = read_views(middle, video)[0, 0]
    return picture


def neighbours_png(rows: Sequence[Row]) -> bytes:
    """A PNG with a row for each query: the query, and its neighbours framed by whether they are of
    its class.

    Args:
        rows: at least one, each with as many neighbours.
    """
    columns = 1 + len(rows[0].neighbours)
    side = rows[0].query.picture.shape[1] + 2 * FRAME_PX
    layout = Layout(len(rows), columns, side, side + 2 * TEXT_LINE_PX, TEXT_LINE_PX, text_lines=0)
    page = layout.page(_legend())
    draw = ImageDraw.Draw(page)
    for column in range(columns):
        x, _ = layout.corner(0, column)
        write(draw, (x, MARGIN_PX), f"nearest {column}" if column else "query", FAINT, side)
    for number, row in enumerate(rows):
        for column, shown in enumerate((row.query, *row.neighbours)):
            color = INK if not column else RIGHT if shown.label == row.query.label else WRONG
            page.paste(_cell(shown, color), layout.corner(number, column))
    return png_bytes(page)


def _cell(shown: Shown, color: Color) -> Image.Image:
    """A framed picture above its class and note."""
    picture = _framed(shown.picture, color)
    side = picture.shape[1]
    cell = Image.new("RGB", (side, side + 2 * TEXT_LINE_PX), PAPER)
    cell.paste(Image.fromarray(picture), (0, 0))
    draw = ImageDraw.Draw(cell)
    write(draw, (0, side), shown.label, color, side)
    write(draw, (0, side + TEXT_LINE_PX), shown.note, FAINT, side)
    return cell


def _framed(picture: Picture, color: Color) -> Picture:
    height, width, _ = picture.shape
    framed = np.empty((height + 2 * FRAME_PX, width + 2 * FRAME_PX, 3), np.uint8)
    framed[:] = color
    if color == WRONG:
        rows, columns = np.ogrid[: framed.shape[0], : framed.shape[1]]
        framed[(rows + columns) // DASH_PX % 2 == 1] = PAPER
    framed[FRAME_PX:-FRAME_PX, FRAME_PX:-FRAME_PX] = picture
    return framed


def _legend() -> Image.Image:
    """What the frames mean, a line each."""
    swatch_px = TEXT_LINE_PX - 2 * FRAME_PX - GAP_PX
    swatch = np.full((swatch_px, 2 * TEXT_LINE_PX, 3), 255, np.uint8)
    text_x = swatch.shape[1] + 2 * FRAME_PX + 2 * GAP_PX
    room = max(int(text_font(text).getlength(text)) + 1 for text, _ in LEGEND)
    legend = Image.new("RGB", (text_x + room, len(LEGEND) * TEXT_LINE_PX), PAPER)
    draw = ImageDraw.Draw(legend)
    for number, (text, color) in enumerate(LEGEND):
        y = number * TEXT_LINE_PX
        legend.paste(Image.fromarray(_framed(swatch, color)), (0, y))
        write(draw, (text_x, y), text, INK, room)
    return legend
