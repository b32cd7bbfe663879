"""What pictures are made of: frames evenly chosen, text that fits, videos that play."""

import io
import math

import av
import numpy as np
import pytest
from PIL import Image, ImageDraw

from ctp.report.html import (
    GAP_PX,
    INK,
    LOOP_SECONDS,
    MARGIN_PX,
    PAPER,
    TEXT_LINE_PX,
    Layout,
    color_key,
    encode_mp4,
    enlarged,
    even_frames,
    looped_mp4,
    png_bytes,
    text_block,
    text_font,
    write,
)


def inked(picture):
    """Columns of a page in which anything is drawn."""
    return np.nonzero((np.asarray(picture) != PAPER).any(axis=(0, 2)))[0]


@pytest.mark.parametrize(
    ("num_frames", "wanted", "expected"),
    [(16, 4, [0, 5, 10, 15]), (5, 8, [0, 1, 2, 3, 4]), (9, 2, [0, 8]), (7, 1, [0])],
)
def test_frames_are_chosen_from_the_first_to_the_last(num_frames, wanted, expected):
    assert even_frames(num_frames, wanted) == expected


def test_a_picture_is_scaled_up_by_its_shorter_side_and_never_down():
    assert enlarged(np.zeros((10, 20, 3), np.uint8), 30).shape == (30, 60, 3)
    large = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)
    np.testing.assert_array_equal(enlarged(large, 30), large)


def test_the_video_can_be_played_before_it_is_all_there():
    data = encode_mp4([np.zeros((32, 32, 3), np.uint8)] * 3, 8)
    assert data.index(b"moov") < data.index(b"mdat")


def test_a_looped_video_lasts_and_ends_with_its_last_page():
    pages = [np.full((32, 32, 3), value, np.uint8) for value in (0, 100, 200)]
    with av.open(io.BytesIO(looped_mp4(pages, 4))) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert len(frames) == 3 * math.ceil(LOOP_SECONDS * 4 / 3)
    means = [round(float(frame.mean()), -1) for frame in frames]
    assert means == [0, 100, 200] * (len(frames) // 3)


def test_cells_lie_side_by_side_under_their_lines_of_text():
    layout = Layout(rows=2, columns=3, width_px=50, height_px=40, head_px=7, text_lines=2)
    assert layout.corner(0, 0) == (MARGIN_PX, MARGIN_PX + 7 + 2 * TEXT_LINE_PX)
    assert layout.corner(0, 2)[0] == MARGIN_PX + 2 * (50 + GAP_PX)
    assert layout.corner(1, 0)[1] - layout.corner(0, 0)[1] == 40 + 2 * TEXT_LINE_PX + GAP_PX
    assert layout.legend_width_px == 3 * 50 + 2 * GAP_PX


@pytest.mark.parametrize("width", [50, 51])
def test_a_page_has_even_sides_and_the_legend_below_all_cells(width):
    layout = Layout(rows=2, columns=1, width_px=width, height_px=41)
    page = layout.page(Image.new("RGB", (layout.legend_width_px, 10), INK))
    assert page.width % 2 == page.height % 2 == 0
    rows = np.nonzero((np.asarray(page) == INK).all(axis=2).any(axis=1))[0]
    assert rows.min() > layout.corner(1, 0)[1] + 41
    assert rows.max() - rows.min() == 9


@pytest.mark.parametrize("text", ["short", "a name that is much too long for the room " * 3])
def test_text_keeps_to_its_room(text):
    page = Image.new("RGB", (400, TEXT_LINE_PX), PAPER)
    write(ImageDraw.Draw(page), (10, 0), text, INK, 100)
    assert inked(page).min() >= 10
    assert inked(page).max() <= 110


@pytest.mark.parametrize("letter", ["é", "ü", "ж", "→", "–"])
def test_letters_beyond_ascii_are_drawn(letter):
    def drawn(text):
        font = text_font(letter)  # the box that stands for a letter the font lacks, in the same
        return font.getmask(text).getbbox(), bytes(font.getmask(text))

    assert drawn(letter) != drawn("\uffff")


def test_a_block_of_text_is_as_wide_as_its_longest_line():
    short, long = text_block(["a"]), text_block(["a", "a much longer line"])
    assert long.height == 2 * short.height == 2 * TEXT_LINE_PX
    assert long.width > short.width
    assert inked(long).max() >= long.width - 3


def test_a_key_shows_its_colours_from_left_to_right():
    colors = np.array([[255, 0, 0], [0, 0, 255]], np.uint8)
    key = np.asarray(color_key({"less to more": colors}, 300))
    rows, reds = np.nonzero((key == colors[0]).all(axis=2))
    _, blues = np.nonzero((key == colors[1]).all(axis=2))
    assert reds.min() == 0
    assert reds.max() + 1 == blues.min()
    assert len(np.unique(rows)) * len(np.unique(reds)) == len(reds)
    assert inked(key).max() > blues.max() + GAP_PX  # the text


def test_a_palette_has_no_more_colours_than_asked_for():
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)
    page = Image.fromarray(noise)
    whole = Image.open(io.BytesIO(png_bytes(page)))
    np.testing.assert_array_equal(np.asarray(whole), noise)
    few = np.asarray(Image.open(io.BytesIO(png_bytes(page, 16))).convert("RGB"))
    assert len(np.unique(few.reshape(-1, 3), axis=0)) <= 16
