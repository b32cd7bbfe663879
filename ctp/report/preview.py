"""Clips as pictures: a PNG with a row a clip and a column a frame, an MP4 of clips side by side.

The frames of a `SamplePicture` already contain boxes and other marks.
"""

from __future__ import annotations

import io
import math
import tempfile
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import av
import numpy as np
import torch
from av.video.reformatter import ColorRange, Colorspace
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from ctp.data.catalog import VideoEntry
from ctp.data.reading import VideoOpener
from ctp.pretext.task import SamplePicture
from ctp.report.figures import INK
from ctp.storage import Storage
from ctp.video.config import ViewsConfig
from ctp.video.planes import to_rgb
from ctp.video.views import read_view_planes

Pixels = NDArray[np.uint8]
Key = Mapping[str, Pixels]
"""The legend of colours: text -> uint8 [n, 3], the colours from left to right."""

LOOP_SECONDS = 6.0
"""A video repeats its clips until it lasts at least this long."""
GIF_COLORS = 128
SLIDE_RATIO = 16 / 9
LEAST_FRAMES = 3
"""Frames of a clip on a slide, if it has as many."""
MARGIN_PX, GAP_PX, LINE_PX = 12, 4, 20
MAX_CAPTION_LINES = 4
CAPTION_GAP = "   "
"""Between the parts of a caption. Those that all clips have are written once, below the clips."""
_DPI, _FONT_PT, _CHARACTER_PX = 100, 9, 7.5
_BAR_HEIGHT_PX, _BAR_WIDTH_PX = 12, 120


def clips_png(
    pictures: Sequence[SamplePicture], num_columns: int = 8, key: Key | None = None
) -> bytes:
    """Return a PNG with a row a clip and a column a frame, the frames evenly chosen.

    Args:
        pictures: at least one, with frames of the same size.
        num_columns: frames of each clip, or all if there are fewer.
        key: what colours mean, shown below the clips.
    """
    num_frames = min(len(picture.frames) for picture in pictures)
    # the first and the last are among them
    frames = np.linspace(0, num_frames - 1, min(num_columns, num_frames)).round().astype(int)
    heads = [f"frame {frame}" for frame in frames]
    own, legend = _without_shared([picture.caption for picture in pictures])
    size, captions = pictures[0].frames.shape[1:3], [[caption] for caption in own]
    page, corners = _draw_page(captions, size, len(frames), heads, key, legend)
    for picture, row in zip(pictures, corners, strict=True):
        for frame, corner in zip(frames, row, strict=True):
            _paste(page, corner, picture.frames[frame])
    buffer = io.BytesIO()
    Image.fromarray(page).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def clips_mp4(
    pictures: Sequence[SamplePicture],
    num_columns: int | None = None,
    key: Key | None = None,
    frames_per_second: int = 8,
) -> bytes:
    """Return an H.264 video of clips side by side, repeated for at least `LOOP_SECONDS`.

    A clip that is shorter than others shows its last frame until they end.

    Args:
        pictures: at least one, with frames of the same size.
        num_columns: clips side by side; None: about as many as there are rows.
        key: what colours mean, shown below the clips.
        frames_per_second: frames of the clips a second.
    """
    pages = _moving_pages(pictures, num_columns, key)
    loops = math.ceil(LOOP_SECONDS * frames_per_second / len(pages))
    return encode_mp4(pages * loops, frames_per_second)


def slide_png(blocks: Sequence[Sequence[SamplePicture]], key: Key | None = None) -> bytes:
    """Return a PNG of 16:9, as a slide, with a block for each clip: a row a picture, a column a
    frame.

    Args:
        blocks: of each clip, equally many pictures with frames of the same size.
        key: what colours mean, shown below the clips.
    """
    height, width = blocks[0][0].frames.shape[1:3]
    num_frames = min(len(picture.frames) for block in blocks for picture in block)
    choices = [
        (across, shown)
        for across in _divisors(len(blocks))
        for shown in range(min(LEAST_FRAMES, num_frames), num_frames + 1)
    ]

    def distance(choice: tuple[int, int]) -> float:
        across, shown = choice
        rows = -(-len(blocks) // across) * len(blocks[0])
        ratio = across * shown * (width + GAP_PX) / (rows * (height + GAP_PX + LINE_PX))
        return abs(math.log(ratio / SLIDE_RATIO))

    across, shown = min(choices, key=distance)
    frames = np.linspace(0, num_frames - 1, shown).round().astype(int)
    rows = [
        [block[line] for block in blocks[start : start + across]]
        for start in range(0, len(blocks), across)
        for line in range(len(blocks[0]))
    ]
    heads = [f"frame {frame}" for frame in frames] * across
    captions = [[picture.caption for picture in row] for row in rows]
    page, corners = _draw_page(captions, (height, width), across * shown, heads, key)
    for row, places in zip(rows, corners, strict=True):
        cells = [picture.frames[frame] for picture in row for frame in frames]
        for cell, corner in zip(cells, places, strict=False):
            _paste(page, corner, cell)
    buffer = io.BytesIO()
    Image.fromarray(_on_slide(page)).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def slide_mp4(
    blocks: Sequence[Sequence[SamplePicture]],
    key: Key | None = None,
    frames_per_second: int = 8,
) -> bytes:
    """Return an H.264 video of 16:9 with the pictures of each clip side by side; see
    `slide_png` and `clips_mp4`."""
    height, width = blocks[0][0].frames.shape[1:3]

    def distance(across: int) -> float:
        columns, rows = across * len(blocks[0]), -(-len(blocks) // across)
        return abs(math.log(columns * width / (rows * (height + 2 * LINE_PX)) / SLIDE_RATIO))

    across = min(_divisors(len(blocks)), key=distance)
    pictures = [picture for block in blocks for picture in block]
    pages = [_on_slide(page) for page in _moving_pages(pictures, across * len(blocks[0]), key)]
    loops = math.ceil(LOOP_SECONDS * frames_per_second / len(pages))
    return encode_mp4(pages * loops, frames_per_second)


def _divisors(number: int) -> list[int]:
    """Return the numbers of blocks side by side that leave no place empty."""
    return [each for each in range(1, number + 1) if number % each == 0]


def _on_slide(page: Pixels) -> Pixels:
    """Return a page in the middle of a white one of 16:9."""
    height, width, _ = page.shape
    # multiples of 16 and 9, which are even, as H.264 needs
    units = 2 * math.ceil(max(width / 32, height / 18))
    slide = np.full((9 * units, 16 * units, 3), 255, np.uint8)
    _paste(slide, ((16 * units - width) // 2, (9 * units - height) // 2), page)
    return slide


def clips_gif(pictures: Sequence[SamplePicture], frames_per_second: int = 8) -> bytes:
    """Return a GIF of clips in a row, which starts again for ever; see `clips_mp4`."""
    pages = _moving_pages(pictures, len(pictures), None)
    # one palette for all frames, or colours that stay would flicker
    palette = Image.fromarray(np.concatenate(pages)).quantize(GIF_COLORS)
    # without dithering, which changes pixels that stay and makes the file twice as large
    frames = [
        Image.fromarray(page).quantize(palette=palette, dither=Image.Dither.NONE) for page in pages
    ]
    buffer = io.BytesIO()
    frames[0].save(
        buffer, "GIF", save_all=True, append_images=frames[1:], loop=0, optimize=True,
        duration=1000 // frames_per_second,
    )  # fmt: skip
    return buffer.getvalue()


def _moving_pages(
    pictures: Sequence[SamplePicture], num_columns: int | None, key: Key | None
) -> list[Pixels]:
    """Return a page for each frame of the longest clip."""
    columns = num_columns or math.ceil(math.sqrt(len(pictures)))
    captions, legend = _without_shared([picture.caption for picture in pictures])
    rows = [captions[start : start + columns] for start in range(0, len(captions), columns)]
    # the texts are drawn once; only the cells change from frame to frame
    page, corners = _draw_page(rows, pictures[0].frames.shape[1:3], columns, (), key, legend)
    places = [corner for row in corners for corner in row]
    num_frames = max(len(picture.frames) for picture in pictures)
    pages = []
    for frame in range(num_frames):
        for picture, corner in zip(pictures, places, strict=False):
            _paste(page, corner, picture.frames[min(frame, len(picture.frames) - 1)])
        # the next frame is drawn over this page
        pages.append(page.copy())
    return pages


def write_clips(folder: Storage, name: str, pictures: Sequence[SamplePicture]) -> None:
    """Write NAME.png by `clips_png` and NAME.mp4 by `clips_mp4`, and print where they are.

    Raises:
        StorageError: they cannot be written.
    """
    for suffix, data in (
        ("png", clips_png(pictures)),
        ("mp4", clips_mp4(pictures)),
    ):
        write_file(folder, f"{name}.{suffix}", data)


def write_file(folder: Storage, name: str, data: bytes) -> None:
    """Write a file and print where it is.

    Raises:
        StorageError: it cannot be written.
    """
    place = folder.join(name)
    place.write_bytes(data)
    print(f"wrote {place.uri} ({len(data) / 1000:.0f} kB)")


def read_clip(views: ViewsConfig, entry: VideoEntry) -> Pixels:
    """Decode the first view of a video, uint8 [T, S, S, 3].

    Raises:
        VideoError: it cannot be decoded.
        StorageError: it cannot be read.
    """
    with VideoOpener().open(entry) as reader:
        planes = read_view_planes(views.replace(num_clips=1), reader)[0]
    frames: Pixels = to_rgb(torch.from_numpy(planes), views.frame_size_px).numpy()
    return frames


def encode_mp4(pictures: Sequence[Pixels], frames_per_second: int) -> bytes:
    """Encode pictures, uint8 [h, w, 3] of even h and w, as an H.264 video that browsers play."""
    # a named file, since the index is moved to its front at the end
    with tempfile.NamedTemporaryFile() as file:
        options = {"movflags": "faststart"}
        with av.open(file.name, "w", format="mp4", options=options) as container:
            stream = container.add_stream("libx264", rate=frames_per_second, options={"crf": "18"})
            stream.height, stream.width, _ = pictures[0].shape
            stream.pix_fmt = "yuv420p"
            # tagged, or players guess the colours by the size
            context: Any = stream.codec_context
            context.colorspace = context.color_primaries = context.color_trc = Colorspace.ITU709
            context.color_range = ColorRange.MPEG
            for number, picture in enumerate(pictures):
                frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(
                    format="yuv420p",
                    dst_colorspace=Colorspace.ITU709,
                    dst_color_range=ColorRange.MPEG,
                )
                # counted in frames: the stream's time base is one frame
                frame.pts = number
                container.mux(stream.encode(frame))
            # the frames that the encoder still holds
            container.mux(stream.encode(None))
        return file.read()


def _without_shared(captions: Sequence[str]) -> tuple[list[str], str]:
    """Return the captions without the parts that all have, and these parts; of one caption, all of
    it."""
    parts = [caption.split(CAPTION_GAP) for caption in captions]
    shared = [part for part in parts[0] if all(part in each for each in parts[1:])]
    if len(parts) == 1:
        shared = []
    own = [CAPTION_GAP.join(part for part in each if part not in shared) for each in parts]
    return own, CAPTION_GAP.join(shared)


def _draw_page(
    captions: Sequence[Sequence[str]],
    cell: Sequence[int],
    num_columns: int,
    heads: Sequence[str],
    key: Key | None,
    legend: str = "",
) -> tuple[Pixels, list[list[tuple[int, int]]]]:
    """Draw a page with all texts and empty cells.

    Args:
        captions: of each row, one above all its cells or one above each.
        cell: height and width of a cell.
        num_columns: cells in a row.
        heads: texts above the columns; none: no such line.
        key: what colours mean.
        legend: a text below the cells.

    Returns:
        the page, uint8 [h, w, 3] with even h and w, and the (x, y) of each cell, by row.
    """
    height, width = cell
    columns = [MARGIN_PX + number * (width + GAP_PX) for number in range(num_columns)]
    # one caption spans a whole row, or each has its cell
    span = num_columns // len(captions[0])
    room_px = span * (width + GAP_PX) - GAP_PX
    texts = [(x, MARGIN_PX, head) for x, head in zip(columns, heads, strict=False)]
    y = MARGIN_PX + (LINE_PX if heads else 0)
    corners, bars = [], []
    for row in captions:
        wrapped = [_wrap(caption, room_px) for caption in row]
        texts += [(x, y, text) for x, text in zip(columns[::span], wrapped, strict=False)]
        y += LINE_PX * max(1 + text.count("\n") for text in wrapped)
        corners.append([(x, y) for x in columns])
        y += height + GAP_PX
    if legend:
        texts.append((MARGIN_PX, y, _wrap(legend, num_columns * (width + GAP_PX))))
        y += LINE_PX * (1 + texts[-1][-1].count("\n"))
    for text, colors in (key or {}).items():
        bars.append(((MARGIN_PX, y + (LINE_PX - _BAR_HEIGHT_PX) // 2), colors))
        room_px = num_columns * (width + GAP_PX) - _BAR_WIDTH_PX
        texts.append((MARGIN_PX + _BAR_WIDTH_PX + 2 * GAP_PX, y, _wrap(text, room_px)))
        y += LINE_PX * (1 + texts[-1][-1].count("\n"))
    page = _write_texts(texts, columns[-1] + width + MARGIN_PX, y + MARGIN_PX)
    for corner, colors in bars:
        bar = colors[np.arange(_BAR_WIDTH_PX) * len(colors) // _BAR_WIDTH_PX]
        _paste(page, corner, np.broadcast_to(bar, (_BAR_HEIGHT_PX, *bar.shape)))
    return page, corners


def _write_texts(texts: Sequence[tuple[int, int, str]], width: int, height: int) -> Pixels:
    """Return a white page with texts, each at the (x, y) of its upper left corner."""
    # H.264 with colour at half size needs even sides
    width, height = width + width % 2, height + height % 2
    figure = Figure(figsize=(width / _DPI, height / _DPI), dpi=_DPI, facecolor="white")
    for x, y, text in texts:
        figure.text(
            x / width, 1 - (y + 3) / height, text, fontsize=_FONT_PT, color=INK, va="top",
            linespacing=LINE_PX / (_FONT_PT * _DPI / 72) / 1.2, parse_math=False,
        )  # fmt: skip
    # matplotlib writes the texts, because PIL's own font lacks most scripts
    canvas = FigureCanvasAgg(figure)
    canvas.draw()  # type: ignore[no-untyped-call]
    return np.array(canvas.buffer_rgba())[..., :3]  # type: ignore[no-untyped-call]


def _wrap(text: str, room_px: int) -> str:
    """Break a text into lines that fit into `room_px`."""
    characters = max(int(room_px / _CHARACTER_PX), 8)
    lines = textwrap.wrap(text, characters, max_lines=MAX_CAPTION_LINES, placeholder="…")
    return "\n".join(lines)


def _paste(page: Pixels, corner: tuple[int, int], pixels: Pixels) -> None:
    x, y = corner
    height, width, _ = pixels.shape
    page[y : y + height, x : x + width] = pixels
