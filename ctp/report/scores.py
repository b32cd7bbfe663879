"""Which classes a classifier takes for which: the confusion matrix as a picture, and a table by
class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib import colormaps
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from ctp.report.html import (
    GAP_PX,
    INK,
    MARGIN_PX,
    PAPER,
    TEXT_LINE_PX,
    TEXT_PX,
    Picture,
    color_key,
    png_bytes,
    text_block,
    text_font,
)

Counts = NDArray[np.int64]
Shares = NDArray[np.float64]

_MATRIX_PX = 1400
_CELL_PX = range(3, 41)
_SMALLEST_MATRIX_PX = 240
_NAME_CELL_PX, _SHARE_CELL_PX = 9, 26
"""Cells from which on names fit beside them, and shares in them."""
_NAME_LENGTH = 36
_NUMBERED_CLASSES = 25
"""Where names do not fit, each so many-th class has its number."""
_RIGHT, _WRONG = "Blues", "Oranges"
_NEVER, _NO_VIDEOS = (247, 248, 249), (209, 213, 219)
_KEY_PX = 250


@dataclass(frozen=True)
class ClassScore:
    """How a class fares.

    Attributes:
        name: the class.
        right, total: its videos that are taken for it, and all of them.
        taken_for: the other class that most of its videos are taken for, or None.
        taken_for_count: how many those are.
    """

    name: str
    right: int
    total: int
    taken_for: str | None
    taken_for_count: int

    @property
    def accuracy(self) -> float | None:
        """The share that is right; None for a class without videos."""
        return self.right / self.total if self.total else None


@dataclass(frozen=True)
class Confusion:
    """`count` of the `total` videos of class number `true` are taken for class `predicted`."""

    true: int
    predicted: int
    count: int
    total: int


def class_scores(counts: Counts, class_names: Sequence[str]) -> list[ClassScore]:
    """Score each class, in the order of their names.

    Args:
        counts: int64 [C, C], videos by true class (row) and predicted class (column).
        class_names: C of them.

    Raises:
        ValueError: the counts are no such matrix.
    """
    _check(counts, class_names)
    wrong = counts - np.diag(np.diag(counts))
    return [
        ClassScore(
            name,
            int(counts[row, row]),
            int(counts[row].sum()),
            class_names[int(wrong[row].argmax())] if wrong[row].any() else None,
            int(wrong[row].max()),
        )
        for row, name in enumerate(class_names)
    ]


def class_table(counts: Counts, class_names: Sequence[str]) -> str:
    """The scores of all classes as a Markdown table, the worst class first.

    Raises:
        ValueError: as `class_scores`.
    """
    scores = class_scores(counts, class_names)
    # classes without videos come last
    scores.sort(key=lambda score: 2.0 if score.accuracy is None else score.accuracy)
    lines = [
        "| class | videos | right | accuracy | most often taken for |",
        "|---|--:|--:|--:|---|",
    ]
    return "\n".join([*lines, *map(_table_line, scores)]) + "\n"


def confusions(counts: Counts) -> list[Confusion]:
    """The pairs of classes of which one is taken for the other, the most frequent first.

    Args:
        counts: int64 [C, C], as in `class_scores`.
    """
    totals = counts.sum(axis=1)
    wrong = counts - np.diag(np.diag(counts))
    found = [
        Confusion(int(true), int(predicted), int(counts[true, predicted]), int(totals[true]))
        for true, predicted in np.argwhere(wrong)
    ]
    return sorted(found, key=lambda pair: (-pair.count, pair.total))


def confusion_png(counts: Counts, class_names: Sequence[str], title: str = "") -> bytes:
    """A PNG of the confusion matrix, each row in shares of its class's videos.

    Right answers are blue, wrong ones orange; a class without videos is a grey row. Names stand
    beside the cells, and percentages in them, where there is room. The most frequent confusions
    are listed.

    Args:
        counts: int64 [C, C], as in `class_scores`.
        class_names: C of them.
        title: above all; nothing if empty.

    Raises:
        ValueError: as `class_scores`.
    """
    _check(counts, class_names)
    cell_px = _cell_px(len(counts))
    labels, matrix = _labels(class_names, cell_px), _matrix(counts, cell_px)
    beside = _beside(counts, class_names, cell_px)
    head = text_block([line for line in (title, _summary(counts)) if line])
    x, y = MARGIN_PX + labels.width + GAP_PX, MARGIN_PX + head.height + GAP_PX
    right, below = x + matrix.width + MARGIN_PX, y + matrix.height + GAP_PX
    width = max(right + beside.width, MARGIN_PX + head.width)
    height = max(below + labels.width, y + beside.height)
    page = Image.new("RGB", (width + MARGIN_PX, height + MARGIN_PX), PAPER)
    page.paste(head, (MARGIN_PX, MARGIN_PX))
    page.paste(labels, (MARGIN_PX, y))
    page.paste(matrix, (x, y))
    page.paste(labels.rotate(90, expand=True), (x, below))
    page.paste(beside, (right, y))
    return png_bytes(page)


def _check(counts: Counts, class_names: Sequence[str]) -> None:
    wanted = (len(class_names), len(class_names))
    if counts.shape != wanted or not len(class_names):
        raise ValueError(
            f"counts are {list(counts.shape)} for {len(class_names)} class names; a row and a "
            "column are needed for each name, and one name at least"
        )
    if counts.min() < 0 or not np.issubdtype(counts.dtype, np.integer):
        raise ValueError(f"counts are numbers of videos; got {counts.dtype} from {counts.min()} on")


def _table_line(score: ClassScore) -> str:
    accuracy = "–" if score.accuracy is None else f"{score.accuracy:.1%}"
    other = "" if score.taken_for is None else f"{score.taken_for} ({score.taken_for_count})"
    cells = (score.name, str(score.total), str(score.right), accuracy, other)
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _cell_px(num_classes: int) -> int:
    room = _MATRIX_PX // num_classes
    within = min(max(room, _CELL_PX[0]), _CELL_PX[-1])
    return max(within, -(-_SMALLEST_MATRIX_PX // num_classes))


def _shares(counts: Counts) -> Shares:
    """float64 [C, C], each row in shares of its sum; nan in a row of zeros."""
    totals = counts.sum(axis=1, keepdims=True)
    shares: Shares = np.full(counts.shape, np.nan)
    np.divide(counts, totals, out=shares, where=totals > 0)
    return shares


def _summary(counts: Counts) -> str:
    shares, total = np.diag(_shares(counts)), int(counts.sum())
    seen = shares[~np.isnan(shares)]
    if not len(seen):
        return "no videos"
    return (
        f"{total:,} videos of {len(seen)} classes: {np.trace(counts) / total:.1%} right, "
        f"{seen.mean():.1%} as the mean of classes"
    )


def _matrix(counts: Counts, cell_px: int) -> Image.Image:
    shares = _shares(counts)
    colors = np.where(np.eye(len(counts), dtype=bool)[..., None],
                      _colors(shares, _RIGHT), _colors(shares, _WRONG))  # fmt: skip
    colors[shares == 0] = _NEVER
    colors[np.isnan(shares)] = _NO_VIDEOS
    pixels = colors.repeat(cell_px, axis=0).repeat(cell_px, axis=1)
    if cell_px >= _NAME_CELL_PX:  # lines between cells, to follow a row or a column
        pixels[::cell_px] = pixels[:, ::cell_px] = PAPER
    matrix = Image.fromarray(pixels)
    if cell_px >= _SHARE_CELL_PX:
        _write_shares(matrix, shares, cell_px)
    return matrix


def _colors(shares: Shares, name: str) -> Picture:
    """uint8 [..., 3]; by the root, or a few wrong ones among many classes could not be seen."""
    return (255 * colormaps[name](np.sqrt(np.nan_to_num(shares)))[..., :3]).round().astype(np.uint8)


def _write_shares(matrix: Image.Image, shares: Shares, cell_px: int) -> None:
    draw = ImageDraw.Draw(matrix)
    for row, column in np.argwhere(shares > 0):
        share = float(shares[row, column])
        color = PAPER if share > 0.4 else INK
        middle = (cell_px * (column + 0.5), cell_px * (row + 0.5))
        text = f"{100 * share:.0f}"
        font = text_font(text, min(cell_px // 2 - 2, TEXT_PX))
        draw.text(middle, text, fill=color, font=font, anchor="mm")


def _labels(class_names: Sequence[str], cell_px: int) -> Image.Image:
    """What stands beside the rows, as high as they; turned by a quarter, below the columns."""
    texts = _label_texts(class_names, cell_px)
    size_px = min(cell_px - 1, TEXT_PX) if cell_px >= _NAME_CELL_PX else TEXT_PX - 3
    fonts = [text_font(text, size_px) for text in texts]
    width = max(int(font.getlength(text)) for font, text in zip(fonts, texts, strict=True)) + 4
    strip = Image.new("RGB", (width, cell_px * len(texts)), PAPER)
    draw = ImageDraw.Draw(strip)
    for number, (font, text) in enumerate(zip(fonts, texts, strict=True)):
        place = (width - 2, cell_px * (number + 0.5))
        draw.text(place, text, fill=INK, font=font, anchor="rm")
    return strip


def _label_texts(class_names: Sequence[str], cell_px: int) -> list[str]:
    """The names, or where they do not fit, the numbers of some classes."""
    if cell_px >= _NAME_CELL_PX:
        return [_shortened(name) for name in class_names]
    numbers = range(len(class_names))
    return [str(n) if n and n % _NUMBERED_CLASSES == 0 else "" for n in numbers]


def _shortened(name: str) -> str:
    """A name without its middle, if it is too long: some differ at the front, some at the end."""
    if len(name) <= _NAME_LENGTH:
        return name
    half = (_NAME_LENGTH - 3) // 2
    return f"{name[:half]}...{name[-half:]}"


def _beside(counts: Counts, class_names: Sequence[str], cell_px: int) -> Image.Image:
    """What the colours mean, and as many confusions as there is room for beside the matrix."""
    lines = ["rows: true class", "columns: what it is taken for"]
    if not counts.sum(axis=1).all():
        lines.append("grey: no videos")
    bar = np.linspace(0, 1, 120)
    bars = {"right, 0 to 100%": _colors(bar, _RIGHT), "wrong, 0 to 100%": _colors(bar, _WRONG)}
    key = color_key(bars, _KEY_PX)
    room = (cell_px * len(counts) - key.height) // TEXT_LINE_PX - len(lines) - 3
    lines = ["", *lines, "", *_confusion_lines(counts, class_names, cell_px, max(room, 1))]
    text = text_block(lines)
    strip = Image.new("RGB", (max(key.width, text.width), key.height + text.height), PAPER)
    strip.paste(key, (0, 0))
    strip.paste(text, (0, key.height))
    return strip


def _confusion_lines(
    counts: Counts, class_names: Sequence[str], cell_px: int, room: int
) -> list[str]:
    names = [_shortened(name) for name in class_names]
    if cell_px < _NAME_CELL_PX:
        names = [f"{name} ({number})" for number, name in enumerate(names)]
    found = confusions(counts)[:room]
    lines = [f"{c.count} of {c.total}   {names[c.true]} → {names[c.predicted]}" for c in found]
    return ["most frequent:", *lines] if lines else ["none is taken for another"]
