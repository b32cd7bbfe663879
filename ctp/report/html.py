"""What pictures of clips are made of: pages of cells under lines of text, and videos of pages."""

from __future__ import annotations

import io
import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.container import OutputContainer
from av.video.reformatter import ColorRange, Colorspace
from matplotlib import get_data_path
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

Picture = NDArray[np.uint8]
Color = tuple[int, int, int]

LOOP_SECONDS = 6.0
"""A video repeats its clips until it lasts at least this long."""
PAPER: Color = (255, 255, 255)
INK: Color = (31, 41, 55)
FAINT: Color = (107, 114, 128)
MARGIN_PX, GAP_PX, TEXT_PX, TEXT_LINE_PX = 12, 4, 14, 22
_BAR_PX = (120, 12)


@dataclass(frozen=True)
class Layout:
    """Where the cells of a page lie; above each row there is room for lines of text."""

    rows: int
    columns: int
    width_px: int
    height_px: int
    head_px: int = 0
    text_lines: int = 1

    def corner(self, row: int, column: int) -> tuple[int, int]:
        """The upper left corner of a cell, (x, y)."""
        text_px = self.text_lines * TEXT_LINE_PX
        x = MARGIN_PX + column * (self.width_px + GAP_PX)
        y = MARGIN_PX + self.head_px + row * (self.height_px + text_px + GAP_PX)
        return x, y + text_px

    def page(self, legend: Image.Image) -> Image.Image:
        """An empty page with the legend below, of even width and height."""
        x, y = self.corner(self.rows, self.columns)
        width = x - GAP_PX + MARGIN_PX
        top = y - self.text_lines * TEXT_LINE_PX + MARGIN_PX - GAP_PX
        height = top + legend.height + MARGIN_PX
        page = Image.new("RGB", (width + width % 2, height + height % 2), PAPER)
        page.paste(legend, (MARGIN_PX, top))
        return page

    @property
    def legend_width_px(self) -> int:
        """What a legend may be wide."""
        x, _ = self.corner(0, self.columns)
        return x - GAP_PX - MARGIN_PX


def even_frames(num_frames: int, wanted: int) -> list[int]:
    """`wanted` frame numbers from the first to the last, evenly spread; all if there are fewer."""
    count = min(num_frames, wanted)
    return [int(i) for i in np.linspace(0, num_frames - 1, count).round()]


def enlarged(picture: Picture, size_px: int) -> Picture:
    """A picture, uint8 [H, W, 3], scaled up so that its shorter side has `size_px`; one that is
    larger is kept."""
    height, width, _ = picture.shape
    scale = max(size_px / min(height, width), 1.0)
    size = (round(width * scale), round(height * scale))
    return np.array(Image.fromarray(picture).resize(size, Image.Resampling.BICUBIC))


def write(
    draw: ImageDraw.ImageDraw, corner: tuple[int, int], text: str, color: Color, room_px: int
) -> None:
    """Write a line of text; the front of what is too long is left out, for names end in what
    tells them apart."""
    font = text_font(text)
    short = text
    while len(text) > 1 and font.getlength(short) > room_px:
        text = text[1:]
        short = "..." + text
    x, y = corner
    draw.text((x, y + TEXT_LINE_PX / 2), short, fill=color, font=font, anchor="lm")


def text_block(lines: Sequence[str]) -> Image.Image:
    """Lines of text, one below the other, as wide as the longest."""
    width = math.ceil(max(text_font(line).getlength(line) for line in lines))
    block = Image.new("RGB", (width, len(lines) * TEXT_LINE_PX), PAPER)
    draw = ImageDraw.Draw(block)
    for number, line in enumerate(lines):
        write(draw, (0, number * TEXT_LINE_PX), line, INK, width)
    return block


@cache
def _font(is_plain: bool, size_px: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    if is_plain:
        return ImageFont.load_default(size_px)
    return ImageFont.truetype(Path(get_data_path()) / "fonts/ttf/DejaVuSans.ttf", size_px - 1)


def text_font(text: str, size_px: int = TEXT_PX) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """The font of a line of text: the plain one has no accents."""
    return _font(text.isascii(), size_px)


def color_key(bars: Mapping[str, Picture], width_px: int) -> Image.Image:
    """What colours mean: bars, one below the other, each with its text beside it.

    Args:
        bars: uint8 [n, 3] by text, colours from left to right.
        width_px: of the whole.
    """
    key = Image.new("RGB", (width_px, len(bars) * TEXT_LINE_PX), PAPER)
    draw = ImageDraw.Draw(key)
    for row, (text, colors) in enumerate(bars.items()):
        top = row * TEXT_LINE_PX
        bar = Image.fromarray(colors[None]).resize(_BAR_PX, Image.Resampling.NEAREST)
        key.paste(bar, (0, top + (TEXT_LINE_PX - bar.height) // 2))
        beside = bar.width + 2 * GAP_PX
        write(draw, (beside, top), text, INK, width_px - beside)
    return key


def png_bytes(page: Image.Image, num_colors: int | None = None) -> bytes:
    """A page as a PNG.

    Args:
        page: RGB.
        num_colors: up to 256 makes a palette of so many, and a file of half the size; None: all.
    """
    if num_colors:
        # the first call finds the palette, the second dithers, or smooth parts show bands
        page = page.quantize(palette=page.quantize(num_colors))
    buffer = io.BytesIO()
    page.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def looped_mp4(pages: Sequence[Picture], frames_per_second: int) -> bytes:
    """Pages, uint8 [h, w, 3], as `encode_mp4`, over and over for at least `LOOP_SECONDS`."""
    loops = math.ceil(LOOP_SECONDS * frames_per_second / len(pages))
    return encode_mp4([*pages] * loops, frames_per_second)


def encode_mp4(pictures: Sequence[Picture], frames_per_second: int) -> bytes:
    """Encode pictures, uint8 [h, w, 3] of even h and w, as H.264 that every player and browser
    takes (yuv420p, index in front)."""
    # a file with a name, for the index is moved to its front when all is written
    with tempfile.NamedTemporaryFile() as file:
        options = {"movflags": "faststart"}
        with av.open(file.name, "w", format="mp4", options=options) as container:
            _encode(container, pictures, frames_per_second)
        return file.read()


def _encode(
    container: OutputContainer, pictures: Sequence[Picture], frames_per_second: int
) -> None:
    stream = container.add_stream("libx264", rate=frames_per_second, options={"crf": "18"})
    stream.height, stream.width, _ = pictures[0].shape
    stream.pix_fmt = "yuv420p"
    # tagged, or players guess the colours by the picture's size
    context: Any = stream.codec_context
    context.colorspace = context.color_primaries = context.color_trc = Colorspace.ITU709
    context.color_range = ColorRange.MPEG
    for number, picture in enumerate(pictures):
        frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(
            format="yuv420p", dst_colorspace=Colorspace.ITU709, dst_color_range=ColorRange.MPEG
        )
        frame.pts = number
        container.mux(stream.encode(frame))
    container.mux(stream.encode(None))
